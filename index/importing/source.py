"""What every importer shares: its notices, what it gives back, ids, and what texts become."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

import pyarrow as pa
import pyarrow.compute as pc

from index.errors import StudiesError
from index.printable import is_visible

MOST_LINE = 1 << 20
"""Bytes of a line that are read at a time."""
OLDEST = 120.0  # years; a source that says more has a slip of the pen, or 999 for unknown
_INTEGER = r"^-?(?:0|[1-9]\d{0,17})$"  # no leading zeros: 007 is a code and stays text
_DECIMAL = r"^-?(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?$"
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

    def add(self, kind: str, sentence: str, examples: Iterable[object], *, expected: bool = False) -> None:
        """Note the examples, if there are any.

        Args:
            expected: whether they are as somebody asked, so that a strict import allows them.

        Raises:
            StudiesError: the import is strict and there is at least one example that is not expected.
        """
        shown = [str(example) for example in examples]
        if not shown:
            return
        notice = Notice(kind, sentence, len(shown), tuple(shown[: self.shown]))
        if self.strict and not expected:
            raise StudiesError(f"{notice}; a strict import allows none")
        self.met.append(notice)


def plain_id(text: str) -> str:
    """Return an id that `index.table.studies.id_fault` takes, but for its length: what it refuses is written as %XX.

    That is a sign that cannot be seen, a space or a slash at either end, a slash beside another, a part that is ".",
    ".." or "~", and a percent sign that would be taken for such an escape. Ids that differ stay so.
    """
    certain = re.sub("%(?=[0-9A-Fa-f]{2})|^ +| +$", lambda match: _escaped(match[0]), text)
    parts = [_escaped(part) if part in (".", "..", "~") else part for part in certain.split("/")]
    slashes = ["/" if before and after else "%2F" for before, after in pairwise(parts)]
    joined = "".join(sign for pair in zip_longest(parts, slashes, fillvalue="") for sign in pair)
    return "".join(sign if is_visible(sign) else _escaped(sign) for sign in joined)


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def as_text(column: pa.Array) -> pa.Array:
    """Return a column of text in which "" is null."""
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def as_typed(column: pa.Array) -> pa.Array:
    """Return a column of text as int64 or float64 if all its values are numbers, else as text; "" is null."""
    texts = as_text(column)
    wanted = pa.string()
    if texts.null_count < len(texts) and pc.all(pc.match_substring_regex(texts, _DECIMAL)).as_py():
        wanted = pa.int64() if pc.all(pc.match_substring_regex(texts, _INTEGER)).as_py() else pa.float64()
    return texts.cast(wanted)


def as_ages(texts: pa.Array, studies: pa.Array, notices: Notices) -> pa.Array:
    """Return ages in years as float32; text that is no age is noted with its study and becomes null."""
    coded = texts.dictionary_encode()
    known = pa.array([years(text) for text in coded.dictionary.to_pylist()], pa.float32())
    ages = known.take(coded.indices)
    lost = pc.and_(pc.is_null(ages), pc.not_equal(texts, ""))
    pairs = pc.binary_join_element_wise(studies.filter(lost), texts.filter(lost), " ")
    notices.add("age", "ages that are none, left blank", pairs.to_pylist())
    return ages


def years(age: str) -> float | None:
    """Return the years of "62", "62.0" or DICOM's "062Y", "018M", "003W", "012D"; None for anything else.

    An age over `OLDEST` is None as well. DICOM PS3.5, section 6.2, value representation AS.
    """
    match = _AGE.fullmatch(age.strip().upper())
    if match is None:
        return None
    value = float(match[1]) / _A_YEAR[match[2]]
    return value if value <= OLDEST else None
