"""The columns of a studies table as fields of a Milvus collection, and rows of the one as entities of the other."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.engines.columns import DIGEST, KEY, MOST_BYTES, MOST_ITEMS, PATIENT, SAMPLE, VECTOR, Columns

MOST_FIELDS = 64
"""That a collection of Milvus may have; further columns become dynamic fields."""
_OURS = (VECTOR, SAMPLE, DIGEST)
_INTEGERS = {pa.int8(): "INT8", pa.int16(): "INT16", pa.int32(): "INT32"}


class Fields(Columns):
    """The columns of a collection on Milvus."""

    engine: ClassVar[str] = "Milvus"

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
            if column.name in (KEY, PATIENT) or column.name not in self.typed:
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
        plain = self.plain(row)
        entity = {self.fields[name]: value for name, value in plain.items() if value is not None or name in self.typed}
        return entity | {VECTOR: vector.tolist(), SAMPLE: sample, DIGEST: self.digest(plain, vector)}

    def as_row(self, entity: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row that an entity of Milvus holds."""
        return {name: _read(entity.get(self.fields[name])) for name in self.schema.names}


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


def _read(value: Any) -> Any:
    """pymilvus gives lists as its own sequences."""
    return value if value is None or isinstance(value, str | int | float) else list(value)
