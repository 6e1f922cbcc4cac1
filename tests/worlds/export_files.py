"""Finished exports made of given vectors, for tests of what reads them."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from encoder.films.image import READING
from index.export.shards import ExportPlan, ShardFolder
from index.vectors import Embeddings


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
