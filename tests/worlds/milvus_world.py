"""Collections in files of Milvus Lite, filled from exports of given vectors; nothing is embedded."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from export_files import save_export
from unit_vectors_world import DIM

pytest.importorskip("milvus_lite", reason="needs the extra milvus")

from index.milvus.address import MilvusAddress, parse_milvus
from index.milvus.building import build_on_milvus
from index.milvus.collection import MilvusCollection
from index.table.studies import FINDINGS, id_fault, studies_schema
from index.vectors import Embeddings

HOSTILE = [
    '"',
    "'",
    "\\",
    '\\"',
    "%",
    "_",
    "a%b",
    "line\nbreak",
    "\r\n\t",
    "\x00\x07",
    "é漢🫁",
    "null",
    "true",
    "in",
    "$meta",
]
HOSTILE += ['" or study_id != "', "{x}", "a && b", "[1]", "ISO", " ", "", "x" * 300]
SEEN = [text for text in HOSTILE if not id_fault(f"p/{text}0", "study_id")]
BELOW_ROOT = [text for text in HOSTILE if text[:1] not in ("", "\\", "/")]
COUNT = 30
"""Studies of the collections that tests change."""
EXTRA = [
    pa.field("Etiology", pa.string()),
    pa.field('we"ird \\ näme\n', pa.string()),
    pa.field("not in", pa.int64()),
    pa.field("$meta", pa.float32()),
    pa.field("count(*)", pa.uint8()),
    pa.field("dose", pa.float64()),
]


def address_in(folder: Path, collection: str = "cases") -> MilvusAddress:
    """Return the address of a collection in a file of that folder."""
    return parse_milvus(f"milvus+file://{folder}/cases.db/{collection}")


def collection_of(
    address: MilvusAddress, folder: Path, studies: pa.Table, vectors: Embeddings, **options: Any
) -> MilvusCollection:
    """Return a collection of those studies, exported to a folder and inserted."""
    build_on_milvus(save_export(folder / "export", studies, vectors), address, **options)
    return MilvusCollection(address)


def hostile_studies(rng: np.random.Generator, count: int) -> pa.Table:
    """Return studies whose texts and column names are what an expression could trip over; ids as well."""

    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.2 else value

    def text() -> Any:
        return maybe(HOSTILE[rng.integers(len(HOSTILE))])

    rows = [
        {
            "study_id": f"p{number % 40}/{SEEN[number % len(SEEN)]}{number}",
            "patient_id": f"p{number % 40}",
            "frontal_path": f"{number}.png",
            "lateral_path": maybe(f"{number}l.png"),
            "other_paths": maybe([BELOW_ROOT[rng.integers(len(BELOW_ROOT))]] * int(rng.integers(3))),
            "projection": text(),
            "sex": text(),
            "age": maybe(float(np.float32(rng.choice([0.1, 40, 59.9, 60, 89])))),
            "split": text(),
            "Etiology": text(),
            EXTRA[1].name: text(),
            "not in": maybe(int(rng.choice([-(2**53), -1, 0, 7, 2**53]))),
            "$meta": maybe(float(np.float32(rng.choice([-1.5, 0.1, 1e30])))),
            "count(*)": maybe(int(rng.choice([0, 255]))),
            "dose": maybe(float(rng.choice([-1e308, 5e-324, 0.1, 2.0]))),
            **{name: maybe(int(rng.integers(-1, 2))) for name in FINDINGS},
        }
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, studies_schema(EXTRA))


def tied_vectors(rng: np.random.Generator, count: int) -> Embeddings:
    """Return unit vectors of which many are the same."""
    values = rng.normal(size=(max(count // 3, 1), DIM)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values[rng.integers(len(values), size=count)]
