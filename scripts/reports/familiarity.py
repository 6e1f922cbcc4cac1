"""How familiar a film is to a collection, as JSON and as a line for the terminal.

Knows what the gate answers; it must not know how that came about, nor bring torch with it.
"""

from dataclasses import asdict
from typing import Any

from index.familiarity import UNFAMILIAR_BELOW, Familiarity


def familiarity_object(found: Familiarity | None) -> dict[str, Any] | None:
    """Return what the gate says as plain JSON, with the bar it was held to."""
    if found is None:
        return None
    return {**asdict(found), "unfamiliar": found.unfamiliar, "bar": UNFAMILIAR_BELOW, "sentence": found.sentence}


def familiarity_line(found: Familiarity | None) -> str:
    """Return what the gate says in words."""
    if found is None:
        return "familiarity: not defined, the index has no studies of other patients to compare"
    verdict = "familiar"
    if found.unfamiliar:
        verdict = (
            f"UNFAMILIAR (below {UNFAMILIAR_BELOW:g} %): perhaps no chest film, one that is turned or inverted, or of "
            "a kind that the index lacks"
        )
    return f"familiarity: {found.sentence} (of {found.reference:,}): {verdict}"
