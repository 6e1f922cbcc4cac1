"""Somebody's tables as columns of text: CSV, Parquet, JSON, XML, lists of names, texts, and the names of films.

Blank is "". Each file is sized before it is read, lies below the folder that was given, and is no link out of it.
"""

import csv
import gzip
import io
import json
import re
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from os import walk
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.json as pajson

from index.errors import StudiesError
from index.importing.mapping import SourceTable
from index.importing.source import MOST_LINE
from index.storage.files import parse_json, read_regular
from index.storage.parquet import FREE_BYTES, MOST_TIMES, read_parquet
from index.storage.places import Place, below

MOST_TABLE = 1 << 31
"""Bytes of a table as text; one that is packed takes no more than a Parquet file may, `index.storage.parquet` says."""
MOST_DOCUMENT = 1 << 29
"""Bytes of JSON that is one value; parsed, it takes several times as much."""
MOST_TEXT = 1 << 20
"""Bytes of a file of XML or of text."""
MOST_FILES = 1_000_000
_BLOCK = 1 << 22
"""Bytes that a CSV is read by; Arrow refuses a row that is longer."""
_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".xml": "xml"}
_MULTIPLE = "|"
"""Between several values of XML in one cell."""

_ALL = b"columns"
"""Key of the metadata under which a table of which some columns are read names all of them."""

Wanted = Collection[str] | None
"""Names of the columns that are needed; None for all."""


def read_source(table: SourceTable, folder: Path, wanted: Wanted = None) -> tuple[pa.Table, list[str]]:
    """Return the rows of a mapping's table, and the names of all columns that the files have, read or not.

    Raises:
        StudiesError: no such file, one that cannot be read, no row, or columns that do not fit together.
        ArtefactError: what lies there is no file, or one that is too large.
        PlaceError: a link that leads out of the folder.
    """
    files = files_of(table, folder)
    if not files:
        named = " or ".join(table.one_of or table.file)
        raise StudiesError(
            f"expected {named} below {str(folder)!r}, got no such file; see precedent import table --list"
        )
    return read_files(table, [(below(folder, path), path, words) for path, words in files], wanted)


