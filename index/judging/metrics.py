"""Retrieval metrics of ranked hits, each with what a random ranking would reach."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
_NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Judged:
    """The hits of Q queries after judgement, in order. A hit that does not exist has gain 0."""

    gains: Values
    """(Q, K) gain of each hit, at least 0; above 0 is relevant."""
    ideal: Values
    """(Q, K) the largest gains among all candidates, descending."""
    relevant: npt.NDArray[np.int64]
    """(Q,) relevant candidates, found or not."""
    candidates: npt.NDArray[np.int64]
    """(Q,) studies that could have been hits."""
    mean_gain: Values
    """(Q,) mean gain over all candidates."""

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """Which hits are relevant, (Q, K)."""
        return self.gains > 0


def precision_at(judged: Judged, k: int) -> Values:
    """Return relevant hits among the first k, divided by k, (Q,); NaN without a relevant candidate.

    Where there are fewer than k candidates the missing hits count as not relevant.
    """
    return _defined(judged, judged.hits[:, :k].sum(1) / k)


def recall_at(judged: Judged, k: int) -> Values:
    """Return the share of all relevant candidates that is among the first k, (Q,); NaN without one."""
    return _defined(judged, judged.hits[:, :k].sum(1) / _at_least_1(judged.relevant))


def average_precision_at(judged: Judged, k: int) -> Values:
    """Return the sum of precision at each relevant hit of the first k, divided by min(k, relevant), (Q,).

    The mean over queries is mAP@k. With k of all candidates it is average precision (Manning, Raghavan and
    Schuetze, 2008, section 8.4). NaN without a relevant candidate.
    """
    hits = judged.hits[:, :k]
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    return _defined(judged, (precision * hits).sum(1) / _at_least_1(np.minimum(k, judged.relevant)))


def ndcg_at(judged: Judged, k: int) -> Values:
    """Return the discounted gain of the first k hits over that of the best possible order, (Q,).

    Gains count as they are and are divided by log2(1 + rank) (Jaervelin and Kekaelaeinen, TOIS 20, 2002). NaN
    without a relevant candidate.
    """
    gains, ideal = judged.gains[:, :k], judged.ideal[:, :k]
    best = ideal @ _discounts(ideal.shape[1])
    return _defined(judged, gains @ _discounts(gains.shape[1]) / np.where(best > 0, best, 1))


def reciprocal_rank_at(judged: Judged, k: int) -> Values:
    """Return 1 / rank of the first relevant hit, 0 where none is among the first k, (Q,); NaN without a candidate."""
    hits = judged.hits[:, :k]
    return _defined(judged, np.where(hits.any(1), 1 / (hits.argmax(1) + 1), 0.0))


def chance_of_precision(judged: Judged, k: int) -> Values:
    """Return the expected precision at k of a random order, (Q,): the share of relevant among candidates."""
    return _share(judged) * np.minimum(k, judged.candidates) / k


def chance_of_recall(judged: Judged, k: int) -> Values:
    """Return the expected recall at k of a random order, (Q,): k of n candidates."""
    return np.minimum(k, judged.candidates) / _at_least_1(judged.candidates)


def chance_of_average_precision(judged: Judged, k: int) -> Values:
    """Return the expected average precision at k of a random order, (Q,).

    A hit of rank i is relevant with chance R / n, and each of the i - 1 before it then with (R - 1) / (n - 1).
    """
    rank = np.arange(1, k + 1)
    count, relevant = judged.candidates[:, None], judged.relevant[:, None]
    others = (relevant - 1) / _at_least_1(count - 1)
    terms = (1 + (rank - 1) * others) / rank * (rank <= count)
    return _share(judged) * terms.sum(1) / _at_least_1(np.minimum(k, judged.relevant))


def chance_of_ndcg(judged: Judged, k: int) -> Values:
    """Return the expected nDCG at k of a random order, (Q,): every rank has the mean gain."""
    ranks = np.arange(k) < judged.candidates[:, None]
    best = judged.ideal[:, :k] @ _discounts(judged.ideal[:, :k].shape[1])
    return judged.mean_gain * (ranks @ _discounts(k)) / np.where(best > 0, best, 1)


def reciprocal_rank(judged: Judged, first: npt.NDArray[np.int64]) -> Values:
    """Return 1 / rank of the first relevant candidate in the whole order, (Q,); NaN without one.

    Args:
        first: (Q,) that rank, from 1; not read where there is no relevant candidate.
    """
    return _defined(judged, 1 / _at_least_1(first))


def chance_of_reciprocal_rank(judged: Judged, k: int) -> Values:
    """Return the expected reciprocal rank within k of a random order, (Q,), less at most 0.0001."""
    none_yet, expected = np.ones(len(judged.relevant)), np.zeros(len(judged.relevant))
    for rank in range(1, k + 1):
        if (none_yet < rank * _NEGLIGIBLE).all():
            break
        left = judged.candidates - rank + 1
        here = np.where(left > 0, np.minimum(judged.relevant / _at_least_1(left), 1), 0)
        expected += none_yet * here / rank
        none_yet = none_yet * (1 - here)
    return expected


METRICS = {
    "precision": (precision_at, chance_of_precision),
    "recall": (recall_at, chance_of_recall),
    "map": (average_precision_at, chance_of_average_precision),
    "ndcg": (ndcg_at, chance_of_ndcg),
    "mrr": (reciprocal_rank_at, chance_of_reciprocal_rank),
}
"""Name -> (metric at k, its chance), each a function of the judged hits and k to (Q,)."""


def _defined(judged: Judged, values: Values) -> Values:
    return np.where(judged.relevant > 0, values, np.nan)


def _share(judged: Judged) -> Values:
    return judged.relevant / _at_least_1(judged.candidates)


def _discounts(count: int) -> Values:
    return 1 / np.log2(np.arange(2, count + 2))


def _at_least_1(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.maximum(counts, 1)
