"""The elements of a DICOM file that are asked for, read within limits of size, count and depth (PS3.5, section 7).

A header costs what it holds of those, however much else stands in it: the rest is stepped over. pydicom, which
makes an object of every value, takes 211 MB for a megabyte of them.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import BinaryIO

import numpy as np
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.valuerep import TEXT_VR_DELIMS

from encoder.errors import ImageError

MAX_ELEMENTS = 20_000  # of a header, those within sequences and the items themselves too; a film has a few hundred
MAX_DEPTH = 16
MAX_HEADER_BYTES = 64_000_000  # before the pixels: room for sixteen overlays of the largest detectors
MAX_INFLATED_HEADER = 8_000_000  # bytes of a deflated file that are inflated before its size in pixels is known
MAX_FRAGMENTS = 4096  # of a compressed frame; most have one
MAX_VALUE_BYTES = 4096
MAX_TABLE_BYTES = 4 * 65536  # 65,536 entries of 16 bits, or of twice that
PALETTE = tuple(
    f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")
)
TABLES = ("LUTData", *PALETTE[1::2])
MAX_META_ELEMENTS = 64
_BLANK = " \0\t\r\n"
MOST = 1e12  # of a decimal string: no film's number is near it, and sums of larger ones would leave their range

IMPLICIT, EXPLICIT, EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = (IMPLICIT, EXPLICIT, EXPLICIT_BIG, DEFLATED)
_PREAMBLE, _META = 128, b"\x02\x00"
_CODESTREAMS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_BULK = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW"))
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_NUMBERS = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4"}


@dataclass(frozen=True)
class Element:
    """One element as it is written: its VR, its bytes or its items."""

    vr: str
    value: bytes = b""
    items: tuple["Elements", ...] = ()


@dataclass(frozen=True)
class Elements:
    """The elements of one data set that were asked for, by their keywords in the standard."""

    by_keyword: dict[str, Element] = field(default_factory=dict)
    little: bool = True
    around: bytes = b""
    """The character sets of the data set around an item."""

    def __contains__(self, keyword: str) -> bool:
        """Return whether there is such an element with something in it."""
        element = self.by_keyword.get(keyword)
        return element is not None and bool(element.items or element.value.strip(b" \0"))

    def raw(self, keyword: str) -> bytes:
        """Return the bytes of the value; b"" where there is none."""
        element = self.by_keyword.get(keyword)
        return element.value if element else b""

    @property
    def character_sets(self) -> bytes:
        """The names of its character sets, which are those around it where it has none of its own."""
        return self.raw("SpecificCharacterSet") or self.around

    def text(self, keyword: str) -> str:
        """Return the value less the spaces and NULs around it, which mean nothing (PS3.5, section 6.2).

        A backslash is left in it: whether it parts values is for the caller to know.
        """
        return _decoded(self.raw(keyword), self.character_sets).strip(_BLANK)

    def texts(self, keyword: str) -> list[str]:
        """Return each of several values."""
        return [value.strip() for value in self.text(keyword).split("\\")]

    def numbers(self, keyword: str) -> list[float | None]:
        """Return the values of a decimal or integer string; None for each that is none, or beyond MOST."""
        return [_number(value) for value in self.raw(keyword).decode("latin-1").strip(_BLANK).split("\\")]

    def number(self, keyword: str) -> float | None:
        """Return the first value of a decimal or integer string."""
        return self.numbers(keyword)[0]

    def integers(self, keyword: str) -> list[int]:
        """Return the values of a binary element, or of a text of whole numbers; [] where it is neither.

        What can be US or SS is read as US: only the picture tells which was meant.
        """
        element = self.by_keyword.get(keyword)
        if element is None:
            return []
        vr = _vr(keyword) if element.vr in ("UN", "") else element.vr
        if vr in ("IS", "DS"):
            return [int(value) for value in self.numbers(keyword) if value is not None and value == int(value)]
        kind = np.dtype(f"{'<' if self.little else '>'}{_NUMBERS.get(vr[:2], 'u2')}")
        return [int(value) for value in np.frombuffer(element.value, kind, len(element.value) // kind.itemsize)]

    def integer(self, keyword: str) -> int | None:
        """Return the first of the whole numbers; None where there is none."""
        return next(iter(self.integers(keyword)), None)

    def items(self, keyword: str) -> tuple["Elements", ...]:
        """Return the items of a sequence; () where there is none."""
        element = self.by_keyword.get(keyword)
        return element.items if element else ()


def _decoded(value: bytes, character_sets: bytes) -> str:
    """Return text in its character set (PS3.5, section 6.1); what breaks it is read byte by byte, so none is lost."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    named = [name.strip() for name in character_sets.decode("ascii", "replace").split("\\")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes what it does not know
            # Without a character set only ASCII is allowed; what else is there is UTF-8, or Latin-1 as below.
            encodings = ["utf-8"] if named == [""] else convert_encodings(named)
            text = decode_bytes(value, encodings, TEXT_VR_DELIMS)
    except (UnicodeError, LookupError):
        return value.decode("latin-1")
    return value.decode("latin-1") if "\ufffd" in text else text


