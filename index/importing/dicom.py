"""A folder of DICOM films as a table of studies: which films can be used, grouped by patient and study."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from index.errors import StudiesError
from index.importing.dicom_header import ALTERED, FILM_MODALITIES, Elsewhere, Film, ReadHeader, read_film
from index.importing.pseudonyms import Pseudonyms, capped_age
from index.importing.source import Imported, NothingUsable, Notices, plain_id
from index.table.studies import CORE_COLUMNS, FINDINGS, ID_ENDINGS, as_studies, id_fault, studies_schema

_REASONS = {
    "no DICOM": "files left out, not a readable DICOM header",
    "budget": "files left out, their header is larger than any film's",
    "name": "files left out, their name is no UTF-8; rename them",
    "ours": "files left out, results that were returned to the archive from here",
    "modality": f"files left out, their modality is none of {', '.join(FILM_MODALITIES)}",
    "pixels": "files left out, there are no pixels in them",
    "frames": "files left out, several frames in one; split them into films",
    "localizer": "films left out, localizers",
    "cut": "films left out, their pixels are cut off",
    "body part": "films left out, their header names a part of the body other than the chest",
    "place": "films left out, their path does not fit the pattern of ids",
    "identity": "films left out, their header names no patient or no study",
    "repeated": "films left out, the same instance was read already",
    "burned in": "films left out, their header says that text is burned into the picture",
}
_KEPT = {
    "bare": "films without the header of a DICOM file, read as a bare data set",
    "disputed": "films whose header says two views or projections; the one that most of it says is taken",
    "raw": "films for processing, not for display, taken only where a study has no other",
    "derived": "films made after the exam, such as without bones, taken only where a study has no other",
    "colour": "films in colour, taken only where a study has no other; a grey one can be read",
    "age": "films whose age cannot be read, left blank",
    "issuer": "films without the issuer of their patient's id, taken for that of others where these name one alone",
}
PLACEHOLDERS = ("{patient}", "{study}")

Watch = Callable[[Sequence[Path]], Iterable[Path]]
Remarks = Callable[[Path], Iterable[str]]
Copies = Callable[[Sequence[tuple[Path, str]]], Iterable[str | None]]
Origins = Callable[[Mapping[str, str]], None]


def import_dicom(
    folder: Path,
    read_header: ReadHeader,
    *,
    strict: bool = False,
    unknown_view: Literal["frontal", "skip"] = "frontal",
    keep_burned_in: bool = False,
    pseudonyms: Pseudonyms | None = None,
    copies: Copies | None = None,
    origins: Origins = lambda named: None,
    ids_from: str | None = None,
    elsewhere: Elsewhere = lambda part, words: False,
    remarks: Remarks = lambda file: (),
    watch: Watch = iter,
) -> Imported:
    """Return one row a study of the DICOM films below a folder, grouped by PatientID and StudyInstanceUID.

    The view is what most places of the header say (`dicom_view`). The first film of each view is the study's
    frontal or lateral: grey before colour, for display before for processing, as it was taken before what was made
    of it, then by the numbers of series and instance. A film of unknown view becomes the frontal of a study that
    has none, else goes to `other_paths` (`unknown_view` "frontal"), or is left out ("skip"); it is noted either
    way. Age is PatientAge, else from birth to the study; findings and split are null.

    Without pseudonyms, ids are the header's own PatientID and `PatientID/StudyInstanceUID`. PatientID is
    `ID^^^ISSUER` where the header, or others with that id, name who gave it, for it is unique among those alone.
    `index.importing.source.plain_id` writes what an address cannot hold. With pseudonyms, ids are `patient...` and
    `patient.../study...`, everyone over 89 is 90, the studies stand in the order of their new ids, and no notice
    names a file. The paths stay the files' own below the folder, unless there are copies to name.

    Of two files of one instance the whole one is taken. Noted and got over, or refused when `strict`: what
    `_REASONS` and `_KEPT` list, an unknown view, an id that is too long, and a film that cannot be copied. Results
    that were returned from here are noted alone.

    Args:
        folder: walked wholly; links to folders are not followed.
        read_header: reads the header of each file.
        keep_burned_in: keep films whose header says that text is burned in. One that does not say may have some.
        pseudonyms: the same key gives the same ids in every import.
        copies: is given every film's file and `patient.../study.../film...`; gives back the path of each copy below
            the folder of copies, None where there could be none. Needs pseudonyms.
        origins: is given, by pseudonymised study_id, what each study is called in its header. Needs pseudonyms.
        ids_from: the path of a film below the folder as a pattern of ids, such as "{patient}/{study}/*", which count
            before the header's. A placeholder stands for part of a name, as short as can be, `*` for any part of one,
            `**` for any names.
        elsewhere: whether a header says that its film shows no chest.
        remarks: what of a film's file will be read otherwise than it is written; it is noted.
        watch: is given the files and gives them back one by one, for a progress bar.

    Raises:
        StudiesError: no folder, a pattern without a placeholder, or two ids with one pseudonym.
        NothingUsable: no film that can be used.
    """
    pattern = None if ids_from is None else _expression(ids_from)
    files = _files(folder)
    notices = Notices(strict, shown=3 if pseudonyms is None else 0)
    read = partial(read_film, read_header=read_header, elsewhere=elsewhere)
    films = _sorted_out(folder, watch(files), read, pattern, keep_burned_in, notices)
    films = _identified(films, notices)
    fate = "left out" if unknown_view == "skip" else "kept, the frontal of a study without one"
    notices.add("view", f"films of unknown view, {fate}", [film.path for film in films if not film.view])
    kept = [film for film in films if film.view or unknown_view == "frontal"]
    _note_what_is_kept(kept, notices)
    _note_remarks(folder, kept, remarks, notices)
    if pseudonyms is None:
        kept = _nameable(kept, notices)
    else:
        named = [(under(pseudonyms, film), film.study) for film in kept]
        origins({_study_id(film): study for film, study in named})
        kept = sorted((film for film, _ in named), key=lambda film: (film.patient, film.study))
    if copies is not None:
        kept = _copied(folder, kept, copies, notices)
    if not kept:
        sentence = f"expected DICOM films below {str(folder)!r}, got none that can be used"
        raise NothingUsable(sentence, len(files), notices.met)
    table = _table(rows_of(kept, capped=pseudonyms is not None))
    whose = "the copies' below their folder" if copies else "the files' own below the folder"
    return Imported(table, tuple(notices.met), len(files), f"the paths are {whose}")


def _expression(pattern: str) -> re.Pattern[str]:
    """Return the expression of a pattern of ids."""
    if not any(placeholder in pattern for placeholder in PLACEHOLDERS) or any(
        pattern.count(placeholder) > 1 for placeholder in PLACEHOLDERS
    ):
        raise StudiesError(f"expected a pattern of ids such as {{patient}}/{{study}}/*, got {pattern!r}")
    written = {"{patient}": "(?P<patient>[^/]+?)", "{study}": "(?P<study>[^/]+?)", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\{patient\}|\{study\}|\*\*|\*)", pattern)
    return re.compile("".join(written.get(part, re.escape(part)) for part in parts), re.DOTALL)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    core = pa.Table.from_pylist(rows, schema=pa.schema(list(studies_schema())[: len(CORE_COLUMNS)]))
    for name in FINDINGS:
        core = core.append_column(name, pa.nulls(len(rows), pa.int8()))
    return as_studies(core)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise StudiesError(f"expected a folder of DICOM files, got {str(folder)!r}")
    below = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return sorted(file for file in below if file.is_file())  # a pipe would block whoever opens it


def _sorted_out(
    folder: Path,
    files: Iterable[Path],
    read: Callable[..., Film | None],
    pattern: re.Pattern[str] | None,
    keep_burned_in: bool,
    notices: Notices,
) -> list[Film]:
    """The films that can be used, each left-out file noted under its reason."""
    films: dict[str, Film] = {}
    left: dict[str, list[str]] = {reason: [] for reason in _REASONS}
    for file in files:
        path = file.relative_to(folder).as_posix()
        if (printable := path.encode("utf-8", "replace").decode()) != path:
            left["name"].append(printable)
            continue
        film = read(file, path=path)
        if film is not None and pattern is not None:
            film = _placed(film, pattern)
        reason = "no DICOM" if film is None else reason_against(film, keep_burned_in)
        if film is not None and not reason and film.instance in films:
            reason = "repeated"
        if reason:
            left[reason].append(path)
        elif film is not None:
            films[film.instance or path] = film
    for reason, paths in left.items():
        notices.add(reason, _REASONS[reason], paths, expected=reason == "ours")
    return list(films.values())


def _placed(film: Film, pattern: re.Pattern[str]) -> Film:
    """Return the film under the ids that its path names; under none where it does not fit."""
    match = pattern.fullmatch(film.path)
    if match is None:
        return replace(film, placed=False)
    named = match.groupdict()
    issuer = "" if "patient" in named else film.issuer
    return replace(
        film, patient=named.get("patient", film.patient), study=named.get("study", film.study), issuer=issuer
    )


def reason_against(film: Film, keep_burned_in: bool = False) -> str:
    """Return the first reason of `_REASONS` why a film cannot be used; "" where it can."""
    reasons = {
        "budget": film.too_large,
        "ours": film.ours,
        "modality": film.modality not in FILM_MODALITIES,
        "pixels": not film.pixels,
        "frames": film.frames > 1,
        "localizer": film.localizer,
        "cut": not film.whole,
        "body part": film.elsewhere,
        "place": not film.placed,
        "identity": not film.patient or not film.study,
        "burned in": film.burned and not keep_burned_in,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def rows_of(films: Sequence[Film], *, capped: bool = False) -> list[dict[str, Any]]:
    """Return a row a study of films that stand under the ids of the table, as `identified` or `under` gives them.

    Args:
        capped: everyone over 89 is 90, as beside pseudonyms.
    """
    return [_row(group, capped) for group in _grouped(films)]


def identified(film: Film) -> Film:
    """Return a film under ids for a table, by its own header alone."""
    return _identified([film], Notices())[0]


def _identified(films: list[Film], notices: Notices) -> list[Film]:
    """The films under ids that say who gave them, in the header, in the study, or for all of that patient's id."""
    of_study: dict[tuple[str, str], set[str]] = {}
    of_patient: dict[str, set[str]] = {}
    for film in films:
        if film.issuer:
            of_study.setdefault((film.patient, film.study), set()).add(film.issuer)
            of_patient.setdefault(film.patient, set()).add(film.issuer)
    unnamed = [film for film in films if not film.issuer and film.patient in of_patient]
    notices.add("issuer", _KEPT["issuer"], [film.path for film in unnamed])

    def issuer(film: Film) -> str:
        known = of_study.get((film.patient, film.study)) or of_patient.get(film.patient, set())
        return film.issuer or (next(iter(known)) if len(known) == 1 else "")

    known = [replace(film, issuer=issuer(film)) for film in films]
    return [replace(film, patient=_patient_id(film), study=_study_part(film.study)) for film in known]


