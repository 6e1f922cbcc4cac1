"""Finished exports made of given vectors, for tests of what reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from encoder.films.image import READING
from index.export.shards import ExportPlan, ShardFolder
from index.table.studies import FINDINGS, studies_schema
from index.vectors import Embeddings

Values = np.ndarray[Any, np.dtype[Any]]


def save_export(folder: Path, studies: pa.Table, vectors: Embeddings, fingerprint: str = "f") -> Path:
    """Write an export of two shards and return its folder."""
    rows = studies.num_rows
    plan = ExportPlan(
        fingerprint * (64 // len(fingerprint)), vectors.shape[1], "0" * 64, rows, -(-rows // 2), reading=READING
    )
    shards = ShardFolder(folder, plan)
    for shard in range(plan.shard_count):
        part = plan.slice_of(shard)
        table = studies.slice(part.start, part.stop - part.start)
        shards.save_shard(shard, table, [["frontal"]] * table.num_rows, vectors[part], [])
    shards.finish(image_root="")
    return folder


def planted(studies: pa.Table, finding: str, rng: np.random.Generator, strength: float = 1.0) -> Embeddings:
    """Return unit vectors (N, 16) of which the first number tells whether the finding is there."""
    vectors = rng.normal(size=(studies.num_rows, 16))
    vectors[:, 0] += 4 * strength * np.array([label == 1 for label in studies[finding].to_pylist()])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def drawn_studies(ill: Values, marked: Values, rng: np.random.Generator, patient: str = "p") -> pa.Table:
    """Return a study a patient, of Pneumonia or not, and in the column Marker marked or not; sex and age are drawn."""
    rows = [
        {
            "study_id": f"{patient}{row:04d}/study1",
            "patient_id": f"{patient}{row:04d}",
            "frontal_path": f"{row}.png",
            "lateral_path": None,
            "other_paths": [],
            "projection": "PA",
            "sex": ["Female", "Male"][int(rng.integers(2))],
            "age": float(rng.integers(1, 95)),
            "split": None,
            **dict.fromkeys(FINDINGS),
            "Pneumonia": int(ill[row]),
            "Marker": "yes" if marked[row] else "no",
        }
        for row in range(len(ill))
    ]
    return pa.Table.from_pylist(rows, studies_schema([pa.field("Marker", pa.string())]))


def save_drawn(folder: Path, rng: np.random.Generator, count: int, patient: str = "p", shift: float = 0.0) -> Path:
    """Write an export of drawn studies and return its folder; their vectors are moved along the first axis."""
    studies = drawn_studies(rng.random(count) < 0.4, rng.random(count) < 0.5, rng, patient)
    vectors = rng.normal(size=(count, 16)) + shift * np.eye(16)[0]
    return save_export(folder, studies, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