def _number(text: str) -> float | None:
    try:
        number = float(text) if "_" not in text else math.nan  # Python reads 1_000, the standard does not
    except ValueError:
        return None
    return number if math.isfinite(number) and abs(number) <= MOST else None


@cache
def _vr(keyword: str) -> str:
    return dictionary_VR(keyword)


@dataclass(frozen=True)
class Pixels:
    """Where pixel data begins, and how many bytes it has; None where it is in fragments."""

    start: int
    length: int | None
    vr: str
    held: int
    """Bytes of it that are in the file."""
    whole: bool
    """Whether these are all that the header tells of, or all fragments."""


@dataclass(frozen=True)
class DicomFile:
    """What was asked for of a file, and where its pixels lie behind byte `start` of it, inflated where it is not."""

    syntax: str
    start: int
    header: Elements
    pixels: Pixels | None
    bare: bool
    """Whether the file begins with the data set (PS3.10, section 7.1 asks for more)."""
    fault: str = ""
    """What is wrong with the header, which is read as far as it goes."""
    too_large: bool = False
    """Whether it holds more than any film's."""
    data: bytes = b""

    def pixel_bytes(self, most_bytes: int) -> memoryview:
        """Return the bytes from where the pixels begin, `most_bytes` of them at most."""
        begin = self.pixels.start if self.pixels else 0
        if self.syntax == DEFLATED:
            return memoryview(_inflated(self.data[self.start :], begin + most_bytes)[0])[begin:]
        return memoryview(self.data)[begin : begin + most_bytes]


class _TooLarge(ImageError):
    """A header that is larger than any film's."""


def parse_dicom(data: bytes, wanted: Collection[str]) -> DicomFile:
    """Return a DICOM file, or a data set alone, with its wanted elements; `read_header` of what must have no fault.

    Raises:
        ImageError: no transfer syntax, a header over the budget, or one that is damaged.
    """
    found = read_header(io.BytesIO(data), wanted)
    if found is None or found.fault:
        raise ImageError(found.fault if found else "expected a DICOM file, got another one; export the film again")
    return replace(found, data=data)


def read_header(file: BinaryIO, wanted: Collection[str]) -> DicomFile | None:
    """Return the wanted elements of a DICOM file, or of a data set alone, without its data; None where it is neither.

    Args:
        file: at its beginning.
        wanted: keywords of the standard, of the data set and of the items of wanted sequences.

    Raises:
        ImageError: it is said to be deflated, and is not.
    """
    lead = file.read(_PREAMBLE + 4)
    begin = _beginning(lead)
    if begin is None:
        return None
    file.seek(begin)
    syntax, fault, more = _read_syntax(file), "", False
    if not syntax and not begin and lead[:2] != _META:
        syntax = _bare_syntax(lead) or ""
    elif not syntax:
        fault = "expected a DICOM file that states its transfer syntax, got none; write it as DICOM Part 10"
    start = file.tell()
    if syntax == DEFLATED:
        inflated, more = _inflated(file.read(MAX_INFLATED_HEADER), MAX_INFLATED_HEADER)
        file = io.BytesIO(inflated)
    walk = _Walk(file, wanted, little=syntax != EXPLICIT_BIG)
    walk.go(implicit=syntax == IMPLICIT)
    bare = begin != _PREAMBLE + 4
    if bare and not walk.found.by_keyword:
        return None
    pixels = replace(walk.pixels, whole=walk.pixels.whole or more) if walk.pixels else None
    return DicomFile(syntax, start, walk.found, pixels, bare, fault or walk.fault, walk.too_large)


def is_dicom(data: bytes) -> bool:
    """Return whether the bytes are a DICOM file (PS3.10, section 7.1), or one without its preamble, or a data set."""
    return _beginning(data) is not None


def _beginning(data: bytes) -> int | None:
    """Return where the meta information begins, or the data set of a file that has none; None of other bytes."""
    for begin in (_PREAMBLE, 0):
        if data[begin : begin + 4] == b"DICM":
            return begin + 4
    return None if _bare_syntax(data) is None else 0


