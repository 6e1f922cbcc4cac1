"""Vectors that other programs wrote: NumPy, safetensors and Parquet files, a block of rows at a time.

Headers are looked at first, what they promise is compared with the size of the file, and nothing is unpickled.
"""

import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from index.errors import VectorsError
from index.importing.mapping import SourceTable
from index.importing.source_files import read_files
from index.storage.files import open_regular
from index.storage.parquet import FREE_BYTES, MOST_TIMES, streamed_parquet

LEAST_DIM, MOST_DIM = 16, 4096
"""Numbers of a vector: of fewer neighbours say little, of more an index does not end."""
BLOCK = 4096
"""Rows that are read at a time: 64 MiB of the widest in single precision."""
ID_COLUMNS = ("study_id", "image_id", "id", "path", "filename")
"""What a column of ids is called where nobody says."""
_MOST_HEADER = 10_000
"""Bytes of the header of a NumPy file: numpy's own bound."""
_MOST_DIRECTORY = 1 << 27
"""Bytes of the list of files in an .npz: a million of them."""
_MOST_GROUP = 1 << 31
"""Bytes of a column in one row group of Parquet, which is read whole."""
_MOST_ID = 4096
"""Characters of an id in a file of NumPy."""

Opened = BufferedIOBase | IO[bytes]
Vectors = npt.NDArray[Any]
"""(n, D) of any kind of real numbers."""


@dataclass(frozen=True)
class Block:
    """Some rows of a file: (n, D) vectors, and what each is of; None where the file does not say."""

    vectors: Vectors
    ids: Sequence[str] | None = None


Reader = Callable[[Path], Iterator[Block]]


def read_vectors(
    files: Sequence[Path],
    ids: Sequence[Path] = (),
    id_column: str | None = None,
    column: str = "embedding",
    readers: Mapping[str, Reader] = MappingProxyType({}),
) -> Iterator[tuple[list[str], Vectors]]:
    """Yield ids and (n, D) vectors, block by block, of files of one dimension D.

    Args:
        files: .npy, .npz, .safetensors or .parquet, or folders of Parquet files.
        ids: one for each file that has no ids of its own: .csv, .parquet, .npy of texts, or text of an id a line.
        id_column: of tables; left out, the first of ID_COLUMNS that is there.
        column: of Parquet: the list of numbers.
        readers: of further suffixes.

    Raises:
        VectorsError: no such vectors, of another dimension than LEAST_DIM to MOST_DIM or of two, or ids that are
            missing, blank or of another number. StudiesError, ArtefactError: a table of ids that cannot be read.
    """
    known: dict[str, Reader] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".parquet": partial(_read_parquet, id_column=id_column, column=column),
        **readers,
    }
    if ids and len(ids) != len(files):
        raise VectorsError(f"expected one --ids for each of {len(files)} files, got {len(ids)}")
    dim = None
    for number, file in enumerate(files):
        named = iter(_ids_of(ids[number], id_column)) if ids else None
        for path in _parts(file):
            read = known.get(path.suffix.lower())
            if read is None:
                raise VectorsError(f"expected vectors as {', '.join(known)}, got {path.name!r}; write one of these")
            for block in read(path):
                names = _named(block, named, path)
                dim = _checked_dim(block.vectors, dim, names, path)
                yield names, block.vectors
        if named is not None and next(named, None) is not None:
            raise VectorsError(f"expected an id for each vector of {file.name!r}, got more ids; are they of this file?")


def _parts(file: Path) -> list[Path]:
    """Return a file, or the Parquet files that lie in a folder, in order of their names."""
    if not file.is_dir():
        return [file]
    parts = sorted(path for path in file.glob("*.parquet") if path.is_file())
    if not parts:
        raise VectorsError(f"expected files *.parquet in {str(file)!r}, got none")
    return parts


def _named(block: Block, named: Iterator[str] | None, path: Path) -> list[str]:
    if named is None and block.ids is None:
        raise VectorsError(f"expected --ids with {path.name!r}, which says of no vector what it is of")
    if named is not None and block.ids is not None:
        raise VectorsError(f"expected no --ids with {path.name!r}, which has ids of its own")
    ids = list(block.ids) if block.ids is not None else list(islice(named or (), len(block.vectors)))
    if len(ids) < len(block.vectors):
        raise VectorsError(f"expected an id for each vector of {path.name!r}, got fewer ids; are they of this file?")
    if not all(ids):
        raise VectorsError(f"expected an id for each vector of {path.name!r}, got a blank")
    return ids


