"""What the neighbours of a query have in common, in plain words that can be pasted into a note."""

from collections import Counter
from collections.abc import Sequence

from index.search.answer import Hit, Query
from index.search.votes import wilson_interval

MOST_FINDINGS = 5
"""That are named, the most frequent first."""
SOURCE = (
    "In brackets: Wilson's 95 % interval of the share (JASA 22, 1927), in which the studies of one patient count as one"
)
_USE = "This counts labels of stored studies; it is no statement about the patient who was asked about"


def summary_of(hits: Sequence[Hit], query: Query) -> str | None:
    """Return how many of the hits are labelled with which finding, in sentences; None without hits.

    Only labels that say present count; a study without the label counts as one that lacks it. The interval's number is
    the effective one, n = K^2 / sum of squares of the hits of each patient (Kish, Survey Sampling, 1965).
    """
    if not hits:
        return None
    patients = Counter(hit.study.patient_id for hit in hits)
    effective = len(hits) ** 2 / sum(count**2 for count in patients.values())
    present = Counter(name for hit in hits for name, label in hit.study.findings.items() if label == 1)
    named = [
        f"{count} ({low:.2f} to {high:.2f}) {name}"
        for name, count in sorted(present.items(), key=lambda one: (-one[1], one[0]))[:MOST_FINDINGS]
        for low, high in [wilson_interval(count / len(hits), effective)]
    ]
    begun = (
        f"Of the {len(hits)} most similar studies{_which(query)}"
        if len(hits) > 1
        else f"The most similar study{_which(query)}"
    )
    if len(patients) < len(hits):
        begun += f" ({len(patients)} {'patient' if len(patients) == 1 else 'patients'})"
    if not named:
        return f"{begun}{', none is' if len(hits) > 1 else ' is not'} labelled with a finding. {_USE}."
    if len(hits) == 1:
        return f"{begun} is labelled {_joined(sorted(present)[:MOST_FINDINGS])}. {_USE}."
    return f"{begun}, labelled as present: {_joined(named)}. {SOURCE}. {_USE}."


def _which(query: Query) -> str:
    other = query.exclude_same_patient and query.subject.patient_id is not None
    return (" of other patients" if other else "") + (" within the filter" if query.where else "")


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
