"""A collection of simulated films on disk, with all that `precedent serve` takes, and the server over it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from export_files import save_export

from encoder.embedder import Embedder
from encoder.findings.probe import LinearProbe
from encoder.network.checkpoint import save_encoder
from index.built.collection import build_collection
from index.built.map import build_map
from index.table.studies import FINDINGS, studies_schema
from scripts.benches.clients import Server, running
from scripts.benches.films import draw

STUDIES = 24


def save_world(root: Path, embedder: Embedder, studies: int = STUDIES, side: int = 96) -> Path:
    """Write films, index, map, probe and encoder into a folder and return it."""
    rng = np.random.default_rng(5)
    rows = []
    for number in range(studies):
        cv2.imwrite(str(root / f"{number}.png"), draw((side, side), 255, rng))
        labels = {name: [1, 0, -1, None][(number + place) % 4] for place, name in enumerate(FINDINGS)}
        row = dict.fromkeys(studies_schema().names) | labels
        row |= {"study_id": f"patient{number // 2:05d}/study{number % 2}", "patient_id": f"patient{number // 2:05d}"}
        rows.append(row | {"frontal_path": f"{number}.png", "other_paths": [], "sex": "Female", "age": 20.0 + number})
    table = pa.Table.from_pylist(rows, studies_schema())
    vectors = np.stack([embedder.embed_study(root / row["frontal_path"], None) for row in rows])
    save_encoder(root / "encoder.safetensors", embedder.encoder, embedder.preprocessing)
    _save_index(root, table, vectors, embedder.fingerprint)
    return root


def _save_index(root: Path, table: pa.Table, vectors: np.ndarray, fingerprint: str) -> None:
    export = save_export(root / "export", table, vectors, fingerprint)
    build_collection(export, root / "index")
    build_map(root / "index")
    targets = np.stack([np.arange(len(vectors)) % 2, np.arange(len(vectors)) % 3 == 0], axis=1).astype(np.float32)
    folds = np.arange(len(vectors)) // 2 % 3
    probe = LinearProbe.fit(vectors, targets, ["Edema", "Fracture"], folds=folds, fingerprint=fingerprint)
    probe.calibrated(vectors, targets).save(root / "probe")


@contextmanager
def serving(root: Path, *words: str) -> Iterator[Server]:
    """Serve the folder on a port of its own until the end."""
    given = [root / "index", "--encoder", root / "encoder.safetensors", "--images", root, "--probe", root / "probe"]
    with running([*map(str, given), "--port", "0", *words]) as server:
        yield server