def files_of(table: SourceTable, folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Return the paths of a table's files below a folder, each with the words that its name has."""
    files: dict[str, dict[str, str]] = {}
    for pattern in table.one_of or table.file:
        matching = _matching(folder, pattern)
        if matching and table.one_of:
            return matching
        files |= dict(matching)
    return list(files.items())


def read_files(
    table: SourceTable, files: Sequence[tuple[Path, str, dict[str, str]]], wanted: Wanted = None
) -> tuple[pa.Table, list[str]]:
    """Return what files hold as one table: each the file, its name in sentences, and words. Raises as `read_source`."""
    kind = table.kind or _SUFFIXES.get(PurePosixPath(files[0][1].removesuffix(".gz")).suffix.lower(), "csv")
    if kind == "film":
        paths = [path for _, path, _ in files]
        return pa.table({"path": paths, "stem": [PurePosixPath(path).stem for path in paths]}), []
    if kind == "text":
        return _texts(files), ["text"]
    read = _READERS[kind]
    parts: list[pa.Table] = []
    own: dict[str, None] = {}
    for file, name, words in files:
        part = read(file, name, table, None if wanted is None else {*wanted, *table.each})
        own |= dict.fromkeys(_names(part))
        for word, value in words.items():
            part = part.append_column(word, pa.array([value] * len(part))) if word not in part.column_names else part
        parts.append(part)
    try:
        whole = pa.concat_tables(parts, promote_options="default").combine_chunks()
    except pa.ArrowInvalid as error:
        raise StudiesError(f"{files[0][1]!r}: expected tables that fit together ({_line(error)})") from error
    if not len(whole):
        raise StudiesError(f"{files[0][1]!r}: expected at least one row, got the header alone")
    return pa.table([_filled(column) for column in whole.columns], whole.column_names), list(own)


def _names(table: pa.Table) -> list[str]:
    """Return the names of all columns that the file of a table has."""
    written = (table.schema.metadata or {}).get(_ALL)
    return table.column_names if written is None else written.decode().split("\n")


def paths_below(folder: Path) -> list[str]:
    """Return the paths of all files below a folder, those of a folder together; links to folders are not followed."""
    if isinstance(folder, Place):
        return sorted(folder.files_below(), key=_by_folder)
    paths = []
    for parent, _, names in walk(folder):
        inside = Path(parent).relative_to(folder)
        paths += [path for name in names if _is_text(path := (inside / name).as_posix())]
    return sorted(paths, key=_by_folder)


def _by_folder(path: str) -> tuple[tuple[str, ...], str]:
    *folders, name = path.split("/")
    return tuple(folders), name


def _is_text(path: str) -> bool:
    return path.isascii() or path.encode("utf-8", "replace").decode() == path


def _matching(folder: Path, pattern: str) -> list[tuple[str, dict[str, str]]]:
    """Return the files below a folder that a pattern names, packed or not, with its words, in order."""
    if not re.search(r"\*|\{\w+\}", pattern):
        there = [name for name in (pattern, f"{pattern}.gz") if (folder / name).is_file()]
        return [(there[0], {})] if there else []
    written = re.split(r"(\*|\{\w+\})", pattern)
    parts = [_sign(piece) if number % 2 else re.escape(piece) for number, piece in enumerate(written)]
    expression = f"^{''.join(parts)}(?P<_packed>(?:\\.gz)?)$"
    paths = pa.array(_listed(folder, re.sub(r"\{\w+\}", "*", pattern)), pa.string())
    try:
        words = pc.extract_regex(paths, expression).to_pylist()
    except pa.ArrowInvalid as error:
        raise StudiesError(f"expected a word once in {pattern!r} ({_line(error)})") from error
    pairs = [(path, groups) for path, groups in zip(paths.to_pylist(), words, strict=True) if groups is not None]
    return [
        (path, {name: word for name, word in groups.items() if name != "_packed"}) for path, groups in sorted(pairs)
    ]


def _sign(sign: str) -> str:
    return "[^/]*" if sign == "*" else f"(?P<{sign[1:-1]}>[^/]+?)"


def _listed(folder: Path, glob: str) -> list[str]:
    if isinstance(folder, Place):
        return folder.files_below()
    plain = re.sub(r"[\[?]", lambda match: f"[{match[0]}]", glob)
    matching = (path for pattern in (plain, f"{plain}.gz") for path in folder.glob(pattern) if path.is_file())
    paths = [path.relative_to(folder).as_posix() for path in islice(matching, MOST_FILES + 1)]
    if len(paths) > MOST_FILES:
        raise StudiesError(f"expected at most {MOST_FILES:,} files like {glob!r}, got more")
    return sorted({path for path in paths if _is_text(path)})


def _content(file: Path, name: str, most_bytes: int = MOST_TABLE) -> bytes:
    """Return the bytes of a file, unpacked where they are packed. Raises ArtefactError: no file, or a larger one."""
    try:
        content = read_regular(file, most_bytes)
        if not content.startswith(b"\x1f\x8b"):
            return content
        allowed = min(most_bytes, FREE_BYTES + MOST_TIMES * len(content))
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            plain = packed.read(allowed + 1)
    except (OSError, EOFError, zlib.error) as cause:
        raise StudiesError(f"{name!r}: expected a file that can be read ({_line(cause)})") from cause
    if len(plain) > allowed:
        raise StudiesError(f"{name!r}: expected at most {allowed:,} bytes once unpacked, got more")
    return plain


def _read_csv(file: Path, name: str, table: SourceTable, wanted: Wanted) -> pa.Table:
    content = _content(file, name)
    try:
        names, delimiter = _header(content)
        given = [name for name in names if name]
        if not given or len(given) > len(set(given)):
            raise StudiesError(f"{name!r}: expected every column name once, got {', '.join(names)[:500]}")
        columns = [name or f"\0{number}" for number, name in enumerate(names)]  # pandas writes its row numbers so
        kept = [name for name in given if wanted is None or name in wanted]
        options = pacsv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False, include_columns=kept or given
        )
        read = pacsv.ReadOptions(use_threads=False, column_names=columns, skip_rows=1, block_size=_BLOCK)
        parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        read_table = pacsv.read_csv(io.BytesIO(content), read, parse_options=parse, convert_options=options)
        read_table = read_table.replace_schema_metadata({_ALL: "\n".join(given)})
    except (ValueError, csv.Error) as cause:
        if isinstance(cause, StudiesError):
            raise
        raise StudiesError(f"{name!r}: expected a readable CSV ({_line(cause)})") from cause
    if not len(read_table):
        raise StudiesError(f"{name!r}: expected at least one row, got the header alone")
    return read_table