def _checked_dim(vectors: Vectors, dim: int | None, ids: Sequence[str], path: Path) -> int:
    own = int(vectors.shape[1])
    if dim is not None and own != dim:
        raise VectorsError(f"expected vectors of one dimension, {dim}, got one of {own}: {ids[0]!r} of {path.name!r}")
    if not LEAST_DIM <= own <= MOST_DIM:
        raise VectorsError(
            f"expected vectors of {LEAST_DIM} to {MOST_DIM:,} numbers in {path.name!r}, got {own:,}: {ids[0]!r}"
        )
    return own


def _ids_of(file: Path, id_column: str | None) -> Iterable[str]:
    """Return the ids that a file holds, in their order."""
    if file.suffix.lower() == ".npy":
        with open_regular(file) as opened:
            return _texts(opened, file.name, _size_of(file))
    lines = file.suffix.lower() not in (".csv", ".tsv", ".parquet", ".gz", ".json", ".jsonl")
    source = SourceTable.model_validate({"file": [file.name]} | ({"as": "lines"} if lines else {}))
    table, names = read_files(source, [(file, file.name, {})])
    column = "line" if lines else _id_column(names, id_column, file.name)
    ids: list[str] = table[column].to_pylist()
    return ids


def _id_column(names: Sequence[str], asked: str | None, name: str) -> str:
    columns = [column for column in ([asked] if asked else ID_COLUMNS) if column in names]
    if not columns and not asked and len(names) == 1:
        return names[0]
    if not columns:
        wanted = repr(asked) if asked else f"one of {', '.join(ID_COLUMNS)}"
        raise VectorsError(
            f"expected a column of ids, {wanted}, in {name!r}, got {', '.join(names)[:500]}; name it by --id-column"
        )
    return columns[0]


def _size_of(file: Path) -> int:
    return file.stat().st_size


def _read_npy(file: Path) -> Iterator[Block]:
    with open_regular(file) as opened:
        for vectors in _rows(opened, file.name, _size_of(file)):
            yield Block(vectors)


