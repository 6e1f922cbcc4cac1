"""Whether two films that are given as one study belong together, and whether each is in its view's place.

DICOM headers say patient, study and view; of pictures only their looks are known. No id leaves it: a sentence says
that two differ, never what they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from index.errors import MixedPatients
from index.importing.dicom import identified
from index.importing.dicom_header import Film, ReadHeader, read_film
from index.table.studies import id_fault

Source = bytes | Path
"""A film's bytes or its file."""
FilmsByView = Mapping[str, Source]
"""By view: frontal, lateral or both."""
SWAPPED = "The frontal and the lateral film seem to be swapped. Exchange them."
_SAYS, _LOOKS = "is, as its DICOM header says,", "looks, beside this collection's films, like"


@dataclass(frozen=True)
class Facts:
    """What the headers of a study's films say of it; None where they do not."""

    patient: str | None = field(default=None, repr=False)
    """As `precedent import dicom` calls the patient without pseudonyms."""
    sex: str | None = None
    age: float | None = None
    """Years."""
    projection: str | None = None
    """Of the frontal film."""
    swapped: bool = False
    """Whether headers call a film the other view than it was given as, and none the one that it was given as."""


def facts_of(films: FilmsByView, read_header: ReadHeader) -> Facts:
    """Return what the DICOM headers of films say of their study; the frontal's counts first."""
    found = {view: read_film(film, read_header) for view, film in films.items()}
    headers = {view: identified(header) for view, header in found.items() if header is not None}
    each = [headers[view] for view in ("frontal", "lateral") if view in headers]
    patient = next((header.patient for header in each if header.patient), None)
    frontal = headers.get("frontal")
    return Facts(
        None if patient is None or id_fault(patient, "patient_id") else patient,
        next((header.sex for header in each if header.sex), None),
        next((header.age for header in each if header.age is not None), None),
        frontal.projection or None if frontal is not None else None,
        bool(seen := {view: header.view for view, header in headers.items() if header.view})
        and not any(given == view for given, view in seen.items()),
    )


def require_one_patient(frontal: Source | None, lateral: Source | None, read_header: ReadHeader) -> None:
    """Refuse two films whose DICOM headers name two patients. Raises MixedPatients."""
    if frontal is None or lateral is None:
        return
    front, side = read_film(frontal, read_header), read_film(lateral, read_header)
    if front and side and _are_two(front, side):
        raise MixedPatients(
            "the frontal and the lateral film are of two patients, as their DICOM headers say; expected films of one; "
            "take one of them out, or correct a header that is wrong"
        )


def film_notices(
    films: FilmsByView, looks: Mapping[str, str] | None = None, *, read_header: ReadHeader, same: bool = False
) -> list[str]:
    """Return what a reader should know of the films beside their answer, each in a sentence.

    Args:
        films: as they were given.
        looks: by the view that each was given as, the view that it looks like beside those of the collection; a
            header that names a view counts first.
        same: whether the two look as one film does.
    """
    headers = {view: read_film(film, read_header) for view, film in films.items()}
    notices = []
    front, side = headers.get("frontal"), headers.get("lateral")
    if len(films) == 2 and (same or films["frontal"] == films["lateral"] or _is_one_instance(front, side)):
        return ["The same film was given as frontal and as lateral. Remove one, or give the other view instead."]
    if front and side and front.study and side.study and front.study != side.study:
        notices.append("The two films are of different studies, according to their DICOM headers.")
    seen = {given: (header.view if header else "") or (looks or {}).get(given, "") for given, header in headers.items()}
    wrong = [given for given, view in seen.items() if view and view != given]
    if len(wrong) == 2:
        return [*notices, SWAPPED]
    for given in wrong:
        header = headers[given]
        how = _SAYS if header and header.view else _LOOKS
        two = "Two frontals: the" if given == "lateral" and len(films) == 2 else "The"
        two = "Two laterals: the" if given == "frontal" and len(films) == 2 else two
        notices.append(f"{two} film given as {given} {how} a {seen[given]}.")
    return notices


def _are_two(front: Film, side: Film) -> bool:
    """Return whether two headers name two patients, by ids that are unique among those of one issuer (PS3.3, C.2.3)."""
    if front.patient and side.patient and front.patient != side.patient:
        return True
    return bool(front.patient == side.patient != "" and front.issuer and side.issuer and front.issuer != side.issuer)


def _is_one_instance(front: Film | None, side: Film | None) -> bool:
    return bool(front and side and front.instance and front.instance == side.instance)