def _bare_syntax(data: bytes) -> str | None:
    """Return the encoding of bytes that begin with an element of group 2 or 8, as data sets do; None for others."""
    if len(data) < 16:
        return None
    if data[4:6] in _LONG | _SHORT:
        return {_META: EXPLICIT, b"\x08\x00": EXPLICIT, b"\x00\x08": EXPLICIT_BIG}.get(data[:2])
    group, element, length = struct.unpack_from("<HHI", data)
    return IMPLICIT if group == 8 and element <= 0x0070 and length <= 256 and length % 2 == 0 else None


def _read_syntax(file: BinaryIO) -> str:
    """Return the transfer syntax, with the file behind its meta information (PS3.10, section 7.1); "" without one."""
    syntax = b""
    for _ in range(MAX_META_ELEMENTS):
        head = file.read(8)
        if len(head) < 8 or head[:2] != _META:
            file.seek(-len(head), io.SEEK_CUR)
            break
        length = int.from_bytes(file.read(4) if head[4:6] in _LONG else head[6:], "little")
        value = file.read(min(length, 64))
        file.seek(length - len(value), io.SEEK_CUR)
        if head[2:4] == b"\x10\x00":
            syntax = value.rstrip(b"\0 ")
    return syntax.decode("ascii", "replace")


def _inflated(data: bytes, most_bytes: int) -> tuple[bytes, bool]:
    """Return the first bytes of a deflated data set (PS3.5, section A.5), and whether there are more."""
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflating.decompress(data, most_bytes), not inflating.eof
    except zlib.error:
        raise ImageError("expected a whole deflated DICOM file, got a damaged one") from None


def joined_fragments(data: bytes, start: int) -> bytes:
    """Return the one frame of encapsulated pixel data: its fragments, without the offset table (PS3.5, A.4).

    The delimiter behind the last one, and what the last one lacks, may be missing: a frame has an end of its own.

    Raises:
        ImageError: more fragments than any film has, or what is none.
    """
    places, behind = _fragments(io.BytesIO(data), start)
    if len(places) > MAX_FRAGMENTS:
        raise ImageError(f"expected at most {MAX_FRAGMENTS} fragments of a compressed frame, got more")
    if behind not in (None, _SEQUENCE_END):
        raise ImageError("expected fragments of compressed pixel data, got other bytes; the file is damaged")
    # The table says where frames begin, and the film has one; a writer that forgets it begins with the frame.
    tabled = not (places and data[places[0]].startswith(_CODESTREAMS))
    return b"".join(data[place] for place in places[tabled:])


