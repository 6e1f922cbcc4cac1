"""The columns of a studies table as those of a table in PostgreSQL, and rows of the one as rows of the other."""

import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.engines.columns import DIGEST, SAMPLE, VECTOR, Columns

_LONGEST_NAME = 63
_OWN = {SAMPLE: "text", DIGEST: "text"}
_INTEGERS = {pa.int8(): "int2", pa.int16(): "int2", pa.uint8(): "int2", pa.int32(): "int4", pa.uint16(): "int4"}
_HEAD = struct.Struct(">HH")
"""Before the numbers of a vector on the wire: how many there are, and 0."""
_ESCAPE, _NUL = "\x1b", "\x1b0"


class TableColumns(Columns):
    """The columns of a collection in PostgreSQL."""

    engine: ClassVar[str] = "PostgreSQL"

    @cached_property
    def fields(self) -> dict[str, str]:
        """The column there of each column."""
        return {name: field[:_LONGEST_NAME] for name, field in super().fields.items()}

    @cached_property
    def types(self) -> dict[str, str]:
        """The columns there and their types, in order, without the vector, which is the last."""
        return {self.fields[column.name]: _type_of(column.type) for column in self.schema} | _OWN

    def as_values(
        self, row: Mapping[str, Any], vector: npt.NDArray[np.float32], sample: str | None = None
    ) -> list[Any]:
        """Return what a study's row there holds, in the order of `types`. Raises StudiesError: what it cannot hold."""
        plain = self.plain(row)
        return [*map(escaped, plain.values()), sample, self.digest(plain, vector)]

    def as_entity(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the entity that a row there is: its columns, and the vector as it came."""
        return dict(zip([*self.types, VECTOR], values, strict=True))

    def as_row(self, entity: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of the studies table that an entity holds."""
        return {name: _unescaped(entity[field]) for name, field in self.fields.items()}


def escaped(value: Any) -> Any:
    """Return a value as PostgreSQL holds it, in whose texts there is no NUL: ESC 0 stands for it, ESC ESC for ESC."""
    if isinstance(value, list):
        return list(map(escaped, value))
    return value.replace(_ESCAPE, _ESCAPE * 2).replace("\0", _NUL) if isinstance(value, str) else value


def _unescaped(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_unescaped, value))
    if not isinstance(value, str) or _ESCAPE not in value:
        return value
    return _ESCAPE.join(part.replace(_NUL, "\0") for part in value.split(_ESCAPE * 2))


def as_bytes(vector: npt.NDArray[np.float32]) -> bytes:
    """Return a vector (D,) as it goes over the wire."""
    return _HEAD.pack(len(vector), 0) + vector.astype(">f4").tobytes()


def as_text(vector: npt.NDArray[np.float32]) -> str:
    """Return a vector (D,) as a value in a statement; each number is read back to the last bit."""
    return f"[{','.join(map(repr, vector.tolist()))}]"


def vector_in(value: Any, dim: int) -> Any:
    """Return the vector (D,) in what came over the wire; () where it is none of so many numbers."""
    if not isinstance(value, bytes) or len(value) != _HEAD.size + 4 * dim or _HEAD.unpack_from(value) != (dim, 0):
        return ()
    return np.frombuffer(value, ">f4", offset=_HEAD.size).astype(np.float32)


def _type_of(kind: pa.DataType) -> str:
    """Single precision is widened, so that numbers compare as in Arrow."""
    if pa.types.is_list(kind):
        return "text[]"
    if pa.types.is_string(kind):
        return "text"
    return "float8" if pa.types.is_floating(kind) else _INTEGERS.get(kind, "int8")