def _header(file: Opened, name: str, size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of the array whose numbers come next, of a file of so many bytes."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, kind = readers[version](file, max_header_size=_MOST_HEADER)
    except (ValueError, KeyError, EOFError) as error:
        raise VectorsError(f"expected an array of NumPy in {name!r}, got something else ({_line(error)})") from error
    if kind.hasobject:
        raise VectorsError(f"expected numbers in {name!r}, got Python objects, which are never unpickled; save floats")
    if fortran and len(shape) > 1:
        raise VectorsError(f"expected rows that lie together in {name!r}, got columns; save np.ascontiguousarray of it")
    if any(length < 0 for length in shape) or math.prod(shape) * kind.itemsize > size:
        raise VectorsError(f"expected {name!r} to hold an array of {shape}, it is too small for that; copy it again")
    return shape, kind


def _rows(file: Opened, name: str, size: int) -> Iterator[Vectors]:
    """Yield the rows of an array of NumPy."""
    shape, kind = _header(file, name, size)
    count, dim = require_many(shape, name)
    _require_real(kind, name)
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        content = _exactly(file, rows * dim * kind.itemsize, name)
        yield np.frombuffer(content, kind).reshape(rows, dim)


def require_many(shape: Sequence[int], name: str) -> tuple[int, int]:
    """Return N and D of vectors (N, D), before any of them is read. Raises VectorsError."""
    if len(shape) != 2 or not shape[0]:
        raise VectorsError(f"expected an array of shape (N, D) in {name!r}, got {tuple(shape)}")
    if not LEAST_DIM <= shape[1] <= MOST_DIM:
        raise VectorsError(
            f"expected vectors of {LEAST_DIM} to {MOST_DIM:,} numbers in {name!r}, got {shape[1]:,}; pool or project "
            "longer ones first"
        )
    return shape[0], shape[1]


def require_one(shape: Sequence[int], name: str) -> int:
    """Return D of one vector, (D,) or (1, D), before it is read. Raises VectorsError."""
    if len(shape) != 1 and tuple(shape[:-1]) != (1,):
        raise VectorsError(
            f"expected one vector, (D,), in {name!r}, got {tuple(shape)}; take the mean of its rows first"
        )
    return require_many((1, shape[-1]), name)[1]


def _require_real(kind: np.dtype[Any], name: str) -> None:
    if kind.kind not in "fiu":
        raise VectorsError(f"expected real numbers in {name!r}, got {kind}")


def _exactly(file: Opened, count: int, name: str) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise VectorsError(f"expected {count:,} more bytes in {name!r}, got {len(content):,}; copy it again")
    return content


def _texts(file: Opened, name: str, size: int) -> list[str]:
    """Return the texts (N,) of an array of NumPy."""
    shape, kind = _header(file, name, size)
    if len(shape) != 1 or kind.kind not in "US" or not 0 < kind.itemsize <= 4 * _MOST_ID:
        raise VectorsError(f"expected an array of texts (N,) in {name!r}, got {kind} {shape}")
    content = _exactly(file, shape[0] * kind.itemsize, name)
    try:
        texts = np.frombuffer(content, kind).tolist()
    except ValueError as error:
        raise VectorsError(f"expected an array of texts in {name!r}, got no characters ({_line(error)})") from error
    return [_text(value) for value in texts]


def _text(value: str | bytes) -> str:
    plain = value.encode("utf-8", "replace") if isinstance(value, str) else value  # NumPy keeps halves of a pair
    return plain.decode("utf-8", "replace")


def _read_npz(file: Path) -> Iterator[Block]:
    """Yield vectors of an archive: one a member, which is called as what it is of, or one array beside one of texts."""
    with open_regular(file) as opened:
        require_directory(opened, file)
        try:
            with zipfile.ZipFile(opened) as archive:
                yield from _members(archive, file)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise VectorsError(f"expected an .npz of NumPy, {file.name!r} cannot be read ({_line(error)})") from error


def _members(archive: zipfile.ZipFile, file: Path) -> Iterator[Block]:
    members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    packed = {
        member.filename for member in members if member.file_size > FREE_BYTES + MOST_TIMES * member.compress_size
    }
    if packed or not members:
        what = f"{packed.pop()!r} unpacks to far more" if packed else "there is none"
        raise VectorsError(f"expected arrays *.npy in {file.name!r} of a size like its own; {what}")
    if len(members) == 2 and (both := _matrix_and_texts(archive, members, file.name)) is not None:
        matrix, ids = both
        with archive.open(matrix) as opened:
            for start, vectors in enumerate(_rows(opened, file.name, matrix.file_size)):
                yield Block(vectors, ids[start * BLOCK : start * BLOCK + len(vectors)])
        return
    for group in _groups(members, BLOCK):
        yield from by_dim(
            [(member.filename.removesuffix(".npy"), _one_vector(archive, member, file)) for member in group]
        )


def _matrix_and_texts(
    archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], name: str
) -> tuple[zipfile.ZipInfo, list[str]] | None:
    """Return the member that is a matrix, and the texts of the other; None where they are something else."""
    kinds = {}
    for member in members:
        with archive.open(member) as opened:
            shape, kind = _header(opened, f"{name}:{member.filename}", member.file_size)
            kinds["ids" if kind.kind in "US" else "matrix" if len(shape) == 2 and shape[0] != 1 else "other"] = member
    if set(kinds) != {"ids", "matrix"}:
        return None
    with archive.open(kinds["ids"]) as opened:
        ids = _texts(opened, name, kinds["ids"].file_size)
    with archive.open(kinds["matrix"]) as opened:
        shape, _ = _header(opened, name, kinds["matrix"].file_size)
    if shape[0] != len(ids):
        raise VectorsError(f"expected an id for each vector of {name!r}, got {len(ids):,} for {shape[0]:,}")
    return kinds["matrix"], ids


