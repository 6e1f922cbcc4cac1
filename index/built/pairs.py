"""How often two studies that are so similar share a finding, in this collection: what a similarity is worth here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.built.vector_index import VectorIndex
from index.errors import StudiesError
from index.export.reliability import LEAST_QUERIES, Interval
from index.table.labels import LabelPolicy, finding_targets, label_columns
from index.vectors import Rows

_LOOKED_AT = 20_000
"""Studies among which those with a finding are sought."""
_ASKING = 1000
"""Studies with a finding, each of another patient, of which pairs are made."""
_SCANNED_ROWS = 200_000_000
"""Row comparisons that finding their nearest may take; in a collection of more than 200,000 fewer ask."""
_NEAREST = 64
"""Pairs a study with those nearest to it, and as many with any others."""
_STEPS = 12
_DRAWS = 300

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PairShare:
    """Pairs of one range of similarity, and the share of them that has a finding in common."""

    least: float
    """Similarity that the range begins with, in two decimals, as everyone may see it; it ends where the next begins."""
    share: Interval
    """By bootstrap over the patients that asked."""
    pairs: int


@dataclass(frozen=True)
class PairShares:
    """What similarities are worth in a collection, measured on pairs of different patients when it was indexed.

    Of each pair one study has a finding, other than No Finding; blank counts as absent, uncertain by the policy
    known-good. Where the encoder has learnt from these very studies, it flatters.
    """

    steps: tuple[PairShare, ...]
    """From the lowest similarity up."""
    chance: float
    """The share among pairs drawn without regard to similarity."""

    @classmethod
    def measured(cls, vectors: VectorIndex, studies: pa.Table) -> Self | None:
        """Return what similarities are worth; None where fewer than 100 patients have a finding, or similarities agree
        to two decimals.
        """
        rng = np.random.default_rng(0)
        patients = studies["patient_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        looked_at = rng.permutation(len(vectors))[:_LOOKED_AT]
        most = max(min(_ASKING, _SCANNED_ROWS // len(vectors)), LEAST_QUERIES)
        try:
            having = looked_at[_labels(studies, looked_at).any(axis=1)]
            asking = having[np.sort(np.unique(patients[having], return_index=True)[1])][:most]
            if len(asking) < LEAST_QUERIES:
                return None
            queries = vectors.vectors(asking)
            near = vectors.search(queries, min(_NEAREST, len(vectors)))[1]
            others = np.concatenate([near, rng.integers(len(vectors), size=(len(asking), _NEAREST))], axis=1)  # (Q, n)
            counts = (others >= 0) & (patients[others] != patients[asking, None])
            rows, places = np.unique(others.clip(0), return_inverse=True)
            own, labels = _labels(studies, asking), _labels(studies, rows)
        except StudiesError:  # labels of another kind than ours
            return None
        places = places.reshape(others.shape)
        alike = np.stack([(labels[row] & label).any(axis=1) for row, label in zip(places, own, strict=True)])
        similarities = np.stack(
            [vectors.vectors(row) @ query for row, query in zip(others.clip(0), queries, strict=True)]
        )
        drawn = counts[:, near.shape[1] :]
        edges = np.quantile(similarities[counts], np.arange(_STEPS) / _STEPS, method="lower")
        edges = np.unique(np.floor(edges * 100 + 1e-3) / 100)
        if len(edges) < 2 or not drawn.any():
            return None
        step_of = np.searchsorted(edges, similarities, side="right") - 1
        weights = rng.multinomial(len(asking), np.full(len(asking), 1 / len(asking)), size=_DRAWS)
        steps = [_step(edge, counts & (step_of == step), alike, weights) for step, edge in enumerate(edges)]
        return cls(tuple(steps), round(float(alike[:, near.shape[1] :][drawn].mean()), 4))

    @classmethod
    def said(cls, manifest: Mapping[str, Any]) -> Self | None:
        """Return what a manifest, whose shape has been checked, says of it; None where it says nothing."""
        if (said := manifest.get("pairs")) is None:
            return None
        steps = (PairShare(step["least"], Interval(**step["share"]), step["pairs"]) for step in said["steps"])
        return cls(tuple(steps), said["chance"])

    def fact(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        return {"steps": [asdict(step) for step in self.steps], "chance": self.chance}

    def at(self, similarity: float) -> PairShare | None:
        """Return the range that a similarity lies in; None below the lowest."""
        return next((step for step in reversed(self.steps) if similarity >= step.least), None)

    @property
    def above_chance_from(self) -> float | None:
        """The similarity from which on pairs share a finding more often than chance; None where none do."""
        least = None
        for step in reversed(self.steps):
            if step.share.low <= self.chance:
                break
            least = step.least
        return least

    @property
    def sentence(self) -> str:
        """How often the most similar pairs share a finding, and where the similarity stops to tell, in words."""
        any_two = f"any two studies in {self.chance:.0%}"
        if (least := self.above_chance_from) is None:
            return f"In this collection similar pairs are not shown to share a finding more often than {any_two}."
        first = self.steps[-1]
        below = "" if least == self.steps[0].least else f"; below {least:.2f} that is not shown to be more"
        return (
            f"In this collection pairs with a similarity from {first.least:.2f} on share a finding in "
            f"{first.share.value:.0%} ({first.share.low:.0%} to {first.share.high:.0%}) of cases, {any_two}{below}."
        )


def _labels(studies: pa.Table, rows: Rows) -> Mask:
    """Return which findings are present (n, C) in some of the studies. Raises StudiesError."""
    names = [name for name in label_columns(studies) if name != "No Finding"]
    columns = [*dict.fromkeys([*names, *LabelPolicy.named("known-good").per_label])]
    present: Mask = (
        finding_targets(studies.select(columns).take(pa.array(rows)), names, LabelPolicy.named("known-good")) == 1
    )
    return present


def _step(least: float, inside: Mask, alike: Mask, weights: Rows) -> PairShare:
    """Return a range of pairs (Q, n), with the interval by drawing the studies that asked again."""
    pairs, shared = inside.sum(axis=1), (inside & alike).sum(axis=1)
    drawn = (weights @ shared) / np.maximum(weights @ pairs, 1)
    share = Interval.of(shared.sum() / pairs.sum(), *np.percentile(drawn, (2.5, 97.5)))
    return PairShare(round(float(least), 2), share, int(pairs.sum()))
