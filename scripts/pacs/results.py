"""What every result has in common: the study that it belongs to, who made it, and UIDs that the same inputs give again.

What a header says of the patient goes into the results, and into nothing else: highdicom is not shown it, for it
quotes in its log what it finds odd.
"""

import json
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pydicom
from pydicom.dataset import Dataset

from encoder.films.dicom_elements import read_header
from index.errors import CollectionError
from index.importing.dicom_header import OUR_MANUFACTURER, OUR_MODEL

if TYPE_CHECKING:
    from scripts.pacs.dicomweb import Instance

SR, SC, KOS = "sr", "sc", "kos"
KINDS = {
    SR: "a structured report of the findings",
    SC: "a heat map as a secondary capture",
    KOS: "a key object selection of the similar cases",
}
NOTICE = "Research use, not for diagnosis"
VERSION = version("cxr-precedent")
_UTF8 = "ISO_IR 192"
_SPACE = uuid.UUID("0a3a4a52-6d1c-5f0e-9b52-7c1f5d1f6a11")
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)+")
_NAME, _LONG, _SHORT = r"[^\\\x00-\x1f]{1,324}", r"[^\\\x00-\x1f]{1,64}", r"[^\\\x00-\x1f]{1,16}"
_OF_STUDY = {
    "PatientName": _NAME,
    "PatientID": _LONG,
    "PatientBirthDate": r"[0-9]{8}",
    "PatientSex": r"[MFO]",
    "AccessionNumber": _SHORT,
    "StudyID": _SHORT,
    "StudyDate": r"[0-9]{8}",
    "StudyTime": r"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)?",
    "ReferringPhysicianName": _NAME,
}
"""What a result has of its film, as expressions; empty where the film does not have it, or not so: type 2."""
_OF_STUDY_IF_THERE = {"IssuerOfPatientID": _LONG, "StudyDescription": _LONG}
_OF_PICTURE = {
    "PatientOrientation": r"[APRLHF]{1,3}\\[APRLHF]{1,3}",
    "BurnedInAnnotation": r"YES|NO",
    "LossyImageCompression": r"00|01",
    "LossyImageCompressionRatio": r"[0-9.]{1,16}(\\[0-9.]{1,16})*",
}


class ResultError(CollectionError):
    """A study that no result can be made for, or a result that cannot be returned."""


@dataclass(frozen=True)
class SourceFilm:
    """The header of a film that results are about, or point at."""

    view: str
    reference: Dataset
    """Its UIDs and what a picture made of it inherits; what it says of patient and study is there, and empty."""
    of_study: dict[str, str]
    """What results say of patient and study, by keyword."""

    @classmethod
    def read(cls, path: Path, view: str) -> Self:
        """Return what of a film's header matters. Raises as `words_in`."""
        return cls.of(words_in(path, view), view)

    @classmethod
    def of(cls, words: Mapping[str, str], view: str) -> Self:
        """Return a film of the words that `words_in` has read of it."""
        reference = Dataset()
        reference.Rows, reference.Columns = int(words["Rows"]), int(words["Columns"])
        for name, value in ({name: words[name] for name in _UIDS} | dict.fromkeys(_OF_STUDY, "")).items():
            setattr(reference, name, value)
        for name in _OF_PICTURE.keys() & words.keys():
            setattr(reference, name, words[name])
        of_study = {name: words.get(name, "") for name in _OF_STUDY} | {
            name: words[name] for name in _OF_STUDY_IF_THERE if name in words
        }
        return cls(view, reference, of_study)

    @classmethod
    def in_pacs(cls, instance: "Instance") -> Self:
        """Return what is known of a film that a PACS lists."""
        reference = Dataset()
        reference.StudyInstanceUID, reference.SeriesInstanceUID = instance.study, instance.series
        reference.SOPInstanceUID, reference.SOPClassUID = instance.instance, instance.sop_class
        reference.Rows = reference.Columns = 1  # it is a picture
        return cls("", reference, {})

    @property
    def study_uid(self) -> str:
        """Of the study that it belongs to."""
        return str(self.reference.StudyInstanceUID)

    @property
    def uid(self) -> str:
        """Of the film itself."""
        return str(self.reference.SOPInstanceUID)


@dataclass(frozen=True)
class Result:
    """One object that belongs to the study which was asked about."""

    kind: str
    """Of KINDS."""
    dataset: Dataset
    note: str | None = None
    """What whoever asked should know of it."""

    @property
    def uid(self) -> str:
        """The same for the same films, encoder and answers."""
        return str(self.dataset.SOPInstanceUID)


def words_in(path: Path, view: str = "chest") -> dict[str, str]:
    """Return what results need of a film's header, by keyword: its UIDs, its size, and what it says of its patient.

    Raises:
        ResultError: no header, or without a UID: a result would belong to no study. OSError.
    """
    words = {**_OF_STUDY, **_OF_STUDY_IF_THERE, **_OF_PICTURE}
    with unquoted():
        with path.open("rb") as file:
            read = read_header(file, [*_UIDS, *words, "Rows", "Columns"])
        if read is None:
            raise ResultError(f"expected a DICOM file as {view} film, got another one; a result needs its UIDs")
        if read.too_large:
            raise ResultError(f"the {view} film: {read.fault}")
        texts = {name: read.header.text(name) for name in (*_UIDS, *words)}
        size = {name: str(read.header.integer(name) or 0) for name in ("Rows", "Columns")}
    for name in _UIDS:
        if not _UID.fullmatch(texts[name]):
            raise ResultError(f"expected a {view} film with a {name}, got one without; send it again with all UIDs")
    fits = {name: texts[name] for name, form in words.items() if re.fullmatch(form, texts[name])}
    return size | {name: texts[name] for name in _UIDS} | fits


def uids_of(films: Sequence[SourceFilm]) -> list[str]:
    """Return the UIDs of films."""
    return [film.uid for film in films]


def uid_of(*inputs: Any) -> str:
    """Return a UID that the same inputs give again and others do not (PS3.5, annex B.2; RFC 9562, version 5)."""
    return f"2.25.{uuid.uuid5(_SPACE, json.dumps(inputs)).int}"


def equipment(fingerprint: str, what: str) -> dict[str, Any]:
    """Return the words of a result's constructor that say who made it, and what its series is.

    Args:
        fingerprint: of the encoder; it is the serial number, for another encoder is another device.
    """
    return {
        "manufacturer": OUR_MANUFACTURER,
        "manufacturer_model_name": OUR_MODEL,
        "software_versions": VERSION,
        "device_serial_number": fingerprint[:64],
        "series_description": f"{what} - {NOTICE}",
        "specific_character_set": _UTF8,
    }


def completed(result: Dataset, film: SourceFilm) -> Dataset:
    """Return a result with what its film says of patient and study."""
    for name, value in film.of_study.items():
        setattr(result, name, value)
    return result


def plain_text(text: str, most: int = 64) -> str:
    """Return a text as a code's meaning holds it."""
    return " ".join(re.sub(r"[\\\x00-\x1f\x7f]", " ", text).split())[:most].strip() or "unnamed"


@contextmanager
def unquoted() -> Iterator[None]:
    """Have pydicom take values as they are, and not warn of those that break a rule, for it would quote them."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield
