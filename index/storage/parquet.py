"""Parquet tables from anyone, whose size in memory is checked before they are read.

A few bytes of Parquet can stand for any number of rows, or of the same long text. The thread that asks reads alone:
Arrow's own keep what they have read from for a moment after the answer, and where that is memory of Python's and Python
ends meanwhile, the one that gives it back aborts the process.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index.errors import ArtefactError
from index.storage.files import open_regular

FREE_BYTES = 1 << 28
"""Bytes that a table may take in memory, however small its file is."""
MOST_TIMES = 64
"""Times the size of its file that it may take beyond them: 224,000 studies of CheXpert take 12 times theirs."""
MOST_COLUMNS = 4096
_MOST_WIDE = 1 << 16
"""Numbers of a vector."""
_VALUE_BYTES = 8
"""Of the widest number, and of what is kept beside a text."""
LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 20}


@dataclass(frozen=True)
class ParquetTable:
    """An open Parquet file whose footer was looked at. Texts are read as dictionaries, which no repetition makes large.

    Every method raises ArtefactError where it takes far more memory than the file is large.
    """

    schema: pa.Schema
    """As it comes out, whatever is read on the way."""
    metadata: pq.FileMetaData
    parquet: pq.ParquetFile
    allowed: int
    """Bytes that it may take in memory."""
    name: str
    remedy: str

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows: of some columns, where they are there, or of all."""
        wanted = None if columns is None else [name for name in columns if name in self.schema.names]
        return self._plain(self.parquet.read(wanted, use_threads=False))

    def read_row_groups(self, groups: Sequence[int]) -> pa.Table:
        """Return the rows of some row groups."""
        return self._plain(self.parquet.read_row_groups(list(groups), use_threads=False))

    def _plain(self, table: pa.Table) -> pa.Table:
        """Return a table with its texts as such, each of them checked, where there is room for them."""
        needed = sum(_bytes_of(chunk) for column in table.columns for chunk in column.chunks)
        if needed > self.allowed:
            raise _too_large(needed, self.allowed, self.name, self.remedy)
        kinds = [self.schema.field(name) for name in table.schema.names]
        plain = table.cast(pa.schema(kinds, metadata=self.schema.metadata))
        plain.validate(full=True)
        return plain


def read_parquet(
    source: Path | bytes, name: str, remedy: str, *, columns: Sequence[str] | None = None, rows: int | None = None
) -> pa.Table:
    """Return a table of texts, numbers, and lists of either.

    Args:
        source: a file, or what is in it. name: of it in a sentence.
        columns: to be read, where they are there; None for all.
        rows: that it must have; None takes any number.

    Raises:
        ArtefactError: no Parquet, other types, another number of rows, or far more in memory than the file is large.
        FileNotFoundError.
    """
    with opened_parquet(source, name, remedy) as table:
        if rows is not None and table.metadata.num_rows != rows:
            raise ArtefactError(f"expected {rows:,} rows in {name!r}, got {table.metadata.num_rows:,}; {remedy}")
        return table.read(columns)


@contextmanager
def opened_parquet(source: Path | bytes, name: str, remedy: str) -> Iterator[ParquetTable]:
    """Yield the table of a Parquet file. Raises as `read_parquet`, also for what fails in reading it."""
    try:
        with _content(source) as content, pq.ParquetFile(content, pre_buffer=False, **LIMITS) as footer:
            schema, metadata, allowed = _plain_schema(footer.schema_arrow), footer.metadata, _allowed(source)
            _require_types(schema, name, remedy)
            _require_room(metadata, allowed, name, remedy)
            leaves = [footer.schema.column(number) for number in range(len(footer.schema))]
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            content.seek(0)
            with pq.ParquetFile(content, pre_buffer=False, read_dictionary=texts, **LIMITS) as parquet:
                yield ParquetTable(schema, metadata, parquet, allowed, name, remedy)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ArtefactError(
            f"expected a Parquet file, {name!r} cannot be read as one ({_first_line(error)}); {remedy}"
        ) from error


@contextmanager
def streamed_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """Yield a Parquet file of any types, to be read some rows at a time once its row groups were looked at.

    Raises:
        pa.ArrowException, OSError: no Parquet, or no regular file.
    """
    with open_regular(file) as content, pq.ParquetFile(content, pre_buffer=False, **LIMITS) as parquet:
        yield parquet


def _content(source: Path | bytes) -> io.BufferedIOBase:
    return io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)


def _allowed(source: Path | bytes) -> int:
    """Return the bytes that a table may take in memory."""
    if isinstance(source, bytes):
        return FREE_BYTES + MOST_TIMES * len(source)
    return FREE_BYTES + MOST_TIMES * source.stat().st_size


def _require_types(schema: pa.Schema, name: str, remedy: str) -> None:
    if len(schema) > MOST_COLUMNS or len(set(schema.names)) < len(schema):
        raise ArtefactError(f"expected at most {MOST_COLUMNS:,} columns, each once, in {name!r}, got others; {remedy}")
    for field in schema:
        if not _fits(field.type):
            kind = str(field.type)[:100]
            raise ArtefactError(f"expected texts and numbers in {name!r}, got {kind} in {field.name[:100]!r}; {remedy}")


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema with texts and lists of them as we write them: pandas, polars and DuckDB have further types."""
    return pa.schema([field.with_type(_plain_type(field.type)) for field in schema], metadata=schema.metadata)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = pa.string() if pa.types.is_null(kind.value_type) else _plain_type(kind.value_type)
        return pa.list_(kind.value_field.with_type(values))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) else kind


def _fits(kind: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(kind):
        return pa.types.is_floating(kind.value_type) and kind.list_size <= _MOST_WIDE
    if pa.types.is_list(kind):
        return _is_text(kind.value_type)
    return _is_text(kind) or any(fits(kind) for fits in (pa.types.is_integer, pa.types.is_floating, pa.types.is_null))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind)


def _require_room(metadata: pq.FileMetaData, allowed: int, name: str, remedy: str) -> None:
    """Refuse from the footer what would not fit; what repeated texts come to is seen later."""
    needed = metadata.num_rows * _VALUE_BYTES
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            needed += max(chunk.total_uncompressed_size, 0) + max(chunk.num_values, 0) * _VALUE_BYTES
            if needed > allowed:
                raise _too_large(needed, allowed, name, remedy)


def _bytes_of(values: pa.Array) -> int:
    """Return the bytes that values take once no text of them is in a dictionary any more."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return 4 * len(values) + _bytes_of(values.flatten())
    if not pa.types.is_dictionary(values.type):
        return int(values.nbytes)
    lengths = pc.binary_length(values.dictionary).cast(pa.int64())
    return 4 * len(values) + (pc.sum(lengths.take(values.indices)).as_py() or 0)


def _too_large(needed: int, allowed: int, name: str, remedy: str) -> ArtefactError:
    return ArtefactError(
        f"expected {name!r} to take at most {allowed >> 20:,} MiB in memory, {MOST_TIMES} times its size, got "
        f"{needed >> 20:,}; {remedy}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
