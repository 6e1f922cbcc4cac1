"""What every importer shares: its notices, what it gives back, and reading the text of somebody's CSV."""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from index.errors import CollectionError, StudiesError
from index.printable import is_visible
from index.storage.files import MOST_BYTES, open_regular, require_size
from index.storage.places import Place
from index.table.studies import studies_schema

EXTRA = "extra: "  # before the name of a source column that no importer knows, lest it meet one of ours
MOST_LINE = 1 << 20
"""Bytes of a line that are read at a time; Arrow refuses a row that is longer."""
OLDEST = 120.0  # years; a source that says more has a slip of the pen, or 999 for unknown
_INTEGER = r"-?(?:0|[1-9]\d{0,17})"  # no leading zeros: 007 is a code and stays text
_DECIMAL = r"-?(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?"
_AGE = re.compile(r"(\d+(?:\.\d*)?)([YMWD]?)")
_A_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}


@dataclass(frozen=True)
class Notice:
    """Something an importer met that did not stop it: how many times, and the first few examples."""

    kind: str
    sentence: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """One line: the sentence, the count and the examples."""
        if not self.examples:
            return f"{self.sentence}: {self.count}"
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.sentence}: {self.count} ({', '.join(self.examples)}{more})"


@dataclass(frozen=True)
class Imported:
    """What an importer gives back: a checked table of studies, the images it read of, and every notice."""

    table: pa.Table
    notices: tuple[Notice, ...]
    images: int  # rows or files that were offered, the skipped ones included
    layout: str  # one sentence: how the paths of the table relate to the folder that was given


class NothingUsable(StudiesError):
    """A source that has nothing in it that can be used: what was left out, and why."""

    def __init__(self, sentence: str, images: int, notices: Iterable[Notice]) -> None:
        self.images = images
        self.notices = tuple(notices)
        super().__init__("; ".join((f"{sentence} of {images} files", *map(str, self.notices))))


@dataclass
class Notices:
    """A growing list of notices that refuses the first one when the import is strict."""

    strict: bool = False
    met: list[Notice] = field(default_factory=list)
    shown: int = 3
    """Examples that a notice names; 0 where one, such as a file's name, may name a patient."""

    def add(self, kind: str, sentence: str, examples: Iterable[object]) -> None:
        """Note the examples, if there are any.

        Raises:
            StudiesError: the import is strict and there is at least one example.
        """
        found = [str(example) for example in examples]
        if not found:
            return
        notice = Notice(kind, sentence, len(found), tuple(found[: self.shown]))
        if self.strict:
            raise StudiesError(f"{notice}; a strict import allows none")
        self.met.append(notice)


def read_source_csv(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """Return somebody's CSV as text, one row a line, blank as "", with the required columns present.

    A column beyond the required ones has `EXTRA` before its name; one that has neither a name nor a value
    (a comma at the end of every line) is left out.

    Raises:
        StudiesError: unreadable, without rows, without a required column, or a line of another length.
    """
    try:
        with open_regular(path) as file:
            if not isinstance(path, Place):
                require_size(path, os.fstat(file.fileno()).st_size, MOST_BYTES)
            lines = iter(lambda: file.readline(MOST_LINE).decode("utf-8-sig"), "")
            names = next(csv.reader(lines), [])
        text = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        alone = pacsv.ReadOptions(use_threads=False)  # as `index.storage.parquet` says
        with open_regular(path) as content:
            frame = pacsv.read_csv(content, alone, convert_options=text).to_pandas(use_threads=False)
    except CollectionError:
        raise
    except (OSError, ValueError, csv.Error) as cause:
        raise StudiesError(f"{path.name!r}: expected a readable CSV ({cause})") from cause
    missing = [name for name in required if name not in names]
    if missing:
        raise StudiesError(f"{path.name!r}: expected column {missing[0]!r}, got {', '.join(names)}")
    if frame.empty:
        raise StudiesError(f"{path.name!r}: expected at least one row, got the header alone")
    if "" in names and frame[[""]].eq("").all(axis=None):
        frame = frame.drop(columns="")
    if not frame.columns.is_unique:
        raise StudiesError(f"{path.name!r}: expected every column name once, got {', '.join(names)}")
    return frame.rename(columns=lambda name: name if name in required else EXTRA + name)


def plain_id(text: str) -> str:
    """Return an id that `index.table.studies.id_fault` takes, but for its length: what it refuses is written as %XX.

    That is a sign that cannot be seen, a space or a slash at either end, a slash beside another, a part that is ".",
    ".." or "~", and a percent sign that would be taken for such an escape. Ids that differ stay so.
    """
    certain = re.sub("%(?=[0-9A-Fa-f]{2})|^ +| +$", lambda found: _escaped(found[0]), text)
    parts = [_escaped(part) if part in (".", "..", "~") else part for part in certain.split("/")]
    slashes = ["/" if before and after else "%2F" for before, after in pairwise(parts)]
    joined = "".join(sign for pair in zip_longest(parts, slashes, fillvalue="") for sign in pair)
    return "".join(sign if is_visible(sign) else _escaped(sign) for sign in joined)


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def as_text(column: pd.Series) -> pa.Array:
    """Return a column of text as strings; "" is null."""
    return pa.array(column.mask(column.eq(""), None).astype(object), type=pa.string(), from_pandas=True)


def as_typed(column: pd.Series) -> pa.Array:
    """Return a column of text as int64 or float64 if all its values are numbers, else as text; "" is null."""
    kept = column[column.ne("")]
    wanted = pa.string()
    if len(kept) and kept.str.fullmatch(_DECIMAL).all():
        wanted = pa.int64() if kept.str.fullmatch(_INTEGER).all() else pa.float64()
    return as_text(column).cast(wanted)


def extra_names(frame: pd.DataFrame) -> list[str]:
    """Return the names of a source's extra columns, `EXTRA` before each."""
    return [name for name in frame.columns if name.startswith(EXTRA)]


def as_extra(frame: pd.DataFrame, taken: Iterable[str] = ()) -> dict[str, pa.Array]:
    """Return the extra columns of a source under their own names, typed by `as_typed`.

    Raises:
        StudiesError: a name is one of the table's own, or of `taken`.
    """
    extra = {name.removeprefix(EXTRA): as_typed(frame[name]) for name in extra_names(frame)}
    studies_schema(pa.field(name, pa.string()) for name in (*taken, *extra))
    return extra


def as_ages(text: pd.Series, studies: pd.Series, notices: Notices) -> pa.Array:
    """Return ages in years as float32; text that is no age is noted with its study and becomes null."""
    ages = [years(age) for age in text]
    lost = text.str.strip().ne("") & pd.Series([age is None for age in ages], index=text.index)
    notices.add("age", "ages that are none, left blank", studies[lost] + " " + text[lost])
    return pa.array(ages, type=pa.float32())


def years(age: str) -> float | None:
    """Return the years of "62", "62.0" or DICOM's "062Y", "018M", "003W", "012D"; None for anything else.

    An age over `OLDEST` is None as well. DICOM PS3.5, section 6.2, value representation AS.
    """
    found = _AGE.fullmatch(age.strip().upper())
    if found is None:
        return None
    value = float(found[1]) / _A_YEAR[found[2]]
    return value if value <= OLDEST else None
