"""One DICOM header, read within a budget, and what the table of studies needs of it.

Only the elements that are asked for are kept, the rest is stepped over unread, pixels too. No name, birth date,
institution or free text leaves this module, but where a caller names the element.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.valuerep import TEXT_VR_DELIMS

from index.importing.dicom_view import View, view_of
from index.importing.source import years


def _tags(*keywords: str) -> dict[int, str]:
    return {tag: keyword for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}


OUR_MANUFACTURER, OUR_MODEL = "Precedent", "Similar-case search"
"""Of the equipment that results name which were returned to the archive; both, so that they are no films of others."""
FILM_MODALITIES = ("CR", "DX", "DR", "RG", "XR")
MOST_BYTES = 64_000_000
"""Of a header, before the pixels: room for sixteen overlays of the largest detectors. Nearly all is stepped over."""
MOST_INFLATED = 16_000_000  # bytes; of a deflated file no more is inflated, its header has to end by then
MOST_ELEMENTS = 20_000  # those within sequences, items and fragments counted too; a film has a few hundred
MOST_DEPTH = 16  # of sequences within each other
MOST_VALUE = 4096  # bytes; a value asked for that is longer is left out, the longest allowed has 1024 characters
MOST_META = 64  # elements before the data set

_WORDS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
_WORDS_OF_THE_STUDY = ("PerformedProcedureStepDescription", "StudyDescription", "RequestedProcedureDescription")
_DATES = ("StudyDate", "AcquisitionDate", "SeriesDate", "ContentDate")
_VALUES = _tags(
    "SpecificCharacterSet",
    "ImageType",
    "Manufacturer",
    "ManufacturerModelName",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "PresentationIntentType",
    "DerivationDescription",
    "PatientID",
    "IssuerOfPatientID",
    "UniversalEntityID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
    "ViewPosition",
    "StudyInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "PatientOrientation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BurnedInAnnotation",
    "CodeValue",
    "CodeMeaning",
    *_DATES,
    *_WORDS,
    *_WORDS_OF_THE_STUDY,
)
_SEQUENCES = _tags(
    "AnatomicRegionSequence", "IssuerOfPatientIDQualifiersSequence", "ViewCodeSequence", "ViewModifierCodeSequence"
)
_PIXELS = _tags("FloatPixelData", "DoubleFloatPixelData", "PixelData")
_ITEM, _ITEM_END, _SEQUENCE_END, _UNDEFINED = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFFFFFF
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_BIG, _DEFLATED = b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and those of several frames, which begin alike
_DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_LAST = 2**31  # of a film without a number
_SEX = {"M": "Male", "F": "Female", "O": "Other", "MALE": "Male", "FEMALE": "Female", "OTHER": "Other"}
_PROCESSED = re.compile(r"(?:BONE|RIB).?SUP|SOFT.?TISS|SUBTRACT|DUAL.?ENERGY|\bCAD\b|MARK.?UP|INVERT|HEAT.?MAP")

TAKEN, DERIVED, ALTERED = range(3)
"""A film as it was taken; one made of that, as most for display are; and one made after the exam or to show something
else, such as lungs without bones or a computer's marks (PS3.3, C.7.6.1.1.2)."""
Elsewhere = Callable[[str, Sequence[str]], bool]
"""Whether a film shows no chest, by the body part that its header states, and by what it says of the film in words."""


@dataclass(frozen=True)
class Film:
    """One film as its header tells it; "" or None where it does not say."""

    path: str
    instance: str
    patient: str
    issuer: str  # of the patient's id, which is unique among those of one issuer (PS3.3, C.2.3)
    study: str
    modality: str
    ours: bool  # whether it is a result that was returned to the archive from here
    elsewhere: bool
    burned: bool  # whether text that names the patient is burned into the picture (PS3.3, C.7.6.1.1.3)
    raw: bool  # whether it is for processing, not for display (PS3.3, C.8.11.1)
    colour: bool
    derived: int  # TAKEN, DERIVED or ALTERED
    localizer: bool
    frames: int
    pixels: bool  # whether there are any
    whole: bool  # whether all of them are there
    bare: bool  # whether the file begins with the data set (PS3.10, section 7.1 asks for more)
    view: str  # frontal, lateral or ""
    projection: str
    disputed: bool  # whether the header says two views or two projections
    sex: str
    age: float | None  # years
    ageless: bool  # whether an age is written that is none
    number: tuple[int, int]  # of the series, and of the instance within it
    placed: bool = True  # whether its path has the ids that were looked for there


