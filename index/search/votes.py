"""The neighbours' vote: how many of the studies nearest to a query have a finding, and how sure that share is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import FilterError, StudiesError
from index.search.answer import Hit
from index.table.labels import Labelling, Targets
from index.table.studies import CORE_COLUMNS

_Z = 1.959964  # 97.5 % point of the normal distribution


@dataclass(frozen=True)
class Vote:
    """What the neighbours say of one finding."""

    share: float
    """Similarity-weighted share of the neighbours that have it, in [0, 1]."""
    low: float
    high: float
    """Wilson's 95 % interval of the share, with the effective number in the place of a count."""
    neighbours: int
    """Neighbours with a label that counts and a similarity above 0."""
    effective: float
    """Effective number of neighbours, 1 to `neighbours`."""

    def disagrees(self, probability: float, threshold: float) -> bool:
        """Return whether vote and probability contradict each other.

        They do where the probability lies outside the vote's interval and one of the two is at or above the
        threshold, the other below. The first alone would flag two figures that lead to the same decision, the second
        alone a vote of few neighbours that chance put on the other side. Both are estimates of how probable the
        finding is, so one threshold serves both: the one that best parts present from absent (Youden's).
        """
        outside = not self.low <= probability <= self.high
        return outside and (probability >= threshold) != (self.share >= threshold)


def neighbour_votes(hits: Sequence[Hit], targets: Targets) -> list[Vote | None]:
    """Return a vote a finding, or None where no neighbour has a label that counts.

    Args:
        hits: the K nearest studies of other patients.
        targets: (K, C) of 1, 0 and NaN, as `index.table.labels` makes them of `hit_table`.
    """
    similarities = np.array([hit.similarity for hit in hits])
    patients = [hit.study.patient_id for hit in hits]
    return [vote(similarities, patients, column) for column in targets.T]


def votes_on(
    hits: Sequence[Hit], schema: pa.Schema, findings: Sequence[str], labelling: Labelling
) -> dict[str, Vote | None]:
    """Return the votes by finding, as the labelling reads the labels of the hits.

    A finding that the collection has no labels of, or a class whose words it cannot answer, has none.
    """
    table = hit_table(hits, schema)
    names = list(labelling.classes) or [name for name in findings if name in schema.names]
    votes: dict[str, Vote | None] = {}
    if names:
        own = replace(labelling, policy=labelling.policy.of(names))
        try:
            votes = dict(zip(names, neighbour_votes(hits, own.targets(table, names)), strict=True))
        except (FilterError, StudiesError):
            if not labelling.classes:
                raise  # of classes: this collection has not the columns, or has studies in two of them
    return {name: votes.get(name) for name in findings}


def vote(
    similarities: npt.NDArray[np.floating], patients: Sequence[str], target: npt.NDArray[np.floating]
) -> Vote | None:
    """Return the vote of K neighbours with target 1, 0 or NaN (K,), or None where none counts.

    A neighbour weighs its similarity; one at or below 0 is no neighbour. Studies of one patient are not independent
    witnesses, so their weights w are added up before the effective number is taken,
    n = (sum of w)^2 / sum of w^2 (Kish, Survey Sampling, 1965), which puts a patient's studies at one at most.
    """
    used = ~np.isnan(target) & (similarities > 0)
    if not used.any():
        return None
    weights = similarities[used].astype(np.float64)
    _, owners = np.unique(np.asarray(patients, dtype=str)[used], return_inverse=True)
    effective = float(weights.sum() ** 2 / (np.bincount(owners, weights) ** 2).sum())
    share = float(weights @ target[used] / weights.sum())
    low, high = wilson_interval(share, effective)
    return Vote(share, low, high, int(used.sum()), effective)


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share out of `count` > 0 draws (Wilson, JASA 22, 1927); it holds the share."""
    squared = _Z**2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    half = _Z * math.sqrt(share * (1 - share) / count + squared / (4 * count**2)) / (1 + squared / count)
    return min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share)


def hit_table(hits: Sequence[Hit], schema: pa.Schema) -> pa.Table:
    """Return the studies of the hits as a table (K rows) of the collection's schema, for `index.table.labels`."""
    rows = [
        {name: getattr(hit.study, name) for name in CORE_COLUMNS} | hit.study.findings | hit.study.extra for hit in hits
    ]
    return pa.Table.from_pylist(rows, schema)
