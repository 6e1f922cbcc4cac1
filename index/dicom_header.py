"""What the table of studies needs of one DICOM header, and which view it says the film is.

It must not know of tables or of other films, nor decode a pixel; no name, birth date, institution or free text
leaves it.
"""

import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

FILM_MODALITIES = ("CR", "DX", "DR", "RG", "XR")
_FRONTAL = {"AP", "PA", "FRONTAL", "ANTEROPOSTERIOR", "POSTEROANTERIOR", "ANTERO", "POSTERO"}
_LATERAL = {"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"}
_NEITHER = {"LLD", "RLD", "DECUBITUS", "OBLIQUE", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO"}
_PROJECTIONS = ("AP", "PA", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO")
_SEX = {"M": "Male", "F": "Female", "O": "Other"}
_TEXTS = ("SeriesDescription", "ProtocolName")  # not the study's description, which speaks of all its films
_TAGS = [
    "SOPInstanceUID", "StudyInstanceUID", "PatientID", "PatientSex", "PatientAge", "Modality",
    "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition", "ViewCodeSequence", "PatientOrientation",
    "InstanceNumber", "BurnedInAnnotation", "PresentationIntentType", *_TEXTS,
]  # fmt: skip
# What pydicom lets out of a file that is no DICOM, or of a broken header.
_UNREADABLE = (
    InvalidDicomError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError,
    NotImplementedError, OverflowError, RecursionError, struct.error,
)  # fmt: skip
Elsewhere = Callable[[pydicom.Dataset], bool]


@dataclass(frozen=True)
class Film:
    """One film as its header tells it; "" where it does not say."""

    path: str
    instance: str
    patient: str
    study: str
    modality: str
    elsewhere: bool
    burned: bool  # whether text that names the patient is burned into the picture (PS3.3, C.7.6.1.1.3)
    raw: bool  # whether it is for processing, not for display (PS3.3, C.8.11.1)
    view: str  # frontal, lateral or ""
    projection: str
    sex: str
    age: str
    number: int


def read_film(file: Path, path: str, elsewhere: Elsewhere) -> Film | None:
    """Return what the table needs of one header, or None where there is none to read."""
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes a value that breaks its VR, in a warning and in its log
        try:
            if read_file_meta_info(file).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                return None  # pydicom would inflate it whole, however large it gets; nor is its film read
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            return _film(header, path, elsewhere(header))
        except _UNREADABLE:
            return None


def _film(header: pydicom.Dataset, path: str, elsewhere: bool) -> Film:
    position = _text(header, "ViewPosition").upper()
    number = _text(header, "InstanceNumber")
    return Film(
        path=path,
        instance=_text(header, "SOPInstanceUID"),
        patient=_text(header, "PatientID"),
        study=_text(header, "StudyInstanceUID"),
        modality=_text(header, "Modality").upper(),
        elsewhere=elsewhere,
        burned=_text(header, "BurnedInAnnotation").upper() == "YES",
        raw=_text(header, "PresentationIntentType").upper() == "FOR PROCESSING",
        view=_view(header),
        projection=position if position in _PROJECTIONS else "",
        sex=_SEX.get(_text(header, "PatientSex").upper(), ""),
        age=_text(header, "PatientAge"),
        number=int(number) if number.isdecimal() else 2**31,
    )


def _text(header: pydicom.Dataset, name: str) -> str:
    value = header.get(name)
    return "" if value is None else str(value).strip()


def _view(header: pydicom.Dataset) -> str:
    """The first hint that says one view and not both; "" where none does."""
    codes = " ".join(_text(code, "CodeMeaning") for code in header.get("ViewCodeSequence") or [])
    axes = _view_of_axes(header.get("PatientOrientation"))
    hints = [_text(header, "ViewPosition"), codes, axes, *(_text(header, name) for name in _TEXTS)]
    for hint in hints:
        words = set("".join(letter if letter.isalpha() else " " for letter in hint.upper()).split())
        if words & _NEITHER:
            return ""
        frontal, lateral = bool(words & _FRONTAL), bool(words & _LATERAL)
        if frontal != lateral:
            return "frontal" if frontal else "lateral"
    return ""


def _view_of_axes(orientation: object) -> str:
    """Where columns run head to foot: rows that run left or right are a frontal, front or back a lateral."""
    axes = [str(axis)[:1] for axis in orientation] if isinstance(orientation, Sequence) else []
    if len(axes) != 2 or axes[1] not in ("F", "H"):
        return ""
    return {"L": "frontal", "R": "frontal", "A": "lateral", "P": "lateral"}.get(axes[0], "")
