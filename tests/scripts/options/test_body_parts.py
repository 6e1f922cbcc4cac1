"""Films whose header states a console's wrong default: every verb that reads films takes them where that is said."""

import csv
import io
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import done, refusal
from film_files import dicom
from flask.testing import FlaskClient
from training_films import save_collection, train_words

from service.loader import from_env

IGNORED = ("--ignore-body-part", "hand")
SMALL_ENCODER = ("--backbone", "test_efficientnet", "--dim", "256", "--weights", "none", "--size", "64")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films that are all said to show a hand, encoder, index and probe."""
    root = save_collection(tmp_path_factory.mktemp("hands"))
    for picture in root.glob("*.png"):
        film = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
        picture.write_bytes(dicom(film.astype(np.uint16), BodyPartExamined="HAND"))
    done("encoder", "create", *SMALL_ENCODER, "--out", root / "encoder.safetensors")
    read = ("--images", root, "--encoder", root / "encoder.safetensors", "--runtime", "torch", *IGNORED)
    done("export", root / "studies.parquet", *read, "--out", root / "embeddings")
    done("index", root / "embeddings", "--out", root / "index")
    done("probe", root / "embeddings", "--out", root / "probe", "--findings", "Lung Lesion", "--cv", "2")
    with (root / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["Path", "Finding", "x0", "y0", "x1", "y1"], ["0.png", "Lung Lesion", 9, 9, 40, 40]]
        )
    return root


def words_of(verb: str, world: Path, out: Path) -> list[str | Path]:
    """Return a command of the verb that reads a film of the world."""
    encoder, probe = ("--encoder", world / "encoder.safetensors"), ("--probe", world / "probe")
    film, images = ("--frontal", world / "0.png"), ("--images", world)
    table, index = world / "studies.parquet", world / "index"
    commands: dict[str, tuple[str | Path, ...]] = {
        "search": ("search", index, *film, *encoder),
        "predict": ("predict", index, *film, *encoder, *probe, "--maps", out),
        "explain": ("explain", *film, *encoder, *probe, "--finding", "Lung Lesion", "--no-trust", "--out", out),
        "explain of a stored one": (
            "explain",
            index,
            "--study",
            "patient00000/study0",
            *encoder,
            *probe,
            "--finding",
            "Lung Lesion",
            "--no-trust",
            "--out",
            out,
        ),
        "pointing": ("pointing", table, *images, "--boxes", world / "boxes.csv", *encoder, *probe),
        "train": (*train_words(world, "run.epochs=1"), "--out", out / "run"),
        "evaluate": ("evaluate", world / "embeddings", "--pixels", world, "--out", out, "--draws", "500"),
    }
    return list(commands[verb])


VERBS = ("search", "predict", "explain", "explain of a stored one", "pointing", "evaluate")
READERS = ("add", "evaluate", "explain", "export", "pointing", "predict", "search", "serve", "train")


@pytest.mark.parametrize("verb", [*VERBS, pytest.param("train", marks=pytest.mark.slow)])
def test_a_verb_takes_a_wrong_default_for_a_chest_where_that_is_said(verb: str, world: Path, tmp_path: Path) -> None:
    words = words_of(verb, world, tmp_path)

    assert "body part 'HAND' is not the chest" in refusal(*words)
    done(*words, *IGNORED)


@pytest.mark.parametrize("verb", [*READERS, "encoder quantize", "import dicom"])
def test_every_verb_that_reads_films_has_the_option(verb: str) -> None:
    assert "--ignore-body-part VALUE" in done(*verb.split(), "--help").stdout


def client_of(world: Path, **further: str) -> FlaskClient:
    named = {"INDEX": world / "index", "ENCODER": world / "encoder.safetensors", "PROBE": world / "probe"}
    environ = {f"PRECEDENT_{name}": str(path) for name, path in (named | {"IMAGES": world}).items()}
    return from_env(environ | further).test_client()


def test_a_service_takes_it_for_a_chest_wherever_a_film_is_read(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "copy")
    client = client_of(tmp_path / "copy", PRECEDENT_IGNORE_BODY_PARTS="ABDOMEN, hand")
    film = (world / "1.png").read_bytes()

    def posted(path: str, **form: str) -> int:
        return client.post(path, data={"frontal": (io.BytesIO(film), "film.dcm"), **form}).status_code

    assert posted("/v1/search") == posted("/v1/embeddings") == posted("/v1/predict", tta="true") == 200
    assert posted("/v1/explain", finding="Lung Lesion", trust="false") == 200
    assert posted("/") == 303
    for address in ("/film/patient00001/study1", "/v1/studies/patient00001/study1/image"):
        assert client.get(address, query_string={"view": "frontal"}).status_code == 200
    study = json.dumps({"study_id": "patient00099/study1", "patient_id": "patient00099"})
    assert posted("/v1/studies", study=study) == 201


def test_a_service_that_was_not_told_refuses_it(world: Path) -> None:
    answer = client_of(world).post("/v1/search", data={"frontal": (io.BytesIO((world / "1.png").read_bytes()), "f")})

    assert answer.status_code == 422
    assert "body part 'HAND'" in answer.get_json()["error"]["message"]
