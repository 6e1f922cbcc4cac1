"""How familiar a film is to a collection, as a line for the terminal, and what is odd about it."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from encoder.films.dicom import reading_notices
from encoder.films.dicom_elements import read_header
from index.search.familiarity import UNFAMILIAR_BELOW, Familiarity, FamiliarityGate, Layout, paired


def familiarity_line(familiarity: Familiarity | None) -> str:
    """Return what the gate says in words."""
    if familiarity is None:
        return "familiarity: not defined, the index has no studies of other patients to compare"
    verdict = "familiar"
    if familiarity.unfamiliar:
        verdict = (
            f"UNFAMILIAR (below {UNFAMILIAR_BELOW:g} %): it may not be a chest film, may be turned or inverted, or of "
            "a kind that the index lacks"
        )
    return f"familiarity: {familiarity.sentence} (of {familiarity.reference:,}): {verdict}"


def notices_of(
    gate: FamiliarityGate | None,
    given: Mapping[str, Path | None],
    layouts: Sequence[Layout],
    ignored_parts: Container[str],
) -> list[str]:
    """Return what a reader should know of the films given as one study, each in a sentence.

    Args:
        gate: of the collection, where one is asked.
        given: by view. layouts: of those that are there, in that order.
        ignored_parts: as the films were read with.
    """
    films = {view: film for view, film in given.items() if film is not None}
    return [*paired(gate, films, layouts, read_header), *reading_notices(films, ignored_parts)]