def _patient_id(film: Film) -> str:
    """The patient's id as HL7 version 2 writes it with its issuer (CX): no id has ^^^ without one."""
    patient = plain_id(film.patient)
    if not film.issuer and "^^^" not in patient:
        return patient
    return patient.replace("^", "%5E") + (f"^^^{plain_id(film.issuer)}" if film.issuer else "")


def _study_part(study: str) -> str:
    """The study as the last part of a study_id, which has no slash and none of `ID_ENDINGS`."""
    part = plain_id(study).replace("/", "%2F")
    return f"%{ord(part[0]):02X}{part[1:]}" if f"/{part}" in ID_ENDINGS else part


def _note_remarks(folder: Path, films: list[Film], remarks: Remarks, notices: Notices) -> None:
    met: dict[str, list[str]] = {}
    for film in films:
        for remark in remarks(folder / film.path):
            met.setdefault(remark, []).append(film.path)
    for remark, paths in sorted(met.items()):
        notices.add("reading", f"films read otherwise than written: {remark}", paths)


def _note_what_is_kept(films: list[Film], notices: Notices) -> None:
    odd = {
        "bare": [film.path for film in films if film.bare],
        "disputed": [film.path for film in films if film.disputed],
        "raw": [film.path for film in films if film.raw],
        "derived": [film.path for film in films if film.derived == ALTERED],
        "colour": [film.path for film in films if film.colour],
        "age": [film.path for film in films if film.ageless],
    }
    for kind, paths in odd.items():
        notices.add(kind, _KEPT[kind], paths)


