"""The first k that pass, of whatever finds nearest vectors: fetched in growing portions until the answer is sure."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index.search.answer import Query

SIMILARITY_DECIMALS = 6
"""Similarities that agree to six decimals are a tie; float32 sums differ in the seventh."""
SLACK = 16
"""Rows fetched beyond the k wanted, so that ties at the end and a patient's further studies seldom cost a second."""

Similar = npt.NDArray[np.float64]


class Fetched(NamedTuple):
    """Rows that pass: most similar first, ties by study_id."""

    came: int
    """How many came back, those left out since included."""
    rows: npt.NDArray[Any]
    """(n,) of whatever names a row."""
    similarities: Similar
    """(n,) rounded."""
    patients: npt.NDArray[Any]
    """(n,) of whatever names a patient."""


def similarities_of(vectors: npt.NDArray[np.float32], query: npt.NDArray[np.float32]) -> Similar:
    """Return the cosines of stored vectors (n, D) to a query (D,), recomputed alike whatever found them."""
    return np.round(vectors.astype(np.float64) @ query.astype(np.float64), SIMILARITY_DECIMALS)


def first_k(
    fetch: Callable[[int, bool], Fetched], query: Query, *, start: int, passing: int, exact: bool
) -> tuple[npt.NDArray[Any], Similar, bool]:
    """Return the first k rows and their similarities, and whether every row was compared.

    Fetches ever more rows until nothing unfetched could still be among the first k.

    Args:
        fetch: gives so many of the nearest that pass, or all there are; exactly where its second argument says so.
        start: rows to begin with.
        query: whose `k` and `group_by` say which are kept.
        passing: rows that pass.
        exact: whether `fetch` compares every row from the start.
    """
    k, one_a_patient = query.k, query.group_by == "patient"
    count = min(start, passing)
    while count:
        found = fetch(count, exact)
        if found.came < count and not exact:  # the approximate way ran dry before the rows did
            exact = True
            continue
        kept = _first_of_patients(found.patients) if one_a_patient else np.arange(len(found.rows))
        settled = len(kept) >= k and found.similarities[kept[k - 1]] > found.similarities[-1]
        if settled or count >= passing or found.came < count:
            return found.rows[kept[:k]], found.similarities[kept[:k]], exact
        count = min(4 * count, passing)
    return np.empty(0, np.int64), np.empty(0), exact


def _first_of_patients(patients: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.sort(np.unique(patients, return_index=True)[1])
