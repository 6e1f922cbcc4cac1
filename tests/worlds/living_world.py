"""Studies to add to a collection, and indexes on disk to add them to; nothing is embedded, vectors are drawn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from unit_vectors_world import DIM

from encoder.films.image import READING
from index.built.collection import save_collection
from index.built.vector_index import VectorIndex
from index.living.additions import Addition, as_rows
from index.living.collection import LivingCollection
from index.living.generation import Generation
from index.table.studies import FINDINGS, Study, studies_schema
from index.vectors import Embeddings

FINGERPRINT = "f" * 64
SCHEMA = studies_schema([pa.field("Etiology", pa.string())]).append(pa.field("views", pa.list_(pa.string())))


def units(rng: np.random.Generator, count: int, dim: int = DIM) -> Embeddings:
    """Return (count, dim) unit vectors."""
    values = rng.normal(size=(count, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def unit(rng: np.random.Generator, dim: int = DIM) -> Embeddings:
    """Return a unit vector (dim,)."""
    return units(rng, 1, dim)[0]


def addition(study_id: str, vector: Embeddings, rng: np.random.Generator | None = None) -> Addition:
    """Return a study to add: a woman of 60 with an edema, or as chance has it."""
    sex, age, edema = ("Female", 60.0, 1)
    if rng is not None:
        sex, age, edema = ("Female", "Male")[rng.integers(2)], float(rng.integers(1, 90)), int(rng.integers(-1, 2))
    study = Study(
        study_id,
        study_id.split("/")[0],
        f"{study_id}/view1_frontal.png",
        sex=sex,
        age=age,
        projection="PA",
        findings=dict.fromkeys(FINDINGS) | {"Edema": edema},
        extra={"Etiology": None},
    )
    return Addition(study, ("frontal",), vector)


def build(folder: Path, studies: pa.Table, vectors: Embeddings, kind: str = "flat") -> Path:
    """Return the folder of an index of studies and their vectors."""
    folder.mkdir(parents=True)
    facts = {"fingerprint": FINGERPRINT, "image_root": None, "reading": READING}
    save_collection(folder, VectorIndex.build(vectors, kind), studies, None, **facts)
    return folder


def build_of(folder: Path, given: Sequence[Addition], kind: str = "flat") -> Path:
    """Return the folder of an index of those studies."""
    rows = as_rows(given, SCHEMA)
    return build(folder, pa.Table.from_pylist(rows, SCHEMA), np.stack([one.embedding for one in given]), kind)


def ids_of(living: LivingCollection | Generation) -> list[str]:
    """Return the ids of the studies that are there now, in order."""
    return sorted(one for part in living.now()._parts for one in part._studies["study_id"].to_pylist() if one in part)
