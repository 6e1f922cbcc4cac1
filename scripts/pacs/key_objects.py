"""The films of similar cases as a key object selection (PS3.16, TID 2010): it points at their own instances.

It is stored in the study that was asked about alone; nothing is written to the cases that it points at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr.utils import collect_evidence
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from scripts.pacs.results import NOTICE, SourceFilm, completed, equipment, uid_of, uids_of
from scripts.pacs.structured_report import device

SERIES = 9603


@dataclass(frozen=True)
class Similar:
    """A case as the selection points at it."""

    rank: int
    similarity: float
    films: tuple[SourceFilm, ...]
    """Its own, at least one."""


def key_objects(films: Sequence[SourceFilm], cases: Sequence[Similar], fingerprints: Sequence[str]) -> Dataset:
    """Return the selection of the similar cases' films, most similar first.

    Args:
        films: of the study that was asked about. cases: at least one. fingerprints: of the encoders asked.
    """
    first, similar = films[0], [film for case in cases for film in case.films]
    uid = uid_of("kos", uids_of(films), list(fingerprints), uids_of(similar))
    words = ", ".join(f"{case.rank}: {case.similarity:.2f}" for case in cases)
    title, watching = codes.DCM.OfInterest, device(fingerprints)
    result = KeyObjectSelectionDocument(
        evidence=[first.reference],
        content=KeyObjectSelection(title, [first.reference], observer_device_context=watching),
        series_instance_uid=uid_of("kos series", first.study_uid, fingerprints[0]),
        series_number=SERIES,
        sop_instance_uid=uid,
        instance_number=1,
        **equipment(fingerprints[0], "Similar cases"),
    )
    # highdicom makes no selection over several studies, which the standard allows (PS3.3, C.17.6.2).
    content = KeyObjectSelection(
        title,
        [film.reference for film in similar],
        observer_device_context=watching,
        description=f"Similar cases by rank and cosine similarity: {words}. {NOTICE}",
    )
    result.ContentSequence = content[0].ContentSequence
    own, others = collect_evidence([film.reference for film in similar], content[0], first.study_uid)
    result.CurrentRequestedProcedureEvidenceSequence = [*own, *others]
    return completed(result, first)
