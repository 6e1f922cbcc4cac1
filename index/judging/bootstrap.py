"""Bootstrap intervals, by drawing patients with replacement: how often each row counts in each draw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Draws = npt.NDArray[np.uint8]
"""(B + 1, N): how often each row counts; the first of all ones."""


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95 % interval and what chance would give; NaN where nothing defines it."""

    value: float
    low: float
    high: float
    chance: float
    queries: int
    """Queries that the mean is over."""
    left_out: int
    """Queries for which the figure is not defined."""


def patient_draws(patient_ids: Sequence[str], count: int, seed: int) -> Draws:
    """Return how often each row counts, (count + 1, N): first every row once, then one bootstrap draw a row.

    A draw takes as many patients as there are, with replacement, each with all of its rows (the cluster
    bootstrap; Davison and Hinkley, 1997, section 3.8).
    """
    patients, patient_of_row = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = np.ones((count + 1, len(patient_of_row)), dtype=np.uint8)
    for draw in draws[1:]:
        taken = np.bincount(rng.integers(len(patients), size=len(patients)), minlength=len(patients))
        draw[:] = taken[patient_of_row]
    return draws


def dealt_anew(patients: npt.NDArray[np.int64], count: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield, so many times, whose row each row (N,) is given when rows are dealt anew among the patients.

    A patient gets the rows of one other, in their order, from the first again where it has more of them.

    Args:
        patients: (N,) a number for each, from 0.
    """
    order = np.argsort(patients, kind="stable")
    sizes = np.bincount(patients)
    firsts = np.cumsum(sizes) - sizes
    within = np.empty_like(order)
    within[order] = np.arange(len(order)) - np.repeat(firsts, sizes)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        other = rng.permutation(len(sizes))[patients]
        yield order[firsts[other] + within % sizes[other]]


def estimates(values: Sequence[Values], chances: Sequence[Values], draws: Draws) -> list[Estimate]:
    """Return the mean of each of M figures, NaN left out, with its interval and its mean chance.

    Args:
        values: M arrays (Q,), NaN where a query does not define the figure. chances: as `values`.
        draws: (B + 1, Q) of `patient_draws`.
    """
    known = ~np.isnan(values)  # (M, Q)
    weights = draws[1:].astype(np.float32)
    sums = weights @ np.nan_to_num(values).T.astype(np.float32)
    with np.errstate(invalid="ignore"):
        means = sums / (weights @ known.T.astype(np.float32))
    return [
        _estimate(value[held], chance[held], drawn[~np.isnan(drawn)], len(value))
        for value, held, chance, drawn in zip(values, known, chances, means.T, strict=True)
    ]


def _estimate(value: Values, chance: Values, drawn: npt.NDArray[np.float32], queries: int) -> Estimate:
    if not len(value):
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, queries)
    low, high = np.percentile(drawn, (2.5, 97.5)) if len(drawn) else (np.nan, np.nan)
    left_out = queries - len(value)
    return Estimate(float(value.mean()), float(low), float(high), float(chance.mean()), len(value), left_out)
