"""Films with something to learn in them and trainers over them, for tests of training."""

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from encoder.training.film_store import FilmStore, TrainingStudies
from encoder.training.recipe import Recipe
from encoder.training.run_folder import METRICS
from encoder.training.trainer import Trainer
from index.table.studies import FINDINGS, save_studies, studies_schema

SMALL = (
    "encoder.backbone=test_efficientnet",
    "preprocessing.size=64",
    "run.batch_size=9",
    "run.epochs=3",
    "run.weights=none",
    "optimizer.precision=fp32",
    "optimizer.ema_decay=0.0",
    "schedule.kind=constant",
    "schedule.warmup_epochs=0.0",
    "targets.findings=['Lung Lesion', 'Edema']",
)
"""An epoch of two batches, one step each, at one learning rate."""

STILL = tuple(
    f"augmentation.{name}=0.0"
    for name in ("rotation", "shift", "scale", "brightness", "contrast", "hide_lateral", "hide_frontal")
)
PLAIN = ("loss.contrastive=0.0", "loss.per_view=0.0", "loss.head_start=0")
"""Nothing but cross-entropy on the embedding."""


def save_films(folder: Path, count: int = 24, seed: int = 3) -> list[Path]:
    """Return noisy films; a bright disc in the even ones."""
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        film = rng.integers(40, 90, size=(80, 80), dtype=np.uint8)
        if number % 2 == 0:
            cv2.circle(film, (40, 40), 22, 230, -1)
        cv2.imwrite(str(path), film)
    return paths


def trainer_of(
    films: list[Path], *changes: str, folder: Path | None = None, workers: int = 0, rest: int = 1, **fields: Any
) -> Trainer:
    """Return a trainer: 18 studies to learn from, 6 to judge by, a lateral for a third, discs known, edema never.

    Args:
        folder: of a file for the films; None keeps them in memory. workers, rest: as `Trainer` has them.
    """
    recipe = Recipe.load("phantom", [*SMALL, *changes])
    rows = np.arange(24)
    targets = np.stack([rows % 2 == 0, np.full(24, np.nan)], axis=1).astype(np.float32)
    lateral = np.where(rows % 3, -1, (rows + 2) % 24)
    given = {"frontal_rows": rows, "lateral_rows": lateral, "targets": targets, "patients": rows} | fields
    data = TrainingStudies(**given, target_names=("Lung Lesion", "Edema"), train=rows[:18], valid=rows[18:])
    store = FilmStore(films, recipe.preprocessing, cache_gb=0, folder=folder)
    return Trainer(recipe, store, data, workers=workers, rest=rest)


def save_collection(folder: Path, *, labels: dict[str, list[int | None]] | None = None, patients: int = 20) -> Path:
    """Write 40 studies, a lateral for a third, as studies.parquet; without `labels`, discs are lesions in every other.

    Studies 36 to 39 have no label at all.
    """
    rows = []
    frontals, laterals = save_films(folder, 40), save_films(_made(folder / "lateral"), 40, seed=4)
    given = labels or {"Lung Lesion": [None if number > 35 else 1 - number % 2 for number in range(40)]}
    for number, (frontal, lateral) in enumerate(zip(frontals, laterals, strict=True)):
        patient = f"patient{number % patients:05d}"
        rows.append(
            dict.fromkeys(studies_schema().names)
            | {name: given[name][number] if name in given else None for name in FINDINGS}
            | {"study_id": f"{patient}/study{number}", "patient_id": patient, "other_paths": []}
            | {"frontal_path": frontal.name, "lateral_path": f"lateral/{lateral.name}" if number % 3 == 0 else None}
        )
    save_studies(pa.Table.from_pylist(rows, studies_schema()), folder / "studies.parquet")
    return folder


def train_words(folder: Path, *changes: str) -> list[str]:
    """Return the words of `precedent train` on a collection of `save_collection`, without --out."""
    small = [*SMALL[:-1], "targets.findings=['Lung Lesion']", "targets.blank=ignore", *changes]
    words = ["train", str(folder / "studies.parquet"), "--images", str(folder), "--recipe", "phantom"]
    return [*words, "--threads", "1", *(word for change in small for word in ("--set", change))]


def load_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.csv, one an epoch."""
    with (folder / METRICS).open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