def _header(content: bytes) -> tuple[list[str], str]:
    """Return the names of the columns, and what stands between them: a comma, a semicolon or a tabulator."""
    end = content.find(b"\n", 0, MOST_LINE)
    line = content[: end if end >= 0 else MOST_LINE].decode("utf-8-sig").rstrip("\r")
    if not line:
        raise ValueError("Empty CSV file")
    read = {sign: next(csv.reader([line], delimiter=sign), []) for sign in ",;\t"}
    delimiter = max(read, key=lambda sign: len(read[sign]))
    return [name.strip() for name in read[delimiter]], delimiter


def _read_parquet(file: Path, name: str, table: SourceTable, wanted: Wanted) -> pa.Table:
    try:
        read_table = read_parquet(file, name, "write it anew", columns=None if wanted is None else sorted(wanted))
    except FileNotFoundError as error:
        raise StudiesError(f"{name!r}: expected a file that can be read ({_line(error)})") from error
    return _as_texts(read_table, table, name)


def _read_json(file: Path, name: str, table: SourceTable, wanted: Wanted) -> pa.Table:
    """Return the records of a list, those of an object of records, or one a line."""
    content = _content(file, name)
    try:
        if _is_lines(content):
            return _as_texts(_kept(pajson.read_json(io.BytesIO(content), _JSON), wanted), table, name)
        if len(content) > MOST_DOCUMENT:
            raise ValueError(f"expected at most {MOST_DOCUMENT:,} bytes; write a record a line")
        document = parse_json(content)
    except ValueError as cause:
        raise StudiesError(f"{name!r}: expected JSON records ({_line(cause)})") from cause
    records = list(document.values()) if isinstance(document, dict) else document
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise StudiesError(f"{name!r}: expected a list or an object of records, got something else")
    names = dict.fromkeys(key for record in records for key in record if wanted is None or key in wanted)
    columns = {key: _of_records(records, key, key in table.each) for key in names}
    return _exploded(pa.table(columns), table.each, name)


_JSON = pajson.ReadOptions(use_threads=False, block_size=_BLOCK)


def _is_lines(content: bytes) -> bool:
    """Return whether the first line is a record and not the beginning of a longer value."""
    first, _, rest = content.lstrip().partition(b"\n")
    if not first.startswith(b"{"):
        return False
    try:
        record = parse_json(first)
    except ValueError:
        return False
    return bool(rest.strip()) or not all(isinstance(value, dict) for value in record.values())


def _kept(table: pa.Table, wanted: Wanted) -> pa.Table:
    return table if wanted is None else table.select([name for name in table.column_names if name in wanted])


