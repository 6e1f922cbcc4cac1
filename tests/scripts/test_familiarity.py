"""Whether what is no chest film is told, by header, colour or looks, and what the collection's own kind suffers."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from command_line import done, refusal
from film_files import called_chest
from folders import ROOT

from encoder.embedder import Embedder
from encoder.films.layout import study_layouts
from index.built.collection import Collection, load_collection
from index.search.familiarity import FamiliarityGate
from index.table.studies import load_studies, save_studies

ENCODER = ROOT / "scripts" / "demo_encoder.safetensors"


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a drawn colour photograph, a sun over hills and a sign with words, and the same in grey."""
    folder = tmp_path_factory.mktemp("photograph")
    across, down = np.meshgrid(np.linspace(0, 1, 400), np.linspace(0, 1, 300))
    sky = np.stack([230 - 60 * down, 150 + 60 * down, 60 + 120 * down], axis=2)
    hills = down > 0.6 + 0.12 * np.sin(9 * across)
    scene = np.where(hills[..., None], np.stack([40 + 0 * down, 120 - 60 * down, 60 + 40 * across], axis=2), sky)
    picture = np.ascontiguousarray(np.rint(scene), dtype=np.uint8)
    cv2.circle(picture, (310, 60), 34, (60, 220, 250), -1)
    cv2.rectangle(picture, (60, 170), (210, 250), (40, 40, 200), -1)
    cv2.putText(picture, "CAMP", (72, 225), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 255, 255), 3)
    cv2.imwrite(str(folder / "colour.jpg"), picture)
    cv2.imwrite(str(folder / "grey.jpg"), cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
    return folder / "colour.jpg", folder / "grey.jpg"


def index_of(studies: Path, films: Path) -> Path:
    folder = studies.parent
    done("export", studies, "--images", films, "--encoder", ENCODER, "--out", folder / "embeddings")
    done("index", folder / "embeddings", "--out", folder / "index")
    return folder / "index"


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the films of 36 simulated patients and the index of the first 24."""
    folder = tmp_path_factory.mktemp("phantoms")
    films = folder / "films"
    done("phantom", "--patients", 36, "--seed", 11, "--jobs", 1, "--out", films)
    done("import", "chexpert", films / "train.csv", "--images", films, "--out", folder / "all.parquet")
    studies = load_studies(folder / "all.parquet")
    known = pa.compute.less_equal(studies["patient_id"], "patient00024")
    save_studies(studies.filter(known), folder / "studies.parquet")
    save_studies(studies.filter(pa.compute.invert(known)), folder / "unseen.parquet")
    index_of(folder / "studies.parquet", films)
    return folder


class Gate:
    """The gate of a collection, asked with films."""

    def __init__(self, collection: Collection) -> None:
        self.embedder, self.gate = Embedder.load(ENCODER, device="cpu"), FamiliarityGate.build(collection)

    def unfamiliar(self, frontal: Path | bytes | None, lateral: Path | None = None) -> bool:
        found = self.gate.judge(None, study_layouts(self.embedder.read_films(frontal, lateral)))
        assert found is not None
        return found.unfamiliar

    def share_flagged(self, studies: Sequence[dict[str, str]], root: Path) -> float:
        films = [
            [root / path if (path := one[f"{view}_path"]) else None for view in ("frontal", "lateral")]
            for one in studies
        ]
        return float(np.mean([self.unfamiliar(*pair) for pair in films]))


def test_films_of_other_body_parts_are_refused_by_their_header(phantoms: Path, shared_data: Path) -> None:
    for film in sorted((shared_data / "dicom" / "not-chest").glob("*.dcm")):
        line = refusal("search", phantoms / "index", "--frontal", film, "--encoder", ENCODER)
        assert "is not the chest" in line


def test_films_of_other_body_parts_look_unfamiliar_to_phantoms(phantoms: Path, shared_data: Path) -> None:
    gate = Gate(load_collection(phantoms / "index"))
    films = sorted((shared_data / "dicom" / "not-chest").glob("*.dcm"))

    assert len(films) == 6
    assert [film.name for film in films if not gate.unfamiliar(called_chest(film))] == []


def test_a_colour_photograph_is_refused_and_its_grey_copy_unfamiliar(
    phantoms: Path, photograph: tuple[Path, Path]
) -> None:
    colour, grey = photograph
    words = ["search", phantoms / "index", "--encoder", ENCODER, "--frontal"]
    found = json.loads(done(*words, grey, "--where", "age>=0", "--json").stdout)["familiarity"]

    assert "got a colour picture" in refusal(*words, colour)
    assert (found["unfamiliar"], found["measure"], found["bar"]) == (True, "layout", 1.0)
    assert "UNFAMILIAR (below 1 %): it may not be a chest film" in done(*words, grey).stdout.replace("\n", " ")


def test_a_turned_film_is_unfamiliar_and_unseen_ones_of_the_kind_hardly_ever(phantoms: Path, tmp_path: Path) -> None:
    gate = Gate(load_collection(phantoms / "index"))
    unseen = load_studies(phantoms / "unseen.parquet").to_pylist()
    upright = cv2.imread(str(phantoms / "films" / unseen[0]["frontal_path"]), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "turned.png"), np.rot90(upright))

    assert gate.unfamiliar(tmp_path / "turned.png")
    assert gate.share_flagged(unseen, phantoms / "films") <= 0.12


@pytest.mark.parametrize(
    "name", [pytest.param("kermany", marks=pytest.mark.long), pytest.param("covid", marks=pytest.mark.slow)]
)
def test_real_collections_flag_what_is_no_chest_and_few_of_their_own(
    name: str, shared_data: Path, photograph: tuple[Path, Path], tmp_path: Path
) -> None:
    words = [shared_data / name / "train.csv", "--images", shared_data, "--out", tmp_path / "all.parquet"]
    done("import", "chexpert", *words)
    studies = load_studies(tmp_path / "all.parquet")
    patients = np.unique(studies["patient_id"].to_numpy())
    known = pa.compute.is_in(studies["patient_id"], pa.array(patients[::2]))
    save_studies(studies.filter(known).slice(0, 600), tmp_path / "studies.parquet")
    gate = Gate(load_collection(index_of(tmp_path / "studies.parquet", shared_data)))
    films = sorted((shared_data / "dicom" / "not-chest").glob("*.dcm"))

    assert [film.name for film in films if not gate.unfamiliar(called_chest(film))] == []
    assert gate.unfamiliar(photograph[1])
    assert gate.share_flagged(studies.filter(pa.compute.invert(known)).slice(0, 300).to_pylist(), shared_data) <= 0.03
