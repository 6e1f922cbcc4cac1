"""A folder of DICOM films as a table of studies: headers only, and of those only what has a column.

It must not know other sources, nor decode a pixel; no name, birth date, institution or free text leaves it.
"""

import hashlib
import hmac
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pydicom
from pydicom.errors import InvalidDicomError

from index.errors import StudiesError
from index.imported import Imported, Notices, years
from index.studies import CORE_COLUMNS, FINDINGS, as_studies, studies_schema

FILM_MODALITIES = ("CR", "DX", "DR", "RG", "XR")
LEAST_KEY = 16  # bytes; patient numbers are few enough to be guessed one by one under a shorter key
_FRONTAL = {"AP", "PA", "FRONTAL", "ANTEROPOSTERIOR", "POSTEROANTERIOR", "ANTERO", "POSTERO"}
_LATERAL = {"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"}
_NEITHER = {"LLD", "RLD", "DECUBITUS", "OBLIQUE", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO"}
_PROJECTIONS = ("AP", "PA", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO")
_SEX = {"M": "Male", "F": "Female", "O": "Other"}
_TEXTS = ("SeriesDescription", "ProtocolName")  # not the study's description, which speaks of all its films
_TAGS = [
    "SOPInstanceUID", "StudyInstanceUID", "PatientID", "PatientSex", "PatientAge", "Modality",
    "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition", "ViewCodeSequence", "PatientOrientation",
    "InstanceNumber", *_TEXTS,
]  # fmt: skip
# What pydicom lets out of a file that is no DICOM, or of a broken header.
_UNREADABLE = (
    InvalidDicomError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError,
    NotImplementedError, OverflowError, RecursionError, struct.error,
)  # fmt: skip
_REASONS = {
    "no DICOM": "files left out, not a readable DICOM header",
    "modality": f"files left out, their modality is none of {', '.join(FILM_MODALITIES)}",
    "body part": "films left out, their header names a part of the body other than the chest",
    "identity": "films left out, their header names no patient or no study",
    "repeated": "films left out, the same instance is there already",
}

Watch = Callable[[Sequence[Path]], Iterable[Path]]
Elsewhere = Callable[[pydicom.Dataset], bool]


@dataclass(frozen=True)
class _Film:
    path: str
    instance: str
    patient: str
    study: str
    modality: str
    elsewhere: bool
    view: str  # frontal, lateral or ""
    projection: str
    sex: str
    age: str
    number: int


def import_dicom(
    folder: Path,
    *,
    strict: bool = False,
    unknown_view: Literal["frontal", "skip"] = "frontal",
    pseudonym_key: bytes | None = None,
    elsewhere: Elsewhere = lambda header: False,
    watch: Watch = iter,
) -> Imported:
    """Return one row a study of the DICOM films below a folder, grouped by PatientID and StudyInstanceUID.

    The view comes from ViewPosition, else ViewCodeSequence, else the axes of PatientOrientation, else the
    words of SeriesDescription and ProtocolName. The lowest InstanceNumber of each view is the study's frontal
    or lateral. A film of unknown view becomes the frontal of a study that has none, else goes to
    `other_paths` (`unknown_view` "frontal"), or is left out ("skip"); it is noted either way. Findings and
    split are null.

    With a key, patient_id is `patient` and study_id `patient.../study...` with 12 hex digits of HMAC-SHA256
    each; without, they are the header's own PatientID and `PatientID/StudyInstanceUID`. The paths are the
    files' own below the folder: a key does not hide a name that a file or folder carries.

    Noted and got over, or refused when `strict`: files that are no DICOM or whose header cannot be read, a
    modality that is no film, a body part other than the chest, a PatientID or StudyInstanceUID that is missing,
    the same instance twice (each left out), an unknown view, and an age that is none (null).

    Args:
        folder: walked wholly; links to folders are not followed.
        pseudonym_key: at least `LEAST_KEY` bytes; the same key gives the same ids in every import.
        elsewhere: whether a header says that its film shows no chest.
        watch: is given the files and gives them back one by one, for a progress bar.

    Raises:
        StudiesError: no folder, no film in it, or a key that is too short.
    """
    if pseudonym_key is not None and len(pseudonym_key) < LEAST_KEY:
        raise StudiesError(f"expected a key of {LEAST_KEY} bytes or more, got {len(pseudonym_key)}; make another")
    files = _files(folder)
    notices = Notices(strict)
    films = _sorted_out(folder, watch(files), elsewhere, notices)
    fate = "left out" if unknown_view == "skip" else "kept, the frontal of a study without one"
    unknown = [film.path for film in films if not film.view]
    notices.add("view", f"films of unknown view, {fate}", unknown)
    kept = [film for film in films if film.view or unknown_view == "frontal"]
    if not kept:
        raise StudiesError(f"expected DICOM films below {str(folder)!r}, got none that can be used")
    table = _table([_row(group, pseudonym_key) for group in _grouped(kept)])
    strange = [film.path for film in kept if film.age and years(film.age) is None]
    notices.add("age", "films whose age is none, left blank", strange)
    return Imported(table, tuple(notices.met), len(files), "the paths are the files' own below the folder")


def _table(rows: list[dict[str, object]]) -> pa.Table:
    core = pa.Table.from_pylist(rows, schema=pa.schema(list(studies_schema())[: len(CORE_COLUMNS)]))
    for name in FINDINGS:
        core = core.append_column(name, pa.nulls(len(rows), pa.int8()))
    return as_studies(core)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise StudiesError(f"expected a folder of DICOM files, got {str(folder)!r}")
    found = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return sorted(file for file in found if file.is_file())  # a pipe would block whoever opens it


def _sorted_out(folder: Path, files: Iterable[Path], elsewhere: Elsewhere, notices: Notices) -> list[_Film]:
    """The films that can be used, each left-out file noted under its reason."""
    films: dict[str, _Film] = {}
    left: dict[str, list[str]] = {reason: [] for reason in _REASONS}
    for file in files:
        path = file.relative_to(folder).as_posix()
        film = _read_film(file, path, elsewhere)
        reason = "no DICOM" if film is None else _reason_against(film, films)
        if reason:
            left[reason].append(path)
        elif film is not None:
            films[film.instance or path] = film
    for reason, paths in left.items():
        notices.add(reason, _REASONS[reason], paths)
    return list(films.values())


def _reason_against(film: _Film, films: dict[str, _Film]) -> str:
    if film.modality not in FILM_MODALITIES:
        return "modality"
    if film.elsewhere:
        return "body part"
    if not film.patient or not film.study:
        return "identity"
    return "repeated" if film.instance in films else ""


def _read_film(file: Path, path: str, elsewhere: Elsewhere) -> _Film | None:
    """What the table needs of one header, or None where there is none to read."""
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes a value that breaks its VR, in a warning and in its log
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            return _film(header, path, elsewhere(header))
        except _UNREADABLE:
            return None


def _film(header: pydicom.Dataset, path: str, elsewhere: bool) -> _Film:
    position = _text(header, "ViewPosition").upper()
    number = _text(header, "InstanceNumber")
    return _Film(
        path=path,
        instance=_text(header, "SOPInstanceUID"),
        patient=_text(header, "PatientID"),
        study=_text(header, "StudyInstanceUID"),
        modality=_text(header, "Modality").upper(),
        elsewhere=elsewhere,
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


def _grouped(films: list[_Film]) -> list[list[_Film]]:
    """The films of each study in the order of their numbers; studies in the order of their first file."""
    groups: dict[tuple[str, str], list[_Film]] = {}
    for film in films:
        groups.setdefault((film.patient, film.study), []).append(film)
    return [sorted(group, key=lambda film: (film.number, film.path)) for group in groups.values()]


def _row(group: list[_Film], key: bytes | None) -> dict[str, object]:
    frontal = next((film for film in group if film.view == "frontal"), None)
    frontal = frontal or next((film for film in group if not film.view), None)
    lateral = next((film for film in group if film.view == "lateral"), None)
    lead = frontal or group[0]
    patient, study = lead.patient, lead.study
    if key is not None:
        patient, study = pseudonym(key, "patient", patient), pseudonym(key, "study", study)
    return {
        "study_id": f"{patient}/{study}",
        "patient_id": patient,
        "frontal_path": frontal.path if frontal else None,
        "lateral_path": lateral.path if lateral else None,
        "other_paths": [film.path for film in group if film not in (frontal, lateral)],
        "projection": lead.projection or None,
        "sex": lead.sex or None,
        "age": years(lead.age),
        "split": None,
    }


def pseudonym(key: bytes, kind: str, identity: str) -> str:
    """Return `kind` and 12 hex digits of HMAC-SHA256 over kind and identity (RFC 2104)."""
    return kind + hmac.new(key, f"{kind}:{identity}".encode(), hashlib.sha256).hexdigest()[:12]