class OverBudget(ValueError):
    """A header that is larger than any film's."""


def read_film(file: Path, path: str, elsewhere: Elsewhere) -> Film | None:
    """Return what the table needs of one header, or None where there is none to read.

    A header that is cut off is read as far as it goes.

    Raises:
        OverBudget: more bytes, elements or levels of sequences than any film has.
    """
    try:
        with file.open("rb") as content:
            return parse_film(content, path, elsewhere)
    except OSError:
        return None


def parse_film(content: BinaryIO, path: str = "", elsewhere: Elsewhere = lambda part, words: False) -> Film | None:
    """Return what an open file's header says, or None where there is none. Raises as `read_film`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes a character set that it does not know
            header = _read_header(content)
            return None if header is None else _film(header, path, elsewhere)
    except (OSError, zlib.error):
        return None


def read_header(file: Path, keywords: Sequence[str]) -> "Header | None":
    """Return the elements of those keywords, outside of sequences; None where there is no header to read.

    Raises:
        OverBudget: as `read_film`. OSError.
    """
    with file.open("rb") as content:
        try:
            return _read_header(content, _tags("SpecificCharacterSet", *keywords))
        except zlib.error:
            return None


def _film(header: "Header", path: str, elsewhere: Elsewhere) -> Film:
    kinds = [kind.upper() for kind in header.texts("ImageType")]
    series = [header.text(name) for name in _WORDS]
    view = _view(header, series)
    written = header.text("PatientAge")
    age = years(written)
    age = _age_on_the_day(header) if age is None else age
    return Film(
        path=path,
        instance=header.text("SOPInstanceUID"),
        patient=header.text("PatientID"),
        issuer=_issuer(header),
        study=header.text("StudyInstanceUID"),
        modality=header.text("Modality").upper(),
        ours=(header.text("Manufacturer"), header.text("ManufacturerModelName")) == (OUR_MANUFACTURER, OUR_MODEL),
        elsewhere=elsewhere(_part(header), series),
        burned=header.text("BurnedInAnnotation").upper() == "YES",
        raw=_is_raw(header),
        colour=_is_colour(header),
        derived=_derived(header, kinds, series),
        localizer=not {"LOCALIZER", "SCOUT"}.isdisjoint(kinds),
        frames=header.number("NumberOfFrames", 1),
        pixels=header.pixels > 0 and header.integer("Rows") > 0 and header.integer("Columns") > 0,
        whole=header.whole,
        bare=header.bare,
        view=view.view,
        projection=view.projection,
        disputed=view.disputed,
        sex=_SEX.get(header.text("PatientSex").upper(), ""),
        age=age,
        ageless=bool(written) and age is None,
        number=(header.number("SeriesNumber", _LAST), header.number("InstanceNumber", _LAST)),
    )


def _view(header: "Header", series: list[str]) -> View:
    items = header.sequence("ViewCodeSequence")
    items = [*items, *(modifier for item in items for modifier in item.sequence("ViewModifierCodeSequence"))]
    return view_of(
        codes=[(item.text("CodeValue"), item.text("CodeMeaning")) for item in items],
        position=header.text("ViewPosition"),
        orientation=header.texts("PatientOrientation"),
        series=series,
        study=[header.text(name) for name in _WORDS_OF_THE_STUDY],
    )


def _issuer(header: "Header") -> str:
    """Who gave the patient's id: by name, else by the universal identifier (PS3.3, table 10-18)."""
    qualifiers = header.sequence("IssuerOfPatientIDQualifiersSequence")
    return header.text("IssuerOfPatientID") or next((item.text("UniversalEntityID") for item in qualifiers), "")


def _is_raw(header: "Header") -> bool:
    intent = header.text("PresentationIntentType").upper()
    return intent == "FOR PROCESSING" or (not intent and header.text("SOPClassUID") == _DX_FOR_PROCESSING)


def _is_colour(header: "Header") -> bool:
    polarity = header.text("PhotometricInterpretation").upper() or "MONOCHROME2"
    return header.integer("SamplesPerPixel") > 1 or not polarity.startswith("MONOCHROME")


