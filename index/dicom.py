"""A folder of DICOM films as a table of studies: which films can be used, grouped by patient and study.

It must not know other sources, nor decode a pixel; what a header says of one film is in `index.dicom_header`.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pyarrow as pa

from index.dicom_header import FILM_MODALITIES, Elsewhere, Film, read_film
from index.errors import StudiesError
from index.imported import Imported, Notices, years
from index.pseudonyms import Pseudonyms, told_age
from index.studies import CORE_COLUMNS, FINDINGS, as_studies, id_fault, studies_schema

_REASONS = {
    "no DICOM": "files left out, not a readable DICOM header, or a deflated one",
    "name": "files left out, their name is no UTF-8; rename them",
    "modality": f"files left out, their modality is none of {', '.join(FILM_MODALITIES)}",
    "body part": "films left out, their header names a part of the body other than the chest",
    "identity": "films left out, their header names no patient or no study",
    "repeated": "films left out, the same instance is there already",
    "burned in": "films left out, their header says that text is burned into the picture",
}

Watch = Callable[[Sequence[Path]], Iterable[Path]]
Copies = Callable[[Sequence[tuple[Path, str]]], Iterable[str | None]]


def import_dicom(
    folder: Path,
    *,
    strict: bool = False,
    unknown_view: Literal["frontal", "skip"] = "frontal",
    keep_burned_in: bool = False,
    pseudonyms: Pseudonyms | None = None,
    copies: Copies | None = None,
    elsewhere: Elsewhere = lambda header: False,
    watch: Watch = iter,
) -> Imported:
    """Return one row a study of the DICOM films below a folder, grouped by PatientID and StudyInstanceUID.

    The view comes from ViewPosition, else ViewCodeSequence, else the axes of PatientOrientation, else the
    words of SeriesDescription and ProtocolName. The lowest InstanceNumber of each view is the study's frontal
    or lateral; a film for processing is that only where there is none for display. A film of unknown view
    becomes the frontal of a study that has none, else goes to `other_paths` (`unknown_view` "frontal"), or is
    left out ("skip"); it is noted either way. Findings and split are null.

    Without pseudonyms, ids are the header's own PatientID and `PatientID/StudyInstanceUID`. With them, they are
    `patient...` and `patient.../study...`, everyone over 89 is 90, the studies stand in the order of their new ids,
    and no notice names a file. The paths stay the files' own below the folder, unless there are copies to name.

    Noted and got over, or refused when `strict`: files that are no DICOM or whose header cannot be read, a
    modality that is no film, a body part other than the chest, a PatientID or StudyInstanceUID that is missing or,
    without pseudonyms, no id, the same instance twice, BurnedInAnnotation YES (each left out), an unknown view, a film
    that cannot be copied (left out), a film for processing, and an age that is none (null).

    Args:
        folder: walked wholly; links to folders are not followed.
        keep_burned_in: keep films whose header says that text is burned in. One that does not say may have some.
        pseudonyms: the same key gives the same ids in every import.
        copies: is given every film's file and `patient.../study.../film...`; gives back the path of each copy below
            the folder of copies, None where there could be none. Needs pseudonyms.
        elsewhere: whether a header says that its film shows no chest.
        watch: is given the files and gives them back one by one, for a progress bar.

    Raises:
        StudiesError: no folder, no film in it, or two ids with one pseudonym.
    """
    files = _files(folder)
    notices = Notices(strict, shown=3 if pseudonyms is None else 0)
    films = _sorted_out(folder, watch(files), elsewhere, keep_burned_in, notices)
    fate = "left out" if unknown_view == "skip" else "kept, the frontal of a study without one"
    unknown = [film.path for film in films if not film.view]
    notices.add("view", f"films of unknown view, {fate}", unknown)
    kept = [film for film in films if film.view or unknown_view == "frontal"]
    raw = [film.path for film in kept if film.raw]
    notices.add("raw", "films for processing, not for display, taken only where a study has no other", raw)
    strange = [film.path for film in kept if film.age and years(film.age) is None]
    notices.add("age", "films whose age is none, left blank", strange)
    if pseudonyms is None:
        kept = _nameable(kept, notices)
    else:
        kept = sorted((_under(pseudonyms, film) for film in kept), key=lambda film: (film.patient, film.study))
    if copies is not None:
        kept = _copied(folder, kept, copies, notices)
    if not kept:
        raise StudiesError(f"expected DICOM films below {str(folder)!r}, got none that can be used")
    table = _table([_row(group, told=pseudonyms is not None) for group in _grouped(kept)])
    whose = "the copies' below their folder" if copies else "the files' own below the folder"
    return Imported(table, tuple(notices.met), len(files), f"the paths are {whose}")


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


def _sorted_out(
    folder: Path, files: Iterable[Path], elsewhere: Elsewhere, keep_burned_in: bool, notices: Notices
) -> list[Film]:
    """The films that can be used, each left-out file noted under its reason."""
    films: dict[str, Film] = {}
    left: dict[str, list[str]] = {reason: [] for reason in _REASONS}
    for file in files:
        path = file.relative_to(folder).as_posix()
        if (told := path.encode("utf-8", "replace").decode()) != path:
            left["name"].append(told)
            continue
        film = read_film(file, path, elsewhere)
        reason = "no DICOM" if film is None else _reason_against(film, films, keep_burned_in)
        if reason:
            left[reason].append(path)
        elif film is not None:
            films[film.instance or path] = film
    for reason, paths in left.items():
        notices.add(reason, _REASONS[reason], paths)
    return list(films.values())


def _reason_against(film: Film, films: dict[str, Film], keep_burned_in: bool) -> str:
    if film.modality not in FILM_MODALITIES:
        return "modality"
    if film.elsewhere:
        return "body part"
    if not film.patient or not film.study:
        return "identity"
    if film.burned and not keep_burned_in:
        return "burned in"
    return "repeated" if film.instance in films else ""


def _nameable(films: list[Film], notices: Notices) -> list[Film]:
    """The films whose header names patient and study by what an id may be."""
    unfit = [one.path for one in films if id_fault(one.patient, "patient_id") or id_fault(_study_id(one), "study_id")]
    notices.add("id", "films left out, their PatientID or StudyInstanceUID is no id; --pseudonymise gives one", unfit)
    return [one for one in films if one.path not in set(unfit)]


def _study_id(film: Film) -> str:
    return f"{film.patient}/{film.study}"


def _under(pseudonyms: Pseudonyms, film: Film) -> Film:
    """The film under pseudonyms; its path is still its own."""
    return replace(
        film,
        patient=pseudonyms.of("patient", film.patient),
        study=pseudonyms.of("study", film.study),
        instance=pseudonyms.of("film", film.instance or film.path),
    )


def _copied(folder: Path, films: list[Film], copies: Copies, notices: Notices) -> list[Film]:
    """The films that were copied, each with the path of its copy."""
    wanted = [(folder / film.path, f"{film.patient}/{film.study}/{film.instance}") for film in films]
    found = list(zip(films, copies(wanted), strict=True))
    notices.add("picture", "films left out, their picture cannot be read", [film.path for film, to in found if not to])
    return [replace(film, path=to) for film, to in found if to]


def _grouped(films: list[Film]) -> list[list[Film]]:
    """The films of each study, raw ones last, by their numbers; studies in the order of their first file."""
    groups: dict[tuple[str, str], list[Film]] = {}
    for film in films:
        groups.setdefault((film.patient, film.study), []).append(film)
    return [sorted(group, key=lambda film: (film.raw, film.number, film.path)) for group in groups.values()]


def _row(group: list[Film], told: bool) -> dict[str, object]:
    frontal = next((film for film in group if film.view == "frontal"), None)
    frontal = frontal or next((film for film in group if not film.view), None)
    lateral = next((film for film in group if film.view == "lateral"), None)
    lead = frontal or group[0]
    age = years(lead.age)
    return {
        "study_id": _study_id(lead),
        "patient_id": lead.patient,
        "frontal_path": frontal.path if frontal else None,
        "lateral_path": lateral.path if lateral else None,
        "other_paths": [film.path for film in group if film not in (frontal, lateral)],
        "projection": lead.projection or None,
        "sex": lead.sex or None,
        "age": told_age(age) if told else age,
        "split": None,
    }
