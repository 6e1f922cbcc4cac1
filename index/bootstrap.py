"""Intervals by drawing patients again: how often each row counts in each draw, and what the draws say.

Knows patient ids and values; it must not know which figure is being judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


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


def patient_draws(patient_ids: Sequence[str], count: int, seed: int) -> npt.NDArray[np.float32]:
    """Return how often each row counts, (count + 1, N): first every row once, then one bootstrap draw a row.

    A draw takes as many patients as there are, with replacement, each with all of its rows (the cluster
    bootstrap; Davison and Hinkley, 1997, section 3.8).
    """
    patients, patient_of_row = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = np.ones((count + 1, len(patient_of_row)), dtype=np.float32)
    for draw in draws[1:]:
        taken = np.bincount(rng.integers(len(patients), size=len(patients)), minlength=len(patients))
        draw[:] = taken[patient_of_row]
    return draws


def estimate(values: Values, chance: Values, draws: npt.NDArray[np.float32]) -> Estimate:
    """Return the mean of values (Q,), NaN left out, with its interval over draws (B + 1, Q) and mean chance."""
    known = ~np.isnan(values)
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, len(values))
    weights = draws[:, known].astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = weights @ values[known] / weights.sum(1)
    low, high = np.nanpercentile(means[1:], (2.5, 97.5)) if len(means) > 1 else (np.nan, np.nan)
    return Estimate(
        float(means[0]), float(low), float(high), float(chance[known].mean()), int(known.sum()), int((~known).sum())
    )
