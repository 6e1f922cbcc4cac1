"""The elements of a DICOM data set that are asked for, found in its bytes within a budget (PS3.5, section 7).

A header costs what it holds of those, however much else stands in it: the rest is stepped over. pydicom, which
makes an object of every value, takes 211 MB for a megabyte of them.
"""

import io
import math
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import BinaryIO

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword

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
MOST = 1e12  # of a decimal string: no film's number is near it, and sums of larger ones would leave their range

IMPLICIT, EXPLICIT, EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = (IMPLICIT, EXPLICIT, EXPLICIT_BIG, DEFLATED)
_PREAMBLE = 128
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

    by_keyword: Mapping[str, Element] = field(default_factory=dict)
    little: bool = True

    def __contains__(self, keyword: str) -> bool:
        """Return whether there is such an element with something in it."""
        element = self.by_keyword.get(keyword)
        return element is not None and bool(element.items or element.value.strip(b" \0"))

    def raw(self, keyword: str) -> bytes:
        """Return the bytes of the value; b"" where there is none."""
        element = self.by_keyword.get(keyword)
        return element.value if element else b""

    def text(self, keyword: str) -> str:
        """Return the value less the spaces and NULs around it, which mean nothing (PS3.5, section 6.2)."""
        return self.raw(keyword).decode("latin-1").strip(" \0\t\r\n")

    def numbers(self, keyword: str) -> list[float | None]:
        """Return the values of a decimal or integer string; None for each that is none, or beyond MOST."""
        return [_number(value) for value in self.text(keyword).split("\\")]

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
    vr: str = "OW"


@dataclass(frozen=True)
class DicomFile:
    """What was asked for of a file, and where its pixels lie behind byte `start` of it, inflated where it is not."""

    syntax: str
    header: Elements
    pixels: Pixels | None
    data: bytes
    start: int

    def pixel_bytes(self, most_bytes: int) -> memoryview:
        """Return the bytes from where the pixels begin, `most_bytes` of them at most."""
        begin = self.pixels.start if self.pixels else 0
        if self.syntax == DEFLATED:
            return memoryview(_inflated(self.data[self.start :], begin + most_bytes))[begin:]
        return memoryview(self.data)[begin : begin + most_bytes]


def parse_dicom(data: bytes, wanted: Collection[str]) -> DicomFile:
    """Return the wanted elements of a DICOM file, or of a data set alone, and where its pixels lie.

    Args:
        wanted: keywords of the standard, of the data set and of the items of wanted sequences.

    Raises:
        ImageError: no transfer syntax, a header over the budget, or one that ends within an element.
    """
    syntax, start = transfer_syntax(data)
    if syntax == DEFLATED:
        header, pixels = find_elements(io.BytesIO(_inflated(data[start:], MAX_INFLATED_HEADER)), 0, syntax, wanted)
    else:
        header, pixels = find_elements(io.BytesIO(data), start, syntax, wanted)
    return DicomFile(syntax, header, pixels, data, start)


def find_elements(file: BinaryIO, start: int, syntax: str, wanted: Collection[str]) -> tuple[Elements, Pixels | None]:
    """Return the wanted elements of the data set that begins at byte `start`, and where its pixels lie.

    Raises:
        ImageError: a header over the budget, or one that ends within an element.
    """
    file.seek(start)
    return _Walk(file, wanted, little=syntax != EXPLICIT_BIG).top(implicit=syntax == IMPLICIT)


def is_dicom(data: bytes) -> bool:
    """Return whether the bytes are a DICOM file (PS3.10, section 7.1), or a data set without its preamble."""
    return _has_preamble(data) or _bare_syntax(data) is not None


def _has_preamble(data: bytes) -> bool:
    return data[_PREAMBLE : _PREAMBLE + 4] == b"DICM"


def _bare_syntax(data: bytes) -> str | None:
    """Return the encoding of bytes that begin with an element of group 2 or 8, as data sets do; None for others."""
    if len(data) < 16:
        return None
    if data[4:6] in _LONG | _SHORT:
        return {b"\x02\x00": EXPLICIT, b"\x08\x00": EXPLICIT, b"\x00\x08": EXPLICIT_BIG}.get(data[:2])
    group, element, length = struct.unpack_from("<HHI", data)
    return IMPLICIT if group == 8 and element <= 0x0070 and length <= 256 and length % 2 == 0 else None


def transfer_syntax(data: bytes) -> tuple[str, int]:
    """Return the transfer syntax of a DICOM file, and where its data set begins (PS3.10, section 7.1).

    A data set alone has the encoding that its first element shows.

    Args:
        data: the file, or its first bytes.

    Raises:
        ImageError: it does not say.
    """
    position = _PREAMBLE + 4 if _has_preamble(data) else 0
    if not position and data[:2] != b"\x02\x00":
        return _bare_syntax(data) or IMPLICIT, 0
    syntax = ""
    for _ in range(MAX_META_ELEMENTS):
        if position + 8 > len(data):
            break
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        if group != 2:
            break
        position += 8
        if vr in _LONG:
            length = int.from_bytes(data[position : position + 4], "little")
            position += 4
        if element == 0x0010:
            syntax = data[position : position + min(length, 64)].rstrip(b"\x00 ").decode("ascii", "replace")
        position += length
    if not syntax:
        raise ImageError("expected a DICOM file that states its transfer syntax, got none; write it as DICOM Part 10")
    return syntax, position


