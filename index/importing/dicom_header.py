"""What the table of studies needs of one DICOM header. Who calls hands over the function that reads it.

No name, birth date, institution or free text leaves this module.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from index.importing.dicom_view import View, view_of
from index.importing.source import years

OUR_MANUFACTURER, OUR_MODEL = "Precedent", "Similar-case search"
"""Of the equipment that results name which were returned to the archive; both, so that they are no films of others."""
FILM_MODALITIES = ("CR", "DX", "DR", "RG", "XR")
_WORDS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
_WORDS_OF_THE_STUDY = ("PerformedProcedureStepDescription", "StudyDescription", "RequestedProcedureDescription")
_DATES = ("StudyDate", "AcquisitionDate", "SeriesDate", "ContentDate")
_KEYWORDS = (
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
    "IssuerOfPatientIDQualifiersSequence",
    "UniversalEntityID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "ViewPosition",
    "ViewCodeSequence",
    "ViewModifierCodeSequence",
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


class Elements(Protocol):
    """The elements of a data set, or of an item, by their keywords in the standard; empty where there are none."""

    def text(self, keyword: str) -> str:
        """Return a value in its character set, less the blanks around it; a backslash is left in it."""

    def texts(self, keyword: str) -> list[str]:
        """Return each of several values."""

    def integer(self, keyword: str) -> int | None:
        """Return the first of the whole numbers; None where there is none."""

    def items(self, keyword: str) -> Sequence["Elements"]:
        """Return the items of a sequence."""


class Pixels(Protocol):
    """What is known of a film's pixels: how many bytes are there, and whether they are all."""

    @property
    def held(self) -> int: ...

    @property
    def whole(self) -> bool: ...


class Header(Protocol):
    """A header as it was read; what is damaged or too large is read as far as it goes."""

    @property
    def header(self) -> Elements: ...

    @property
    def pixels(self) -> Pixels | None: ...

    @property
    def bare(self) -> bool: ...

    @property
    def too_large(self) -> bool: ...


ReadHeader = Callable[[BinaryIO, Collection[str]], Header | None]
"""Reads elements of a DICOM file within a budget of time and memory; None of other files. Raises ValueError where
nothing can be read. It is `encoder.films.dicom_elements.read_header`, which callers hand over."""


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
    too_large: bool = False  # whether the header holds more than any film's, and was not read to its end


def read_film(
    film: Path | bytes, read_header: ReadHeader, path: str = "", elsewhere: Elsewhere = lambda part, words: False
) -> Film | None:
    """Return what the table needs of the header of a film, a file or its bytes; None where there is none to read."""
    try:
        with BytesIO(film) if isinstance(film, bytes) else film.open("rb") as content:
            read = read_header(content, _KEYWORDS)
    except (OSError, ValueError):
        return None
    return None if read is None else _film(read, path, elsewhere)


def _film(read: Header, path: str, elsewhere: Elsewhere) -> Film:
    header, pixels = read.header, read.pixels
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
        frames=header.integer("NumberOfFrames") or 1,
        pixels=bool(pixels and pixels.held and header.integer("Rows") and header.integer("Columns")),
        whole=bool(pixels and pixels.whole),
        bare=read.bare,
        view=view.view,
        projection=view.projection,
        disputed=view.disputed,
        sex=_SEX.get(header.text("PatientSex").upper(), ""),
        age=age,
        ageless=bool(written) and age is None,
        number=(_number(header, "SeriesNumber"), _number(header, "InstanceNumber")),
        too_large=read.too_large,
    )


def _number(header: Elements, keyword: str) -> int:
    number = header.integer(keyword)
    return _LAST if number is None else number


def _view(header: Elements, series: list[str]) -> View:
    items = header.items("ViewCodeSequence")
    items = [*items, *(modifier for item in items for modifier in item.items("ViewModifierCodeSequence"))]
    return view_of(
        codes=[(item.text("CodeValue"), item.text("CodeMeaning")) for item in items],
        position=header.text("ViewPosition"),
        orientation=header.texts("PatientOrientation"),
        series=series,
        study=[header.text(name) for name in _WORDS_OF_THE_STUDY],
    )


def _issuer(header: Elements) -> str:
    """Who gave the patient's id: by name, else by the universal identifier (PS3.3, table 10-18)."""
    qualifiers = header.items("IssuerOfPatientIDQualifiersSequence")
    return header.text("IssuerOfPatientID") or next((item.text("UniversalEntityID") for item in qualifiers), "")


def _is_raw(header: Elements) -> bool:
    intent = header.text("PresentationIntentType").upper()
    return intent == "FOR PROCESSING" or (not intent and header.text("SOPClassUID") == _DX_FOR_PROCESSING)


def _is_colour(header: Elements) -> bool:
    polarity = header.text("PhotometricInterpretation").upper() or "MONOCHROME2"
    return (header.integer("SamplesPerPixel") or 1) > 1 or not polarity.startswith("MONOCHROME")


def _derived(header: Elements, kinds: list[str], series: list[str]) -> int:
    words = " ".join((*kinds[2:], *series, header.text("DerivationDescription"))).upper()
    captured = header.text("SOPClassUID").startswith(_SECONDARY_CAPTURE)
    if captured or "SECONDARY" in kinds[1:2] or _PROCESSED.search(words):
        return ALTERED
    return DERIVED if "DERIVED" in kinds[:1] else TAKEN


def _part(header: Elements) -> str:
    regions = [region.text("CodeMeaning") for region in header.items("AnatomicRegionSequence")]
    return header.text("BodyPartExamined") or " ".join(regions).strip()


def _age_on_the_day(header: Elements) -> float | None:
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
