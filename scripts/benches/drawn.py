"""Embeddings drawn from a model of real ones, block by block, and the true neighbours among them.

They are computed with NumPy alone, so that they do not depend on the index they judge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from index.vectors import Embeddings, Mask, Rows

_SPECTRUM = 1.5
"""Variance along axis i falls as i^-1.5: 10 axes hold 73 % of it and 50 hold 91 %. Exports of trained encoders held 66
to 81 % and 88 to 95 %."""
_MEAN = 0.45
"""Length of the mean before scaling; two rows then have a mean cosine of 0.19, in those exports 0.11 to 0.24."""
_BLOCK = 50_000
_FIRST_OF_QUERIES = 1 << 32


@dataclass(frozen=True)
class Drawn:
    """A Gaussian of falling spectrum about a mean, scaled to the sphere: few directions matter, none is empty.

    It has no clusters and no second study of a patient, so its neighbours are further and harder to tell apart
    than those of films: the nearest of 3,000 rows has a median cosine of 0.78, in the exports 0.88 to 0.95.
    """

    rows: int
    dim: int = 512

    @cached_property
    def _axes(self) -> npt.NDArray[np.float32]:
        axes = np.linalg.qr(np.random.default_rng(0).normal(size=(self.dim, self.dim)))[0]
        deviations = np.arange(1, self.dim + 1) ** (-_SPECTRUM / 2)
        scaled: npt.NDArray[np.float32] = (axes * (deviations / np.linalg.norm(deviations))).T.astype(np.float32)
        return scaled

    @cached_property
    def _mean(self) -> npt.NDArray[np.float32]:
        direction = np.random.default_rng(1).normal(size=self.dim)
        return (_MEAN * direction / np.linalg.norm(direction)).astype(np.float32)

    def blocks(self) -> Iterator[Embeddings]:
        """Yield all rows as (n, D) unit vectors, the same at every call."""
        for start in range(0, self.rows, _BLOCK):
            yield self._draw(start, min(_BLOCK, self.rows - start))

    def queries(self, count: int) -> Embeddings:
        """Return (count, D) further vectors of the same model, none of them a row."""
        return self._draw(_FIRST_OF_QUERIES, count)

    def direction(self) -> npt.NDArray[np.float32]:
        """Return a (D,) vector along which rows differ, for filters that what a film shows decides."""
        return self._axes[1] / np.linalg.norm(self._axes[1])

    def _draw(self, seed: int, count: int) -> Embeddings:
        values = np.random.default_rng(seed).standard_normal((count, self.dim), dtype=np.float32)
        values = values @ self._axes + self._mean
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        return values


def true_neighbours(blocks: Iterator[Embeddings], queries: Embeddings, masks: Sequence[Mask], k: int) -> list[Rows]:
    """Return, for each mask of (N,) rows that pass, the (Q, k) rows most similar to each query; -1 if none is left."""
    best = [(np.full((len(queries), k), -2, np.float32), np.full((len(queries), k), -1)) for _ in masks]
    start = 0
    for block in blocks:
        similarities = queries @ block.T
        for place, mask in enumerate(masks):
            passing = np.flatnonzero(mask[start : start + len(block)])
            best[place] = _merged(*best[place], similarities[:, passing], passing + start)
        start += len(block)
    return [rows for _, rows in best]


def _merged(similarities: Embeddings, rows: Rows, fresh: Embeddings, fresh_rows: Rows) -> tuple[Embeddings, Rows]:
    """Return the k best of those so far and of a block's; only what beats the k-th so far is looked at."""
    merged, merged_rows = similarities.copy(), rows.copy()
    for query, floor in enumerate(similarities.min(axis=1)):
        better = np.flatnonzero(fresh[query] > floor)
        values = np.append(similarities[query], fresh[query, better])
        numbers = np.append(rows[query], fresh_rows[better])
        order = np.argsort(-values, kind="stable")[: rows.shape[1]]
        merged[query], merged_rows[query] = values[order], numbers[order]
    return merged, merged_rows


def share_found(truth: Rows, rows: Rows) -> float:
    """Return the mean share of each query's true neighbours among the rows found; -1 in the truth does not count."""
    shares = [
        len(set(expected) & set(got)) / max(len(expected), 1)
        for expected, got in ((row[row >= 0], other) for row, other in zip(truth, rows, strict=True))
    ]
    return float(np.mean(shares))
