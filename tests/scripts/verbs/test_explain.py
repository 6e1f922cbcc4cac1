"""`precedent explain` and `precedent pointing` on a small simulated collection."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import done, refusal, save_tiny_encoder

from scripts.cli import precedent
from service.api.answers import ExplainAnswer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films, boxes, studies, a tiny encoder, an index and a probe."""
    root = tmp_path_factory.mktemp("explain")
    done("phantom", "--patients", "16", "--seed", "4", "--out", root)
    done("import", "chexpert", root / "train.csv", "--images", root, "--out", root / "studies.parquet")
    save_tiny_encoder(root / "encoder.safetensors", "--fit", "letterbox")
    films = [root / "studies.parquet", "--images", root, "--encoder", root / "encoder.safetensors"]
    done("export", *films, "--out", root / "embeddings")
    done("index", root / "embeddings", "--out", root / "index")
    done("probe", root / "embeddings", "--cv", "2", "--findings", "Pleural Effusion,Edema", "--out", root / "probe")
    return root


def test_a_similarity_leaves_maps_of_both_sides_and_their_trust(world: Path, tmp_path: Path) -> None:
    words = [world / "index", "--encoder", world / "encoder.safetensors", "--out", tmp_path / "maps"]

    printed = done("explain", *words, "--study", "patient00001/study1", "--hit", "patient00002/study1", "--json")

    answer = json.loads(printed.stdout)
    assert answer == json.loads((tmp_path / "maps" / "explanation.json").read_text())
    assert list(answer) == list(ExplainAnswer.model_fields)  # the keys that HTTP answers
    assert {saved["side"] for saved in answer["maps"]} == {"query", "hit"}
    assert -1 <= answer["value"] <= 1
    for saved in answer["maps"]:
        picture = cv2.imread(saved["file"])
        heat = np.load(saved["file"].replace(".png", ".npy"))
        assert picture.shape[:2] == heat.shape == (saved["height"], saved["width"])
        assert None not in [saved[score] for score in ("deletion", "insertion", "random_deletion", "random_insertion")]


def test_a_finding_of_a_film_outside_the_index_can_be_explained(world: Path, tmp_path: Path) -> None:
    film = next((world / "train").glob("patient00003/study1/view1_frontal.jpg"))
    words = ["--encoder", world / "encoder.safetensors", "--probe", world / "probe", "--finding", "Edema"]

    printed = done("explain", *words, "--frontal", film, "--method", "layercam", "--stage", "2", "--out", tmp_path)

    assert "logit of Edema" in printed.stdout
    assert "probability while the hottest parts are blurred" in printed.stdout
    assert (tmp_path / "query_frontal.png").is_file()


def test_a_stored_study_whose_film_is_gone_is_told(world: Path, tmp_path: Path) -> None:
    gone = world / "train/patient00005/study1/view1_frontal.jpg"
    content = gone.read_bytes()
    gone.unlink()
    words = [world / "index", "--encoder", world / "encoder.safetensors", "--out", tmp_path]
    try:
        line = refusal("explain", *words, "--study", "patient00005/study1", "--hit", "patient00001/study1")
    finally:
        gone.write_bytes(content)
    assert "patient00005/study1/view1_frontal.jpg" in line


def test_films_that_have_moved_are_found_under_another_root(world: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(world)
    words = [world / "index", "--encoder", world / "encoder.safetensors", "--no-trust", "--json"]
    words += ["--study", "patient00001/study1", "--hit", "patient00002/study1", "--out", tmp_path / "maps"]

    answer = json.loads(done("explain", *words, "--images", tmp_path / "moved").stdout)

    assert {saved["deletion"] for saved in answer["maps"]} == {None}
    assert "elsewhere" in refusal("explain", *words, "--images", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--hit", "patient00002/study1"], "give either --study, or --frontal"),
        (["--study", "patient00001/study1"], "give either --finding with --probe, or --hit"),
        (["--study", "patient00001/study1", "--finding", "Edema"], "give either --finding with --probe, or --hit"),
        (["--frontal", "film.png", "--hit", "patient00002/study1"], "a stored study needs INDEX"),
    ],
)
def test_what_is_not_fully_asked_is_told(world: Path, words: list[str], sentence: str) -> None:
    asked = ["explain", "--encoder", str(world / "encoder.safetensors"), "--out", "maps", *words]
    result = CliRunner().invoke(precedent, asked)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())


def test_pointing_counts_every_boxed_film_beside_chance(world: Path) -> None:
    words = [world / "studies.parquet", "--images", world, "--boxes", world / "boxes.csv", "--json"]

    printed = done("pointing", *words, "--encoder", world / "encoder.safetensors", "--probe", world / "probe")

    figures = json.loads(printed.stdout)["findings"]
    boxed = {line.split(",")[0] for line in (world / "boxes.csv").read_text().splitlines() if ",Edema," in line}
    assert figures["Edema"]["films"] == len(boxed)
    for one in figures.values():
        assert 0 <= one["low"] <= one["share"] <= one["high"] <= 1
        assert 0 < one["chance"] < 1


def test_boxes_of_another_layout_are_refused(world: Path) -> None:
    words = [world / "studies.parquet", "--images", world, "--boxes", world / "train.csv"]
    line = refusal("pointing", *words, "--encoder", world / "encoder.safetensors", "--probe", world / "probe")
    assert "expected columns Path, Finding, x0, y0, x1, y1" in line


def test_the_films_of_a_copied_index_are_opened_where_they_are_named_or_trusted_alone(
    world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world / "index", tmp_path / "given")
    words = ["explain", tmp_path / "given", "--encoder", world / "encoder.safetensors", "--out", tmp_path / "maps"]
    words += ["--study", "patient00001/study1", "--hit", "patient00002/study1", "--no-trust"]
    assert f"films lie below {str(world)!r}" in refusal(*words)

    done(*words, "--images", world)
    done(*words, "--trust-collection")


def test_a_film_that_leads_out_of_the_image_root_is_not_opened(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "train" / "patient00001", tmp_path / "films" / "train" / "patient00001")
    (tmp_path / "films" / "train" / "patient00002").symlink_to(world / "train" / "patient00002")
    words = ["explain", world / "index", "--encoder", world / "encoder.safetensors", "--out", tmp_path / "maps"]
    words += ["--study", "patient00001/study1", "--hit", "patient00002/study1", "--images", tmp_path / "films"]

    assert "leads out of it" in refusal(*words)