def _of_records(records: list[dict[str, Any]], key: str, listed: bool) -> pa.Array:
    if not listed:
        return pa.array([_as_text(record.get(key)) for record in records], pa.string())
    values = [record.get(key) for record in records]
    lists = [[_as_text(item) for item in value] if isinstance(value, list) else [_as_text(value)] for value in values]
    return pa.array(lists, pa.list_(pa.string()))


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _as_texts(table: pa.Table, source: SourceTable, name: str) -> pa.Table:
    """Return typed columns as texts; lists stay where they are to become rows, and other nested ones are left out."""
    kept: dict[str, pa.ChunkedArray] = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_list(field.type):
            if field.name in source.each:
                kept[field.name] = column.combine_chunks().cast(pa.list_(pa.string()))
        elif not pa.types.is_nested(field.type):
            kept[field.name] = _filled(column.cast(pa.string()))
    return _exploded(pa.table(kept), source.each, name)


def _exploded(table: pa.Table, each: Sequence[str], name: str) -> pa.Table:
    """Return a row for each value of the first column of lists, with the others' beside it, blank where none is."""
    if not each:
        return table
    if missing := [name for name in each if name not in table.column_names]:
        raise StudiesError(f"{name!r}: expected column {missing[0]!r}, got {', '.join(table.column_names)[:500]}")
    lists = [table[name].combine_chunks() for name in each]
    counts = pc.fill_null(pc.list_value_length(lists[0]), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.repeat(np.arange(len(table)), counts)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    exploded = table.drop_columns(list(each)).take(pa.array(rows))
    for heading, column in zip(each, lists, strict=True):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        there = places < lengths[rows]
        values = pc.list_flatten(column).take(pa.array(np.where(there, starts[rows] + places, 0), mask=~there))
        exploded = exploded.append_column(heading, _filled(values))
    return exploded


def _read_lines(file: Path, name: str, table: SourceTable, wanted: Wanted) -> pa.Table:
    try:
        lines = _content(file, name).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as cause:
        raise StudiesError(f"{name!r}: expected a name a line ({_line(cause)})") from cause
    return pa.table({"line": pa.array([line for line in map(str.strip, lines) if line], pa.string())})


def _texts(files: Iterable[tuple[Path, str, dict[str, str]]]) -> pa.Table:
    read = [(PurePosixPath(path).stem, _content(file, path, MOST_TEXT)) for file, path, _ in files]
    return pa.table(
        {"stem": [stem for stem, _ in read], "text": [text.decode("utf-8", "replace").strip() for _, text in read]}
    )


def _read_xml(file: Path, name: str, table: SourceTable, wanted: Wanted) -> pa.Table:
    """Return a row for each element that the mapping names; several values of a column have a sign between."""
    content = _content(file, name, MOST_TEXT)
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content or b"\0" in content:
        raise StudiesError(f"{name!r}: expected XML in UTF-8 without declarations of its own, got some")
    try:
        root = ElementTree.fromstring(content)
        rows = [row for path in table.each for row in root.findall(path)]
        columns = {name: [_found(root, row, path) for row in rows] for name, path in table.columns.items()}
    except (ElementTree.ParseError, SyntaxError, KeyError, ValueError, LookupError) as cause:
        raise StudiesError(f"{name!r}: expected XML with {', '.join(table.each)} ({_line(cause)})") from cause
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _found(root: ElementTree.Element, row: ElementTree.Element, path: str) -> str:
    start = root if path.startswith("/") else row
    way, _, attribute = path.removeprefix("/").partition("@")
    elements = start.findall(way) if way else [start]
    values = [element.get(attribute, "") if attribute else "".join(element.itertext()) for element in elements]
    return _MULTIPLE.join(value.strip() for value in values if value.strip())


_READERS: dict[str, Callable[[Path, str, SourceTable, Wanted], pa.Table]] = {
    "csv": _read_csv,
    "json": _read_json,
    "parquet": _read_parquet,
    "lines": _read_lines,
    "xml": _read_xml,
}


def _filled(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column of texts as one array, "" for null."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    whole = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
    if pa.types.is_null(whole.type):
        return pa.array([""] * len(whole), pa.string())
    return pc.fill_null(whole.cast(pa.string()), "")


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