def _nameable(films: list[Film], notices: Notices) -> list[Film]:
    """The films whose ids are no longer than an id may be."""
    unfit = [
        film.path for film in films if id_fault(film.patient, "patient_id") or id_fault(_study_id(film), "study_id")
    ]
    notices.add("id", "films left out, their ids are too long; --pseudonymise replaces them", unfit)
    return [film for film in films if film.path not in set(unfit)]


def _study_id(film: Film) -> str:
    return f"{film.patient}/{film.study}"


def under(pseudonyms: Pseudonyms, film: Film) -> Film:
    """Return an identified film under pseudonyms; its path is still its own."""
    return replace(
        film,
        patient=pseudonyms.of("patient", film.patient),
        study=pseudonyms.of("study", film.study),
        instance=pseudonyms.of("film", film.instance or film.path),
    )


def _copied(folder: Path, films: list[Film], copies: Copies, notices: Notices) -> list[Film]:
    """The films that were copied, each with the path of its copy."""
    wanted = [(folder / film.path, f"{film.patient}/{film.study}/{film.instance}") for film in films]
    copied = list(zip(films, copies(wanted), strict=True))
    notices.add("picture", "films left out, their picture cannot be read", [film.path for film, to in copied if not to])
    return [replace(film, path=to) for film, to in copied if to]


def _grouped(films: Sequence[Film]) -> list[list[Film]]:
    """The films of each study, the first choice first; studies in the order of their first file."""
    groups: dict[tuple[str, str], list[Film]] = {}
    for film in films:
        groups.setdefault((film.patient, film.study), []).append(film)
    return [sorted(group, key=_choice) for group in groups.values()]


def _choice(film: Film) -> tuple[object, ...]:
    return film.colour, film.raw, film.derived, film.number, film.path


def _row(group: list[Film], capped: bool) -> dict[str, Any]:
    frontals = [film for film in group if film.view in ("frontal", "")]
    frontal = min(frontals, key=lambda film: (film.colour, not film.view), default=None)  # the first of as good ones
    lateral = next((film for film in group if film.view == "lateral"), None)
    lead = frontal or group[0]
    first = [lead, *group]  # a study is of one person, on one day
    age = next((film.age for film in first if film.age is not None), None)
    return {
        "study_id": _study_id(lead),
        "patient_id": lead.patient,
        "frontal_path": frontal.path if frontal else None,
        "lateral_path": lateral.path if lateral else None,
        "other_paths": [film.path for film in group if film not in (frontal, lateral)],
        "projection": lead.projection or None,
        "sex": next((film.sex for film in first if film.sex), None),
        "age": capped_age(age) if capped else age,
        "split": None,
    }