def _inflated(data: bytes, most_bytes: int) -> bytes:
    """Return the first bytes of a deflated data set (PS3.5, section A.5)."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most_bytes)
    except zlib.error:
        raise ImageError("expected a whole deflated DICOM file, got a damaged one") from None


def joined_fragments(data: bytes, start: int) -> bytes:
    """Return the one frame of encapsulated pixel data: its fragments, without the offset table (PS3.5, A.4).

    The delimiter behind the last one, and what the last one lacks, may be missing: a frame has an end of its own.

    Raises:
        ImageError: more fragments than any film has, or what is none.
    """
    fragments: list[bytes] = []
    while start + 8 <= len(data) and len(fragments) <= MAX_FRAGMENTS:
        group, element, length = struct.unpack_from("<HHI", data, start)
        start += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000):
            raise ImageError("expected fragments of compressed pixel data, got other bytes; the file is damaged")
        fragments.append(data[start : start + length])
        start += length
        if length % 2 and data[start : start + 3] == b"\0\xfe\xff":  # a pad byte that the length does not count
            start += 1
    if len(fragments) > MAX_FRAGMENTS:
        raise ImageError(f"expected at most {MAX_FRAGMENTS} fragments of a compressed frame, got more")
    # The table says where frames begin, and the film has one; a writer that forgets it begins with the frame.
    tabled = not (fragments and fragments[0].startswith(_CODESTREAMS))
    return b"".join(fragments[1:] if tabled else fragments)


class _Walk:
    """One pass over a data set, which ends before the pixels."""

    def __init__(self, file: BinaryIO, wanted: Collection[str], *, little: bool) -> None:
        self._file = file
        self._wanted = {tag_for_keyword(keyword): keyword for keyword in wanted}
        self._little = little
        self._start = file.tell()
        self._left = MAX_ELEMENTS
        self._end = file.seek(0, io.SEEK_END)
        file.seek(self._start)

    def top(self, *, implicit: bool) -> tuple[Elements, Pixels | None]:
        elements: dict[str, Element] = {}
        for tag, vr, length in self._elements(self._end, implicit=self._is_implicit(implicit)):
            if tag in _PIXEL_DATA:
                return Elements(elements, self._little), self._pixels(tag, vr, length)
            self._keep(elements, tag, vr, length, 1)
        return Elements(elements, self._little), None

    def _pixels(self, tag: int, vr: str, length: int) -> Pixels:
        if tag != _PIXEL_DATA[-1]:
            raise ImageError("expected pixels of whole numbers, got floating point; export the film for display")
        return Pixels(self._file.tell(), None if length == _UNDEFINED else length, vr or "OW")

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
                raise ImageError(f"expected a DICOM header of at most {MAX_HEADER_BYTES} bytes, got more")
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

    def _keep(self, elements: dict[str, Element], tag: int, vr: str, length: int, depth: int) -> None:
        """Put a wanted element among those found, and step over another."""
        keyword = self._wanted.get(tag)
        if length == _UNDEFINED or vr == "SQ" or (keyword and _vr(keyword) == "SQ" and vr in ("UN", "")):
            items = self._sequence(vr, length, depth, wanted=keyword is not None)
            if keyword is not None:
                elements[keyword] = Element("SQ", items=items)
        elif keyword is None:
            self._skip(length)
        else:
            most = MAX_TABLE_BYTES if keyword in TABLES else MAX_VALUE_BYTES
            if length > most:
                raise ImageError(f"expected {keyword} of at most {most} bytes, got {length}; the header is damaged")
            elements[keyword] = Element(vr, self._read(length))

    def _sequence(self, vr: str, length: int, depth: int, *, wanted: bool) -> tuple[Elements, ...]:
        """Return the items of a sequence where they are wanted, with the file behind it."""
        if depth > MAX_DEPTH:
            raise ImageError(f"expected a DICOM header of at most {MAX_DEPTH} levels of sequences, got more")
        if length != _UNDEFINED and not wanted:
            self._skip(length)
            return ()
        end = self._within(length)
        bulk = vr.encode("latin-1") in _BULK  # fragments of an icon, which are no data sets
        # What is written as UN with no length is implicit and little endian inside (PS3.5, section 6.2.2).
        inner = _Inner(implicit=vr in ("", "UN"), depth=depth + 1, wanted=wanted)
        items: list[Elements] = []
        while self._file.tell() < end:
            tag, size = self._item_header()
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM:
                raise ImageError("expected an item of a sequence, got other bytes; the header is damaged")
            if size != _UNDEFINED and (bulk or not wanted):
                self._skip(size)
            else:
                items.append(self._item(size, inner))
        return tuple(items)

    def _item(self, size: int, inner: "_Inner") -> Elements:
        elements: dict[str, Element] = {}
        for tag, vr, length in self._elements(self._within(size), implicit=inner.implicit):
            if tag == _ITEM_END:
                break
            if inner.wanted:
                self._keep(elements, tag, vr, length, inner.depth)
            elif length == _UNDEFINED:
                self._sequence(vr, length, inner.depth, wanted=False)
            else:
                self._skip(length)
        return Elements(elements, self._little)

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
            raise ImageError(f"expected a DICOM header of at most {MAX_ELEMENTS} elements and items, got more")


@dataclass(frozen=True)
class _Inner:
    """How the data sets within a sequence are written, how deep they lie, and whether they are wanted."""

    implicit: bool
    depth: int
    wanted: bool
