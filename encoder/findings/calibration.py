"""Logits to calibrated probabilities, and thresholds that fit what the answer is for."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Method = Literal["platt", "temperature", "none"]
Column = npt.NDArray[np.float64]
MIN_SLOPE = 1e-2
"""Calibration may flatten a useless finding but never turns its order round."""
RULE_OUT_SENSITIVITY = 0.90
RULE_IN_SPECIFICITY = 0.90
LEAST_STUDIES = 10
"""Studies that a share of 0.90 can be seen in: of fewer, a threshold keeps all or does not keep 0.90."""
CHANCE = 0.5
"""AUROC of answers that have nothing to do with the finding."""


@dataclass(frozen=True)
class OperatingPoints:
    """Thresholds on the probability of one finding; it counts as present at or above."""

    youden: float
    """Largest sensitivity + specificity - 1."""
    rule_out: float
    """The highest threshold with sensitivity of at least 0.90: below it the finding is unlikely."""
    rule_in: float
    """The lowest threshold with specificity of at least 0.90: above it the finding is likely."""


@dataclass(frozen=True)
class Evidence:
    """How well one finding is separated from its absence, in patients that the probe did not learn from."""

    positives: int
    negatives: int
    auroc: float | None
    """In [0, 1]; None where positives or negatives are missing."""
    low: float | None
    """Of the 95 % interval by patient."""
    high: float | None

    @property
    def needed(self) -> float:
        """The AUROC that answers by chance exceed in 1 of 40 such samples (Mann and Whitney, 1947); inf for none.

        A bootstrap over a handful of positives gives intervals that are too short.
        """
        both = self.positives * self.negatives
        return CHANCE + 1.96 * math.sqrt((self.positives + self.negatives + 1) / (12 * both)) if both else math.inf

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval lies above the AUROC of chance, and the AUROC above what chance reaches."""
        return self.auroc is not None and self.low is not None and self.low > CHANCE and self.auroc > self.needed

    @property
    def sentence(self) -> str:
        """The figures in words."""
        counts = f"judged on {self.positives:,} with it and {self.negatives:,} without"
        if self.auroc is None:
            return f"no AUROC, {counts}"
        if self.low is None or self.high is None:
            return f"AUROC {self.auroc:.2f} without an interval, {counts}"
        return f"AUROC {self.auroc:.2f} ({self.low:.2f}-{self.high:.2f}), {counts}"


def sigmoid(logits: npt.NDArray[np.floating]) -> Column:
    """Return 1 / (1 + exp(-logits)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def calibration(logits: Column, targets: Column, method: Method = "platt") -> tuple[float, float]:
    """Return slope and offset such that sigmoid(slope * logit + offset) is a calibrated probability.

    platt: both are fitted, to targets drawn in by the counts (Platt, 1999, in the Newton form of Lin, Lin and Weng,
    Machine Learning 68, 2007); temperature: the slope alone (Guo et al., ICML 2017). Needs both outcomes; with one
    alone, or none, it returns (1, 0).
    """
    positives, negatives = int((targets == 1).sum()), int((targets == 0).sum())
    if method == "none" or not positives or not negatives:
        return 1.0, 0.0
    # A steep start would saturate the sigmoid and stall Newton, so it works on logits of unit spread.
    spread = max(float(np.std(logits)), 1e-6)
    design = np.stack([logits / spread, np.full_like(logits, method == "platt")])
    if method == "platt":
        wanted = np.where(targets == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    else:
        wanted = targets
    slope, offset = _newton(design, wanted)
    if slope / spread >= MIN_SLOPE:
        return slope / spread, offset if method == "platt" else 0.0
    rate = wanted.mean()
    offset = float(np.log(rate / (1 - rate))) - MIN_SLOPE * float(logits.mean())
    return MIN_SLOPE, offset if method == "platt" else 0.0


def operating_points(probabilities: Column, targets: Column) -> OperatingPoints | None:
    """Return the thresholds that validation studies give, or None where they lack positives or negatives."""
    positives, negatives = int((targets == 1).sum()), int((targets == 0).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(-probabilities, kind="stable")
    last = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)  # last row of each tie
    thresholds = probabilities[order][last]  # descending
    sensitivity = np.cumsum(targets[order] == 1)[last] / positives
    specificity = 1 - np.cumsum(targets[order] == 0)[last] / negatives
    return OperatingPoints(
        youden=float(thresholds[np.argmax(sensitivity + specificity)]),
        rule_out=float(thresholds[np.argmax(sensitivity >= RULE_OUT_SENSITIVITY)]),
        rule_in=_rule_in(thresholds, specificity),
    )


def _rule_in(thresholds: Column, specificity: Column) -> float:
    """Return the lowest threshold specific enough; where none is, one just above every probability seen."""
    enough = np.flatnonzero(specificity >= RULE_IN_SPECIFICITY)
    return float(thresholds[enough[-1]]) if len(enough) else float(np.nextafter(thresholds[0], 2))


def _newton(design: Column, wanted: Column, steps: int = 50) -> tuple[float, float]:
    """Return the two coefficients that minimise the log loss, from 0, halving a step that overshoots."""
    solution = np.zeros(2)
    loss = _log_loss(design, wanted, solution)
    for _ in range(steps):
        rate = sigmoid(solution @ design)
        hessian = (design * (rate * (1 - rate))) @ design.T + 1e-9 * np.eye(2)
        direction = np.linalg.solve(hessian, design @ (wanted - rate))
        trials = [solution + direction * 0.5**halving for halving in range(20)]
        better = next((trial for trial in trials if _log_loss(design, wanted, trial) < loss - 1e-12), None)
        if better is None:
            break
        solution, loss = better, _log_loss(design, wanted, better)
    return float(solution[0]), float(solution[1])


def _log_loss(design: Column, wanted: Column, solution: Column) -> float:
    logits = solution @ design
    return float((np.logaddexp(0, logits) - wanted * logits).sum())
