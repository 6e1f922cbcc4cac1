"""A probe's answers on studies that did not teach it, and the figures of a report made from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from encoder.findings.calibration import Evidence, OperatingPoints
from encoder.findings.probe import LinearProbe, why_not
from encoder.findings.scores import CALLED, Interval, called_scores, interval, macro, macro_auroc, ranked_scores
from index.judging.bootstrap import Draws
from scripts.options.labelled_exports import Embedded, Wanted

POINTS = ("youden", "rule_out", "rule_in")
Columns = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """Targets and answers of N studies, NaN where there is none; filled fold by fold."""

    export: Embedded
    names: tuple[str, ...]
    exclusive: bool
    """Whether the names are classes of which a study has one."""
    targets: Columns
    """(N, C)"""
    probabilities: Columns
    """(N, C)"""
    called: Columns
    """(3, N, C): 1 where the probability reaches that operating point of its probe."""
    fold: npt.NDArray[np.int64]
    """(N,) the fold that a study was judged in, -1 where it was not."""

    @classmethod
    def empty(cls, export: Embedded, wanted: Wanted) -> Self:
        """Return targets without answers. Raises StudiesError."""
        targets = wanted.targets(export.studies).astype(np.float64)
        blank = np.full(targets.shape, np.nan)
        called = np.full((len(POINTS), *targets.shape), np.nan)
        names = tuple(wanted.names(export.studies))
        return cls(export, names, bool(wanted.classes), targets, blank, called, np.full(len(targets), -1))

    @property
    def patients(self) -> list[str]:
        """The patient of each study."""
        return self.export.patients

    def filled(self, probe: LinearProbe, rows: npt.NDArray[np.int64], fold: int) -> Self:
        """Return the same with the probe's answers for those rows."""
        probabilities, called, folds = self.probabilities.copy(), self.called.copy(), self.fold.copy()
        columns = [self.names.index(name) for name in probe.findings]
        answers = probe.probabilities(self.export.embeddings[rows]).astype(np.float64)
        probabilities[np.ix_(rows, np.array(columns))] = answers
        folds[rows] = fold
        for place, name in enumerate(probe.findings):
            for number, point in enumerate(_thresholds(probe.points.get(name))):
                called[number, rows, columns[place]] = answers[:, place] >= point
        return replace(self, probabilities=probabilities, called=called, fold=folds)

    def judged(self) -> Self:
        """Return the studies that were judged, without the others."""
        rows = np.flatnonzero(self.fold >= 0)
        return replace(
            self,
            export=self.export.take(rows),
            targets=self.targets[rows],
            fold=self.fold[rows],
            probabilities=self.probabilities[rows],
            called=self.called[:, rows],
        )

    def of(self, column: int) -> tuple[npt.NDArray[np.bool_], Columns, Columns]:
        """Return which studies have target and answer for a finding, and the two of those."""
        used = ~np.isnan(self.targets[:, column]) & ~np.isnan(self.probabilities[:, column])
        return used, self.probabilities[used, column], self.targets[used, column]


def scored(predicted: Predictions, probe: LinearProbe, draws: Draws) -> dict[str, Any]:
    """Return every figure of the report: macro, by finding, by fold and, for classes, accuracy."""
    findings: dict[str, Any] = {}
    values: list[dict[str, Columns]] = []
    for column, name in enumerate(predicted.names):
        findings[name], drawn = _finding(predicted, column, draws)
        findings[name] |= _of_probe(probe, name)
        values += [drawn] if drawn else []
    figures = {
        "macro": {"findings": len(values), **_intervals(macro(values))},
        "findings": findings,
        "folds": [_of_fold(predicted, fold) for fold in np.unique(predicted.fold)],
    }
    return figures | ({"classes": _class_accuracy(predicted, draws)} if predicted.exclusive else {})


def evidence_of(figures: Mapping[str, Any], probe: LinearProbe) -> dict[str, Evidence]:
    """Return how well each finding of a probe is told apart, of what `scored` returned, in three decimals."""
    evidence = {}
    for name in probe.findings:
        entry = figures["findings"][name]
        auroc = entry.get("figures", {}).get("auroc", {})
        known = {key: auroc.get(key, math.nan) for key in ("value", "low", "high")}
        bounds = (None if math.isnan(figure) else round(float(figure), 3) for figure in known.values())
        evidence[name] = Evidence(entry["positives"], entry["negatives"], *bounds)
    return evidence


def _finding(predicted: Predictions, column: int, draws: Draws) -> tuple[dict[str, Any], dict[str, Columns]]:
    """Return a finding's entry of the report, and its figures draw by draw (none where it is not defined)."""
    labels = predicted.targets[:, column]
    present = float(np.mean(labels[~np.isnan(labels)])) if (~np.isnan(labels)).any() else float("nan")
    entry: dict[str, Any] = {
        "positives": int((labels == 1).sum()),
        "negatives": int((labels == 0).sum()),
        "chance": {"auroc": 0.5, "auprc": present, "brier": present * (1 - present), "ece": 0.0},
    }
    used, probabilities, targets = predicted.of(column)
    # A fold that could not learn the finding has no answers, and may have held the only positives.
    reason = why_not(labels.astype(np.float32)) or (
        "not learnt" if not used.any() else why_not(targets.astype(np.float32))
    )
    if reason:
        return entry | {"not_defined": f"{reason} in the judged studies", "chance": None}, {}
    values = ranked_scores(probabilities, targets, draws[:, used])
    called = predicted.called[:, used, column]
    at_points = {
        point: called_scores(calls == 1, targets, draws[:, used])
        for point, calls in zip(POINTS, called, strict=True)
        if not np.isnan(calls).any()
    }
    entry["figures"] = _intervals(values)
    entry["points"] = {point: _intervals(scores) for point, scores in at_points.items()}
    missing = {name: np.full(len(draws), np.nan) for name in CALLED}
    return entry, values | at_points.get("youden", missing)


def _of_probe(probe: LinearProbe, name: str) -> dict[str, Any]:
    if name in probe.skipped:
        return {"not_defined": f"{probe.skipped[name]} in the studies to learn from"}
    points = probe.points.get(name)
    return {
        "strength": probe.strengths[probe.findings.index(name)],
        "thresholds": vars(points) if points else None,
    }


def _thresholds(points: OperatingPoints | None) -> Sequence[float]:
    return [getattr(points, name) for name in POINTS] if points else []


def _intervals(values: dict[str, Columns]) -> dict[str, dict[str, float]]:
    return {name: vars(interval(column, centred=name == "ece")) for name, column in values.items()}


def _of_fold(predicted: Predictions, fold: int) -> dict[str, Any]:
    rows = predicted.fold == fold
    targets = np.where(np.isnan(predicted.probabilities), np.nan, predicted.targets)[rows]
    return {"studies": int(rows.sum()), "macro_auroc": macro_auroc(predicted.probabilities[rows], targets)}


def _class_accuracy(predicted: Predictions, draws: Draws) -> dict[str, Any]:
    """Return how often the most probable class is the right one; chance always says the commonest class."""
    used = ~np.isnan(predicted.targets).any(axis=1) & ~np.isnan(predicted.probabilities).any(axis=1)
    if not used.any():
        return {"not_defined": "not every class could be learnt"}
    truth = predicted.targets[used].argmax(1)
    right = (predicted.probabilities[used].argmax(1) == truth).astype(np.float64)
    weights = draws[:, used].astype(np.float64)
    accuracy: Interval = interval(weights @ right / np.maximum(weights.sum(1), 1))
    return {"accuracy": vars(accuracy), "chance": float(np.bincount(truth).max() / len(truth)), "studies": len(truth)}