def _one_vector(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> Vectors:
    name = f"{file.name}:{member.filename}"
    with archive.open(member) as opened:
        shape, kind = _header(opened, name, member.file_size)
        dim = require_one(shape, name)
        _require_real(kind, name)
        return np.frombuffer(_exactly(opened, dim * kind.itemsize, name), kind)


def require_directory(file: Opened, path: Path) -> None:
    """Refuse a ZIP archive whose list of files is long, before Python reads it whole (APPNOTE.TXT 4.3.14 to 4.3.16)."""
    size = _size_of(path)
    file.seek(max(size - (1 << 16) - 100, 0))
    tail = file.read()
    file.seek(0)
    end = tail.rfind(b"PK\5\6")
    listed = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if listed == 0xFFFFFFFF and (wide := tail.rfind(b"PK\6\6", 0, end)) >= 0:
        listed = int.from_bytes(tail[wide + 40 : wide + 48], "little")
    if listed > min(_MOST_DIRECTORY, size):
        raise VectorsError(
            f"expected at most about a million arrays in {path.name!r}, got more; write one array (N, D), or Parquet"
        )


def _read_safetensors(file: Path) -> Iterator[Block]:
    """Yield vectors of safetensors: one a tensor, which is called as what it is of, or the rows of the only one."""
    open_regular(file).close()
    try:
        with safe_open(str(file), framework="np") as tensors:
            names = list(tensors.keys())
            if len(names) == 1 and len(shape := tensors.get_slice(names[0]).get_shape()) == 2 and shape[0] != 1:
                rows = tensors.get_slice(names[0])
                count, _ = require_many(shape, file.name)
                for start in range(0, count, BLOCK):
                    yield Block(_real(rows[start : min(start + BLOCK, count)], file.name))
                return
            for group in _groups(names, BLOCK):
                pairs = []
                for name in group:
                    require_one(tensors.get_slice(name).get_shape(), f"{file.name}:{name}")
                    pairs.append((name, _real(tensors.get_tensor(name).reshape(-1), file.name)))
                yield from by_dim(pairs)
    except (SafetensorError, TypeError) as error:  # TypeError: of numbers that NumPy has not, such as bfloat16
        raise VectorsError(
            f"expected safetensors of F16, F32 or F64 in {file.name!r}, got others ({_line(error)})"
        ) from error


def _real(values: Vectors, name: str) -> Vectors:
    _require_real(values.dtype, name)
    return values


def by_dim(pairs: Sequence[tuple[str, Vectors]]) -> Iterator[Block]:
    """Yield named vectors (D,) as blocks, a new one where the dimension changes."""
    start = 0
    for end in range(1, len(pairs) + 1):
        if end == len(pairs) or len(pairs[end][1]) != len(pairs[start][1]):
            part = pairs[start:end]
            yield Block(np.stack([vector for _, vector in part]), [name for name, _ in part])
            start = end


def _groups(things: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (things[start : start + size] for start in range(0, len(things), size))


def _read_parquet(file: Path, id_column: str | None, column: str) -> Iterator[Block]:
    """Yield vectors of a Parquet file, whatever else is in it: two columns of it are read."""
    try:
        with streamed_parquet(file) as parquet:
            ids = _id_column(parquet.schema_arrow.names, id_column, file.name)
            kind = _require_list(parquet.schema_arrow, column, file.name)
            _require_groups(parquet, (ids, column), file)
            for batch in parquet.iter_batches(BLOCK, columns=[ids, column], use_threads=False):
                yield from _batch(batch, ids, column, kind, file.name)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise VectorsError(f"expected a Parquet file, {file.name!r} cannot be read ({_line(error)})") from error


def _require_list(schema: pa.Schema, column: str, name: str) -> pa.DataType:
    kind = schema.field(column).type if column in schema.names else None
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if kind is None or not any(fits(kind) for fits in lists) or not _is_number(kind.value_type):
        got = ", ".join(schema.names)[:500] if kind is None else str(kind)[:100]
        raise VectorsError(f"expected lists of numbers as {column!r} in {name!r}, got {got}; name it by --column")
    return kind


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _require_groups(parquet: pq.ParquetFile, columns: Sequence[str], file: Path) -> None:
    """Refuse by the footer what a row group would come to: more numbers than vectors have, or far more bytes."""
    allowed = min(_MOST_GROUP, FREE_BYTES + MOST_TIMES * _size_of(file))
    for group in map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if not any(f"{chunk.path_in_schema}.".startswith(f"{column}.") for column in columns):
                continue
            if chunk.total_uncompressed_size > allowed or chunk.num_values > max(group.num_rows, 1) * MOST_DIM:
                raise VectorsError(
                    f"expected row groups of at most {allowed >> 20:,} MiB and lists of at most {MOST_DIM:,} numbers "
                    f"in {file.name!r}, got more; write it with a smaller row_group_size, or pool the vectors first"
                )


def _batch(batch: pa.RecordBatch, ids: str, column: str, kind: pa.DataType, name: str) -> Iterator[Block]:
    batch.validate(full=True)
    lists, named = batch[column], batch[ids].cast(pa.string())
    if lists.null_count or named.null_count or lists.flatten().null_count:
        raise VectorsError(f"expected an id and a vector in every row of {name!r}, got blanks")
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(kind):
        lengths = np.full(len(lists), kind.list_size)
    else:
        lengths = lists.value_lengths().to_numpy()
    texts, start, at = named.to_pylist(), 0, 0
    for end in [*(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)] if len(lengths) else []:
        dim = int(lengths[start])
        yield Block(values[at : at + (end - start) * dim].reshape(end - start, dim), texts[start:end])
        at += (end - start) * dim
        start = end


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
