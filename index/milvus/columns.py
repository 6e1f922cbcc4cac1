"""The columns of a studies table as fields of a Milvus collection, and rows of the one as entities of the other."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import ArtefactError, StudiesError

KEY, PATIENT, VECTOR, SAMPLE, DIGEST = "study_id", "patient_id", "embedding", "sample", "sha256"
MOST_BYTES = 65_535
"""Of a text: the most that Milvus takes."""
MOST_ITEMS = 4096
"""Of a list."""
MOST_FIELDS = 64
"""That a collection of Milvus may have; further columns become dynamic fields."""
_OURS = (VECTOR, SAMPLE, DIGEST)
_PLAIN = {KEY, PATIENT}
_INTEGERS = {pa.int8(): "INT8", pa.int16(): "INT16", pa.int32(): "INT32"}
_LIST = "list<string>"


@dataclass(frozen=True)
class Columns:
    """The columns of a collection and their fields: one Arrow schema, and one rule for names."""

    schema: pa.Schema

    @classmethod
    def from_json(cls, columns: list[list[str]]) -> Self:
        """Return the columns that `as_json` gave."""
        kinds = {_LIST: pa.list_(pa.string())}
        return cls(pa.schema([pa.field(name, kinds.get(kind) or pa.type_for_alias(kind)) for name, kind in columns]))

    def as_json(self) -> list[list[str]]:
        """Return names and types, in order."""
        return [[column.name, _LIST if pa.types.is_list(column.type) else str(column.type)] for column in self.schema]

    @cached_property
    def fields(self) -> dict[str, str]:
        """The field of each column. A column may be called anything, a field may not, and not as an operator is."""
        return {
            name: name if name in _PLAIN else f"c{number}_" + re.sub(r"[^A-Za-z0-9]+", "_", name)[:60].strip("_")
            for number, name in enumerate(self.schema.names)
        }

    @cached_property
    def typed(self) -> frozenset[str]:
        """The columns that have a field of their own type; lists all have, for a dynamic field holds no list."""
        lists = [column.name for column in self.schema if pa.types.is_list(column.type)]
        others = [name for name in self.schema.names if name not in lists]
        return frozenset([*lists, *others][: MOST_FIELDS - len(_OURS)])

    def as_collection(self, pymilvus: Any, embedding_dim: int) -> Any:
        """Return the schema of the Milvus collection."""
        kinds = pymilvus.DataType
        made = pymilvus.MilvusClient.create_schema(
            auto_id=False, enable_dynamic_field=len(self.typed) < len(self.schema.names)
        )
        text = {"datatype": kinds.VARCHAR, "max_length": MOST_BYTES}
        made.add_field(KEY, is_primary=True, **text)
        made.add_field(PATIENT, **text)
        made.add_field(VECTOR, kinds.FLOAT_VECTOR, dim=embedding_dim)
        made.add_field(SAMPLE, nullable=True, **text)
        made.add_field(DIGEST, **text | {"max_length": 64})
        for column in self.schema:
            if column.name in _PLAIN or column.name not in self.typed:
                continue
            if pa.types.is_list(column.type):
                made.add_field(
                    self.fields[column.name],
                    kinds.ARRAY,
                    element_type=kinds.VARCHAR,
                    max_capacity=MOST_ITEMS,
                    max_length=MOST_BYTES,
                )
            else:
                made.add_field(self.fields[column.name], nullable=True, **_kind_of(column.type, kinds, text))
        return made

    def as_entity(
        self, row: Mapping[str, Any], vector: npt.NDArray[np.float32], sample: str | None = None
    ) -> dict[str, Any]:
        """Return a study's row and vector (D,) as Milvus keeps them.

        Raises:
            StudiesError: a value that Milvus does not hold.
        """
        plain = {
            name: _plain(row.get(name), column, row)
            for name, column in zip(self.schema.names, self.schema, strict=True)
        }
        entity = {self.fields[name]: value for name, value in plain.items() if value is not None or name in self.typed}
        return entity | {VECTOR: vector.tolist(), SAMPLE: sample, DIGEST: self.digest(plain, vector)}

    def as_row(self, entity: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row that an entity of Milvus holds."""
        return {name: _read(entity.get(self.fields[name])) for name in self.schema.names}

    def digest(self, row: Mapping[str, Any], vector: npt.NDArray[np.float32]) -> str:
        """Return the SHA-256 of a row as Milvus keeps it, and of its vector (D,)."""
        text = json.dumps([row[name] for name in self.schema.names], ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode() + b"\0" + vector.astype("<f4").tobytes()).hexdigest()


def columns_of(manifest: Mapping[str, Any], address: object) -> Columns:
    """Return the columns that a collection's manifest lists. Raises ArtefactError: it lists none."""
    try:
        return Columns.from_json(manifest["columns"])
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise ArtefactError(f"{str(address)!r} has columns that Precedent did not write; index it anew") from error


def as_vector(entity: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Return the vector (D,) of an entity."""
    return np.asarray(entity[VECTOR], dtype=np.float32)


def _kind_of(kind: pa.DataType, kinds: Any, text: dict[str, Any]) -> dict[str, Any]:
    """Whole numbers and fractions keep every value; single precision is widened, so that bounds compare as in Arrow."""
    if pa.types.is_string(kind):
        return text
    if pa.types.is_floating(kind):
        return {"datatype": kinds.DOUBLE}
    return {"datatype": getattr(kinds, _INTEGERS.get(kind, "INT64"))}


def _plain(value: Any, field: pa.Field, row: Mapping[str, Any]) -> Any:
    """Return a value as Milvus keeps it: nothing that is not finite, which counts as null, and a list for no list."""
    if pa.types.is_list(field.type):
        value = list(value or ())
    elif value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    fault = _fault(value)
    if fault is not None:
        raise StudiesError(f"{row.get(KEY)!r}, column {field.name!r}: Milvus holds no {fault}; shorten or leave it out")
    return value


def _fault(value: Any) -> str | None:
    texts = value if isinstance(value, list) else [value]
    if len(texts) > MOST_ITEMS:
        return f"list of more than {MOST_ITEMS:,}"
    if any(isinstance(text, str) and len(text.encode()) > MOST_BYTES for text in texts):
        return f"text of more than {MOST_BYTES:,} bytes"
    if any(text is None for text in texts):
        return "null within a list"
    if isinstance(value, float) and math.isinf(value):
        return "infinite number"
    return "number of more than 63 bits" if isinstance(value, int) and not -(2**63) <= value < 2**63 else None


def _read(value: Any) -> Any:
    """pymilvus gives lists as its own sequences."""
    return value if value is None or isinstance(value, str | int | float) else list(value)
