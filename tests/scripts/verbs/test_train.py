import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from encoder.errors import EncoderError
from encoder.network.checkpoint import load_encoder
from index.errors import CollectionError
from index.table.studies import FINDINGS, load_studies, save_studies, studies_schema
from scripts.verbs.preparing.train import command

SMALL = [
    "encoder.backbone=test_efficientnet",
    "preprocessing.size=64",
    "run.batch_size=8",
    "run.epochs=1",
    "run.weights=none",
]


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Return a folder of 40 studies of 20 patients, every third with a lateral, half of them with a lesion."""
    rng = np.random.default_rng(5)
    rows = []
    for number in range(40):
        for view in ("f", "l"):
            film = rng.integers(0, 255, size=(70, 70), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / f"{number}{view}.png"), film)
        rows.append(
            {name: None for name in studies_schema().names}
            | {name: None for name in FINDINGS}
            | {
                "study_id": f"patient{number // 2:05d}/study{number}",
                "patient_id": f"patient{number // 2:05d}",
                "frontal_path": f"{number}f.png",
                "lateral_path": f"{number}l.png" if number % 3 == 0 else None,
                "other_paths": [],
                "Lung Lesion": number // 2 % 2,
            }
        )
    save_studies(pa.Table.from_pylist(rows, studies_schema()), tmp_path / "studies.parquet")
    return tmp_path


def _train(folder: Path, *options: str) -> Result:
    changes = [word for change in SMALL for word in ("--set", change)]
    words = [str(folder / "studies.parquet"), "--images", str(folder), "--recipe", "phantom", *changes]
    return CliRunner().invoke(command, [*words, "--out", str(folder / "run"), *options], catch_exceptions=True)


def test_a_run_leaves_an_encoder_its_recipe_its_curve_and_its_split(collection: Path) -> None:
    result = _train(collection, "--json")

    report = json.loads(result.stdout)
    run = collection / "run"
    assert load_encoder(run / "encoder.safetensors")[1].size == 64
    assert report["policy"] == "labels: uncertain (-1) is ignored; blank counts as absent"
    assert set(json.loads((run / "splits.json").read_text())) == {"train", "valid", "test"}
    assert (run / "metrics.csv").read_text().count("\n") == 2
    parts = load_studies(run / "studies.parquet")
    of_patient: dict[str, set[str]] = {}
    for patient, part in zip(parts["patient_id"].to_pylist(), parts["split"].to_pylist(), strict=True):
        of_patient.setdefault(patient, set()).add(part)
    assert all(len(parts) == 1 for parts in of_patient.values())
    assert set().union(*of_patient.values()) == {"train", "valid", "test"}


def test_the_same_command_goes_on_and_a_finished_run_does_nothing_more(collection: Path) -> None:
    _train(collection)
    written = (collection / "run" / "encoder.safetensors").read_bytes()

    again = _train(collection)

    assert again.exit_code == 0
    assert "going on after epoch 1" in again.stderr
    assert (collection / "run" / "encoder.safetensors").read_bytes() == written


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        (("--set", "targets.findings=['Ghost']"), CollectionError, "Ghost"),
        (("--set", "targets.findings=['Edema']"), EncoderError, "positive label"),
        (("--set", "run.speed=3"), EncoderError, "expected keys of"),
        (("--weights", "ghost.safetensors"), EncoderError, "no weights file"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(
    collection: Path, options: tuple[str, ...], kind: type[Exception], sentence: str
) -> None:
    result = _train(collection, *options)

    assert isinstance(result.exception, kind)
    assert sentence in str(result.exception)


def test_a_film_that_is_no_image_ends_the_run_with_its_name(collection: Path) -> None:
    (collection / "3f.png").write_bytes(b"nothing")

    result = _train(collection)

    assert isinstance(result.exception, EncoderError)
    assert "3f.png" in str(result.exception)