def _derived(header: "Header", kinds: list[str], series: list[str]) -> int:
    words = " ".join((*kinds[2:], *series, header.text("DerivationDescription"))).upper()
    captured = header.text("SOPClassUID").startswith(_SECONDARY_CAPTURE)
    if captured or "SECONDARY" in kinds[1:2] or _PROCESSED.search(words):
        return ALTERED
    return DERIVED if "DERIVED" in kinds[:1] else TAKEN


def _part(header: "Header") -> str:
    regions = [region.text("CodeMeaning") for region in header.sequence("AnatomicRegionSequence")]
    return header.text("BodyPartExamined") or " ".join(regions).strip()


def _age_on_the_day(header: "Header") -> float | None:
    """Return the completed years between birth and film; below two, years to the day."""
    born = _date(header.text("PatientBirthDate"))
    taken = next((day for name in _DATES if (day := _date(header.text(name)))), None)
    if born is None or taken is None or taken < born:
        return None
    age = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    return years(str(age if age >= 2 else (taken - born).days / 365.2425))


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text.replace(".", ""))  # 2020.06.14 is how ACR-NEMA wrote it
    except ValueError:
        return None


@dataclass
class Header:
    """The elements asked for of one data set or item, and what is known of its pixels."""

    little: bool = True
    bare: bool = False
    values: dict[str, bytes] = field(default_factory=dict)
    items: dict[str, list["Header"]] = field(default_factory=dict)
    pixels: int = 0  # bytes
    whole: bool = False

    def text(self, name: str) -> str:
        """Return the value as text, less the spaces and NULs around it; "" where there is none.

        A backslash is left in it: whether it parts values is for the caller to know.
        """
        value = self.values.get(name, b"")
        return _decoded(value, self.values.get("SpecificCharacterSet", b"")).strip(" \0\t\r\n")

    def texts(self, name: str) -> list[str]:
        """Return each of several values."""
        return [value.strip() for value in self.text(name).split("\\")]

    def sequence(self, name: str) -> list["Header"]:
        """Return the items of a sequence."""
        return self.items.get(name, [])

    def number(self, name: str, default: int) -> int:
        """Return an integer that is written in digits."""
        text = self.text(name)
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,12}", text) else default

    def integer(self, name: str) -> int:
        """Return an unsigned integer of 16 bits; 0 where there is none."""
        return int.from_bytes(self.values.get(name, b"")[:2], "little" if self.little else "big")