def _fragments(file: BinaryIO, start: int) -> tuple[list[slice], int | None]:
    """Return where each fragment of encapsulated pixel data lies, no more than one beyond the most that a film has.

    And the tag behind them; None where the file ends, or they were counted no further.
    """
    places: list[slice] = []
    file.seek(start)
    while len(places) <= MAX_FRAGMENTS and len(head := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHI", head)
        if (tag := group << 16 | element) != _ITEM:
            return places, tag
        start = file.tell() + length
        places.append(slice(start - length, start))
        file.seek(start)
        if length % 2 and file.read(3) == b"\0\xfe\xff":  # a pad byte that the length does not count
            start += 1
        file.seek(start)
    return places, None


class _Walk:
    """One pass over a data set, which ends before the pixels."""

    def __init__(self, file: BinaryIO, wanted: Collection[str], *, little: bool) -> None:
        self.found = Elements(little=little)
        self.pixels: Pixels | None = None
        self.fault, self.too_large = "", False
        self._file = file
        self._wanted = {tag_for_keyword(keyword): keyword for keyword in ("SpecificCharacterSet", *wanted)}
        self._little = little
        self._start = file.tell()
        self._left = MAX_ELEMENTS
        self._end = file.seek(0, io.SEEK_END)
        file.seek(self._start)

    def go(self, *, implicit: bool) -> None:
        """Find the elements of the data set up to its pixels, or to what cannot be read."""
        try:
            for tag, vr, length in self._elements(self._end, implicit=self._is_implicit(implicit)):
                if tag in _PIXEL_DATA:
                    if tag != _PIXEL_DATA[-1]:
                        self._note("expected pixels of whole numbers, got floating point; export the film for display")
                    self.pixels = self._pixels(vr, length)
                    break
                self._keep(self.found, tag, vr, length, 1)
        except ImageError as fault:
            self._note(str(fault))
            self.too_large = isinstance(fault, _TooLarge)

    def _note(self, fault: str) -> None:
        self.fault = self.fault or fault

    def _pixels(self, vr: str, length: int) -> Pixels:
        start = self._file.tell()
        if length == _UNDEFINED:
            places, behind = _fragments(self._file, start)
            held = sum(place.stop - place.start for place in places)
            return Pixels(start, None, vr or "OW", held, behind == _SEQUENCE_END)
        held = min(length, self._end - start)
        sides = [self.found.integer(keyword) or 0 for keyword in ("Rows", "Columns", "BitsAllocated")]
        return Pixels(start, length, vr or "OW", held, 8 * held >= math.prod(sides))

    def _is_implicit(self, stated: bool) -> bool:
        """Return whether the data set has no VRs, which some files have other than they state."""
        vr = self._file.read(6)[4:]
        self._file.seek(self._start)
        return vr not in _LONG | _SHORT if stated else not (vr.isalpha() and vr.isupper())

    def _elements(self, end: int, *, implicit: bool) -> Iterator[tuple[int, str, int]]:
        """Yield tag, VR ("" where none is written) and length of each element, with the file at its value."""
        order = "<" if self._little else ">"
        while self._file.tell() < end:
            if self._file.tell() - self._start > MAX_HEADER_BYTES:
                raise _TooLarge(f"expected a DICOM header of at most {MAX_HEADER_BYTES} bytes, got more")
            group, element, rest = struct.unpack(order + "HH4s", self._read(8))
            tag = group << 16 | element
            self._count()
            if implicit or group == 0xFFFE:
                vr, length = b"", struct.unpack(order + "I", rest)[0]
            elif (vr := rest[:2]) in _LONG:
                length = struct.unpack(order + "I", self._read(4))[0]
            else:
                length = struct.unpack(order + "H", rest[2:])[0]
            yield tag, vr.decode("latin-1"), length

    def _keep(self, found: Elements, tag: int, vr: str, length: int, depth: int) -> None:
        """Put a wanted element among those found, and step over another, or one that is too long."""
        keyword = self._wanted.get(tag)
        most = MAX_TABLE_BYTES if keyword in TABLES else MAX_VALUE_BYTES
        if length == _UNDEFINED or vr == "SQ" or (keyword and _vr(keyword) == "SQ" and vr in ("UN", "")):
            inner = _Inner(vr in ("", "UN"), depth + 1, wanted=keyword is not None, around=found.character_sets)
            items = self._sequence(vr, length, inner)
            if keyword is not None:
                found.by_keyword[keyword] = Element("SQ", items=items)
        elif keyword is not None and length <= most:
            found.by_keyword[keyword] = Element(vr, self._read(length))
        else:
            self._skip(length)
            if keyword is not None:
                self._note(f"expected {keyword} of at most {most} bytes, got {length}; the header is damaged")

    def _sequence(self, vr: str, length: int, inner: "_Inner") -> tuple[Elements, ...]:
        """Return the items of a sequence where they are wanted, with the file behind it."""
        if inner.depth > MAX_DEPTH + 1:
            raise _TooLarge(f"expected a DICOM header of at most {MAX_DEPTH} levels of sequences, got more")
        if length != _UNDEFINED and not inner.wanted:
            self._skip(length)
            return ()
        end = self._within(length)
        bulk = vr.encode("latin-1") in _BULK  # fragments of an icon, which are no data sets
        items: list[Elements] = []
        while self._file.tell() < end:
            tag, size = self._item_header()
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM:
                raise ImageError("expected an item of a sequence, got other bytes; the header is damaged")
            if size != _UNDEFINED and (bulk or not inner.wanted):
                self._skip(size)
            else:
                items.append(self._item(size, inner))
        return tuple(items)

    def _item(self, size: int, inner: "_Inner") -> Elements:
        found = Elements(little=self._little, around=inner.around)
        for tag, vr, length in self._elements(self._within(size), implicit=inner.implicit):
            if tag == _ITEM_END:
                break
            if inner.wanted:
                self._keep(found, tag, vr, length, inner.depth)
            elif length == _UNDEFINED:
                self._sequence(vr, length, replace(inner, implicit=vr in ("", "UN"), depth=inner.depth + 1))
            else:
                self._skip(length)
        return found

    def _item_header(self) -> tuple[int, int]:
        self._count()
        group, element, size = struct.unpack(("<" if self._little else ">") + "HHI", self._read(8))
        return group << 16 | element, size

    def _within(self, length: int) -> int:
        """Return where something of this length ends."""
        end = self._end if length == _UNDEFINED else self._file.tell() + length
        if end > self._end:
            raise ImageError("expected a whole DICOM header, got one that ends within an element; it is truncated")
        return end

    def _skip(self, length: int) -> None:
        self._file.seek(self._within(length))

    def _read(self, count: int) -> bytes:
        self._within(count)
        return self._file.read(count)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooLarge(f"expected a DICOM header of at most {MAX_ELEMENTS} elements and items, got more")


@dataclass(frozen=True)
class _Inner:
    """How the data sets within a sequence are written, how deep they lie, and whether they are wanted.

    What is written as UN with no length is implicit and little endian inside (PS3.5, section 6.2.2).
    """

    implicit: bool
    depth: int
    wanted: bool
    around: bytes
