"""The columns of a studies table as an engine keeps them: names that it takes, values that it holds, and digests."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import ArtefactError, StudiesError

KEY, PATIENT, VECTOR, SAMPLE, DIGEST = "study_id", "patient_id", "embedding", "sample", "sha256"
MOST_BYTES = 65_535
"""Of a text: the most that Milvus takes."""
MOST_ITEMS = 4096
"""Of a list."""
_PLAIN = {KEY, PATIENT}
_LIST = "list<string>"


@dataclass(frozen=True)
class Columns:
    """The columns of a collection and their fields: one Arrow schema, and one rule for names."""

    schema: pa.Schema
    engine: ClassVar[str]
    """The engine's own name."""

    @classmethod
    def from_json(cls, columns: list[list[str]]) -> Self:
        """Return the columns that `as_json` gave."""
        kinds = {_LIST: pa.list_(pa.string())}
        return cls(pa.schema([pa.field(name, kinds.get(kind) or pa.type_for_alias(kind)) for name, kind in columns]))

    @classmethod
    def of(cls, manifest: Mapping[str, Any], address: object) -> Self:
        """Return the columns that a collection's manifest lists. Raises ArtefactError: it lists none."""
        try:
            return cls.from_json(manifest["columns"])
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise ArtefactError(f"{str(address)!r} has columns that Precedent did not write; index it anew") from error

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

    def plain(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a study's row as engines keep it. Raises StudiesError: a value that this one does not hold."""
        return {column.name: self._plain(row.get(column.name), column, row) for column in self.schema}

    def digest(self, row: Mapping[str, Any], vector: npt.NDArray[np.float32]) -> str:
        """Return the SHA-256 of a row as `plain` gives it, and of its vector (D,)."""
        text = json.dumps([row[name] for name in self.schema.names], ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode() + b"\0" + vector.astype("<f4").tobytes()).hexdigest()

    def fault_of(self, row: Mapping[str, Any]) -> str | None:
        """Return the first column that holds what its type does not; None of a row that could have been written."""
        return next((column.name for column in self.schema if not _is_of(column.type, row[column.name])), None)

    def _plain(self, value: Any, field: pa.Field, row: Mapping[str, Any]) -> Any:
        """Return a value as it is kept: nothing that is not finite, which counts as null, and a list for no list."""
        if pa.types.is_list(field.type):
            value = list(value or ())
        elif value is None or (isinstance(value, float) and not math.isfinite(value)):
            return None
        fault = _fault(value)
        if fault is not None:
            raise StudiesError(
                f"{row.get(KEY)!r}, column {field.name!r}: {self.engine} holds no {fault}; shorten or leave it out"
            )
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


def _is_of(kind: pa.DataType, value: Any) -> bool:
    if pa.types.is_list(kind):
        return value is None or (isinstance(value, Sequence) and all(isinstance(text, str) for text in value))
    if pa.types.is_string(kind):
        return value is None or isinstance(value, str)
    if pa.types.is_integer(kind):
        return value is None or (type(value) is int and _fits(value, kind))
    return value is None or (isinstance(value, float) and math.isfinite(value))


def _fits(value: int, kind: pa.DataType) -> bool:
    limits = np.iinfo(kind.to_pandas_dtype())
    return bool(limits.min <= value <= limits.max)