def _decoded(value: bytes, character_sets: bytes) -> str:
    """Return text in its character set (PS3.5, section 6.1); what breaks it is read byte by byte, so none is lost."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    named = [name.strip() for name in character_sets.decode("ascii", "replace").split("\\")]
    # Without a character set only ASCII is allowed; what else is there is UTF-8, or Latin-1 as below.
    encodings = ["utf-8"] if named == [""] else convert_encodings(named)
    try:
        text = decode_bytes(value, encodings, TEXT_VR_DELIMS)
    except (UnicodeError, LookupError):
        return value.decode("latin-1")
    return value.decode("latin-1") if "\ufffd" in text else text


def _read_header(file: BinaryIO, wanted: Mapping[int, str] = _VALUES) -> Header | None:
    """Return the header of a DICOM file or of a bare data set; None where the bytes are neither."""
    lead = file.read(132)
    bare = lead[128:] != b"DICM"
    file.seek(132 if not bare else 4 if lead.startswith(b"DICM") else 0)
    syntax = _read_syntax(file)
    if bare and not syntax and lead[:2] != b"\x08\x00":
        return None
    inflating = None
    if syntax == _DEFLATED:
        inflating = zlib.decompressobj(-zlib.MAX_WBITS)
        file = io.BytesIO(inflating.decompress(file.read(MOST_INFLATED), MOST_INFLATED))
    first = file.read(6)
    file.seek(-len(first), io.SEEK_CUR)
    header = _Walk(file, wanted, little=syntax != _BIG).data_set(implicit=not _is_vr(first[4:]))
    header.bare = bare
    header.whole |= inflating is not None and not inflating.eof and header.pixels > 0
    return header if header.values or not bare else None


def _read_syntax(file: BinaryIO) -> bytes:
    """Return the transfer syntax, with the file behind its meta information (PS3.10, section 7.1)."""
    syntax = b""
    for _ in range(MOST_META):
        head = file.read(8)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            file.seek(-len(head), io.SEEK_CUR)
            break
        length = int.from_bytes(file.read(4) if head[4:6] in _LONG else head[6:], "little")
        value = file.read(min(length, 64))
        file.seek(length - len(value), io.SEEK_CUR)
        if head[2:4] == b"\x10\x00":
            syntax = value.rstrip(b" \0")
    return syntax


def _is_vr(letters: bytes) -> bool:
    """Return whether two bytes are a VR: some data sets have none, or have them, other than their syntax says."""
    return len(letters) == 2 and letters.isalpha() and letters.isupper()


class _Walk:
    """One pass over a data set, which ends at the end of its pixels, or where the file does."""

    def __init__(self, file: BinaryIO, wanted: Mapping[int, str], *, little: bool) -> None:
        self._file = file
        self._wanted = wanted
        self._little = little
        self._left = MOST_ELEMENTS
        self._start = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(self._start)

    def data_set(self, *, implicit: bool, end: int | None = None, depth: int = 0, characters: bytes = b"") -> Header:
        """Return the elements asked for up to byte `end`, the end of an item, or the pixels.

        Args:
            characters: the character set of the data set around an item that names none.
        """
        if depth > MOST_DEPTH:
            raise OverBudget(f"expected a DICOM header of at most {MOST_DEPTH} levels of sequences, got more")
        header = Header(self._little, values={"SpecificCharacterSet": characters} if characters else {})
        while head := self._head(end, implicit):
            tag, vr, length = head
            if tag == _ITEM_END:
                break
            if tag in _PIXELS and not depth:
                header.pixels, header.whole = self._pixels(header, length)
                break
            if length == _UNDEFINED or tag in _SEQUENCES:
                characters = header.values.get("SpecificCharacterSet", b"")
                # What is written as UN with no length is implicit inside (PS3.5, section 6.2.2).
                inner = partial(self.data_set, implicit=implicit or vr == b"UN", depth=depth + 1, characters=characters)
                items = self._items(length, inner, wanted=tag in _SEQUENCES)
                if tag in _SEQUENCES:
                    header.items[_SEQUENCES[tag]] = items
            elif tag in self._wanted and length <= MOST_VALUE:
                header.values[self._wanted[tag]] = self._file.read(length)
            else:
                self._file.seek(length, io.SEEK_CUR)
        return header

    def _items(self, length: int, inner: Callable[..., Header], *, wanted: bool) -> list[Header]:
        """Return the items of a sequence where they are wanted, with the file behind it."""
        end = None if length == _UNDEFINED else self._file.tell() + length
        items: list[Header] = []
        while (head := self._head(end, True)) and head[0] == _ITEM:
            size = head[2]
            stop = end if size == _UNDEFINED else self._file.tell() + size
            if wanted or size == _UNDEFINED:
                item = inner(end=stop)
                items += [item] if wanted else []
            if stop is not None and size != _UNDEFINED:
                self._file.seek(stop)
        if end is not None:
            self._file.seek(end)
        return items

    def _head(self, end: int | None, implicit: bool) -> tuple[int, bytes, int] | None:
        """Return tag, VR and length of the next element, with the file at its value; None at the end."""
        start = self._file.tell()
        self._left -= 1
        if self._left < 0 or start - self._start > MOST_BYTES:
            raise OverBudget(f"expected a DICOM header of at most {MOST_ELEMENTS} elements, got more")
        head = self._file.read(8) if end is None or start + 8 <= end else b""
        if len(head) < 8:
            return None
        group, element, vr = struct.unpack(("<" if self._little else ">") + "HH2s2x", head)
        rest = head[4:]
        if not implicit and group != 0xFFFE and _is_vr(vr):
            rest = self._file.read(4) if vr in _LONG else head[6:]
        return group << 16 | element, vr, int.from_bytes(rest, "little" if self._little else "big")

    def _pixels(self, header: Header, length: int) -> tuple[int, bool]:
        """Return how many bytes of pixels there are, and whether these are all."""
        if length != _UNDEFINED:
            there = min(length, self._end - self._file.tell())
            bits = header.integer("Rows") * header.integer("Columns") * header.integer("BitsAllocated")
            return there, there >= (bits + 7) // 8
        there = 0
        while head := self._head(None, True):
            there += head[2] if head[0] == _ITEM else 0
            if head[0] != _ITEM:
                return there, head[0] == _SEQUENCE_END
            self._file.seek(head[2], io.SEEK_CUR)
        return there, False
