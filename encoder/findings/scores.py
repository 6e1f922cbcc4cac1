"""How good probabilities are against targets: ranking figures, figures at a threshold, and calibration error.

Everything is of one finding; intervals come from bootstrap weights.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]
Draws = npt.NDArray[np.integer]
"""(B, N): how often each row counts in each bootstrap draw."""

CALIBRATION_BINS = 15
_BLOCK_DRAWS = 64
RANKED = ("auroc", "auprc", "brier", "ece")
CALLED = ("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy")


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def ranked_scores(probabilities: Column, targets: Column, draws: Draws) -> dict[str, Column]:
    """Return AUROC, AUPRC, Brier score and calibration error, each (B,), NaN where a draw lacks an outcome.

    AUROC counts a tie as one half (Hanley and McNeil, Radiology 143, 1982). AUPRC is average precision: precision
    at each threshold times the recall it adds, without interpolation. Brier is the mean squared error. The
    calibration error is the mean over rows of |mean probability - prevalence| of the row's bin, 15 of equal width.

    Args:
        probabilities: (N,) in [0, 1]. targets: (N,) of 1 and 0. draws: (B, N), a row of ones for the plain figure.
    """
    blocks = [draws[start : start + _BLOCK_DRAWS] for start in range(0, len(draws), _BLOCK_DRAWS)]
    parts = [_ranked_scores(probabilities, targets, block) for block in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in RANKED}


def _ranked_scores(probabilities: Column, targets: Column, draws: Draws) -> dict[str, Column]:
    positives, negatives = _by_score(probabilities, targets, draws.astype(np.float64))
    hits, wrong = positives.cumsum(1), negatives.cumsum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(hits / (hits + wrong))
        auprc = (positives * precision).sum(1) / hits[:, -1]
        brier = (draws @ ((probabilities - targets) ** 2)) / draws.sum(1)
    auprc = np.where(wrong[:, -1] > 0, auprc, np.nan)
    return {
        "auroc": _auroc(positives, negatives),
        "auprc": auprc,
        "brier": brier,
        "ece": _ece(probabilities, targets, draws),
    }


def _by_score(scores: npt.NDArray[np.floating], present: npt.NDArray[Any], draws: Column) -> tuple[Column, Column]:
    """Return how many rows with the finding, and how many without, have each score (B, scores), the highest first."""
    order = np.argsort(-scores, kind="stable")
    starts = np.append(0, np.flatnonzero(np.diff(scores[order])) + 1)
    with_it, drawn = present[order].astype(np.float64), draws[:, order]
    return np.add.reduceat(drawn * with_it, starts, axis=1), np.add.reduceat(drawn * (1 - with_it), starts, axis=1)


def _auroc(positives: Column, negatives: Column) -> Column:
    """Return the share (B,) of pairs in which the row with the finding scores higher, ties as one half."""
    wrong = negatives.cumsum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        above: Column = (positives * (wrong[:, -1:] - wrong + negatives / 2)).sum(1)
        return above / (positives.sum(1) * wrong[:, -1])


def called_scores(called: npt.NDArray[np.bool_], targets: Column, draws: Draws) -> dict[str, Column]:
    """Return the figures of studies called present (N,), each (B,), NaN where it would divide by 0."""
    present = targets == 1
    cells = np.stack([called & present, called & ~present, ~called & present, ~called & ~present], axis=1)
    hit, false_alarm, miss, rejected = (draws.astype(np.float32) @ cells.astype(np.float32)).astype(np.float64).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": hit / (hit + miss),
            "specificity": rejected / (rejected + false_alarm),
            "ppv": hit / (hit + false_alarm),
            "npv": rejected / (rejected + miss),
            "f1": 2 * hit / (2 * hit + false_alarm + miss),
            "accuracy": (hit + rejected) / (hit + false_alarm + miss + rejected),
        }


def reliability(probabilities: Column, targets: Column) -> tuple[Column, Column, Column]:
    """Return mean probability, prevalence and count of each bin that holds a row."""
    bins = _bins(probabilities)
    count, total, present = (np.bincount(bins, weight, CALIBRATION_BINS) for weight in (None, probabilities, targets))
    held = count > 0
    return total[held] / count[held], present[held] / count[held], count[held].astype(np.float64)


def auroc(scores: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> float:
    """Return the AUROC of any scores (N,); NaN where an outcome is missing.

    Args:
        targets: (N,), present above 0.5; rows of NaN are left out.
    """
    used = ~np.isnan(targets)
    present = targets[used] > 0.5
    if present.all() or not present.any():
        return float("nan")
    once = np.ones((1, len(present)))
    return float(_auroc(*_by_score(scores[used], present, once))[0])


def macro_auroc(scores: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> float:
    """Return the mean `auroc` of the findings, of scores and targets (N, C), over those that have one; else NaN."""
    known = [
        area for column, target in zip(scores.T, targets.T, strict=True) if not np.isnan(area := auroc(column, target))
    ]
    return float(np.mean(known)) if known else float("nan")


def interval(values: Column, *, centred: bool = False) -> Interval:
    """Return the first value with the 2.5 and 97.5 percentiles of the others, draws without the figure left out.

    Args:
        centred: moves the percentiles so that the mean of the draws is the value. For figures that drawing rows
            twice raises by itself, as it does the calibration error.
    """
    drawn = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(drawn):
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.percentile(drawn, (2.5, 97.5))
    shift = float(drawn.mean() - values[0]) if centred else 0.0
    return Interval(float(values[0]), max(float(low) - shift, 0.0), float(high) - shift)


def macro(columns: Iterable[Mapping[str, Column]]) -> dict[str, Column]:
    """Return the mean over findings of each figure, draw by draw; a finding that a draw lacks is left out of it."""
    listed = list(columns)
    means = {}
    for name in listed[0] if listed else ():
        stacked = np.stack([column[name] for column in listed])
        known = ~np.isnan(stacked)
        with np.errstate(invalid="ignore"):
            means[name] = np.where(known, stacked, 0).sum(0) / known.sum(0)
    return means


def _bins(probabilities: Column) -> npt.NDArray[np.int64]:
    return np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _ece(probabilities: Column, targets: Column, draws: Draws) -> Column:
    member = _bins(probabilities)[:, None] == np.arange(CALIBRATION_BINS)  # (N, bins)
    gap = draws.astype(np.float64) @ (member * (probabilities - targets)[:, None])
    return np.abs(gap).sum(1) / draws.sum(1)
