"""Contrast retrieval: for one finding, the most similar study that has it and the most similar one that has not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from index.search.answer import Hit, Query, Subject
from index.search.searchable import Searchable
from index.table.filters import Where
from index.table.studies import label_names

AGE_REACH = 5.0
"""Years either way: a band of ten years around the query's own age, which has no edge close to it."""
RELAXED_FIRST = ("age", "sex", "projection", "views")
"""The order in which demands are given up. A film of another view or projection looks different all over, so those
stay longest; age shows least."""
_VIEWS = ("frontal", "lateral")
_UNKNOWN_SEX = ("unknown", "u")
_NORMAL = "No Finding"
_NO_DISEASE = (_NORMAL, "Support Devices")
_MOST_DISEASES = 40
"""Conditions that leave room for the others below a filter's most."""


@dataclass(frozen=True)
class Counterpart:
    """The most similar study with, or without, the finding."""

    hit: Hit
    matched: tuple[str, ...]
    """Of views, projection, sex and age, what is as in the query."""
    relaxed: tuple[str, ...]
    """What is known of the query but had to be given up to find a study at all, in that order."""


@dataclass(frozen=True)
class Contrast:
    """A study with the finding and one without; None where the collection has none of other patients."""

    finding: str
    present: Counterpart | None
    absent: Counterpart | None


def contrast(collection: Searchable, query: Query, finding: str) -> Contrast:
    """Return the contrast of a query for one finding; each side is matched as far as it can be.

    Of the query, vector and subject count; its patient is left out, and its filter does not narrow.

    Present is a label of 1. Absent is a label of 0 or, where the finding is not labelled, a normal study
    (No Finding is 1); for the finding No Finding itself, a label of 0 or any disease.

    Raises:
        FilterError: the collection has no column of labels of that name. VectorsError: a query of a wrong shape.
    """
    query, _ = collection.resolved(query)
    sides = (_labelled(finding, 1), _without(finding, label_names(collection.schema)))
    present, absent = (_nearest(collection, query, side) for side in sides)
    return Contrast(finding, present, absent)


def _nearest(collection: Searchable, query: Query, side: Where) -> Counterpart | None:
    demands = _demands(query.subject)
    known = [name for name in RELAXED_FIRST if name in demands]
    for given_up in range(len(known) + 1):
        matched, relaxed = known[given_up:], known[:given_up]
        where = {"must": [side, *(demands[name] for name in matched)]}
        answer = collection.answer(Query(query.vector, query.subject, k=1, where=where))
        if answer.hits:
            return Counterpart(answer.hits[0], tuple(reversed(matched)), tuple(relaxed))
    return None


def _demands(subject: Subject) -> dict[str, Where]:
    """Return the conditions that what is known of the query makes, by name."""
    demands: dict[str, Where] = {}
    if subject.views:
        lacking = [view for view in _VIEWS if view not in subject.views]
        demands["views"] = {
            "must": [_labelled(f"{view}_path", None) for view in lacking],
            "must_not": [_labelled(f"{view}_path", None) for view in subject.views],
        }
    if subject.projection:
        demands["projection"] = _labelled("projection", subject.projection)
    if subject.sex and subject.sex.lower() not in _UNKNOWN_SEX:
        demands["sex"] = _labelled("sex", subject.sex)
    if subject.age is not None:
        demands["age"] = {"key": "age", "range": {"gte": subject.age - AGE_REACH, "lte": subject.age + AGE_REACH}}
    return demands


def _without(finding: str, labels: Sequence[str]) -> Where:
    if finding == _NORMAL:
        diseases = [_labelled(name, 1) for name in labels if name not in _NO_DISEASE][:_MOST_DISEASES]
        return {"should": [_labelled(_NORMAL, 0), *diseases], "must_not": [_labelled(_NORMAL, 1)]}
    normal = {"must": [_labelled(finding, None), _labelled(_NORMAL, 1)]}
    return {"should": [_labelled(finding, 0), normal]}


def _labelled(column: str, value: Any) -> dict[str, Any]:
    return {"key": column, "match": {"value": value}}
