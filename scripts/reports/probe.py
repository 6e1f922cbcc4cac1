"""The probe's report: a short table for the terminal, every figure and four pictures a finding for the page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from encoder.findings.scores import CALLED, RANKED, reliability
from index.storage.files import save_json
from scripts.reports.page import number, number_with_interval, picture, save_page, table
from scripts.reports.probe_scores import POINTS, Columns, Predictions
from scripts.terminal import say, say_json, say_warning, show

_SHOWN = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "sens",
    "specificity": "spec",
    "f1": "F1",
    "brier": "Brier",
    "ece": "ECE",
}
_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier",
    "ece": "calibration error",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "youden": "Youden",
    "rule_out": "rule out",
    "rule_in": "rule in",
}
_POINTS_NOTE = (
    "<p>Set on the validation patients, then judged on the others. Rule out: sensitivity 0.90 there; rule in: "
    "specificity 0.90 there. Thresholds are those of the saved probe, which several folds set together.</p>"
)
_CURVE_POINTS = 200
_BLUE, _RED, _GREY = "#1f5f8b", "#b3402a", "#b8c2ca"


def publish(
    out: Path,
    facts: dict[str, Any],
    protocol: Sequence[str],
    figures: dict[str, Any],
    predicted: Predictions,
    *,
    as_json: bool,
) -> None:
    """Write metrics.json, the facts first, and report.html; print the figures as a table or as JSON."""
    metrics = {**facts, "protocol": protocol, **figures}
    save_json(out / "metrics.json", metrics)
    save_report(out / "report.html", protocol, figures, predicted)
    if as_json:
        say_json(metrics)
    else:
        print_table(figures, protocol)
        say_warning(facts.get("warning"))
        say(f"wrote {out}: {', '.join(sorted(path.name for path in out.iterdir() if path.is_file()))}")


def print_table(figures: dict[str, Any], protocol: Sequence[str]) -> None:
    """Print the protocol, a line a finding and the macro mean; thresholded figures are at Youden's point."""
    say(*(f"* {sentence}" for sentence in protocol))
    grid = Table(title="Linear probe, unseen patients", box=SIMPLE)
    for name in ("finding", "pos", "neg", *_SHOWN.values()):
        grid.add_column(name, justify="left" if name == "finding" else "right", no_wrap=True)
    for finding, entry in figures["findings"].items():
        counts = f"{entry['positives']:,}", f"{entry['negatives']:,}"
        if "not_defined" in entry:
            grid.add_row(finding, *counts, "n/a", *[""] * (len(_SHOWN) - 1))
        else:
            of_finding = entry["figures"] | entry["points"].get("youden", {})
            grid.add_row(finding, *counts, *(_short(name, of_finding.get(name)) for name in _SHOWN))
    grid.add_section()
    grid.add_row("macro", "", "", *(_short(name, figures["macro"].get(name)) for name in _SHOWN))
    show(grid)
    for reason in sorted({entry["not_defined"] for entry in figures["findings"].values() if "not_defined" in entry}):
        names = [name for name, entry in figures["findings"].items() if entry.get("not_defined") == reason]
        say(f"n/a: {', '.join(names)}: {reason}")
    if "accuracy" in figures.get("classes", {}):
        classes = figures["classes"]
        say(f"accuracy of the most probable class {_cell(classes['accuracy'])}, chance {number(classes['chance'])}")
    if len(figures["folds"]) > 1:
        say("macro AUROC by fold: " + ", ".join(number(fold["macro_auroc"]) for fold in figures["folds"]))


def save_report(path: Path, protocol: Sequence[str], figures: dict[str, Any], predicted: Predictions) -> None:
    """Write the page that stands alone, whole or not at all."""
    headings = ("finding", "positives", "negatives", "chance AUPRC", *map(_name, RANKED))
    sections = [
        ("Findings", table(headings, _rows(figures)) + "<p>AUROC by chance: 0.500.</p>"),
        ("Operating points", _POINTS_NOTE + _points_table(figures)),
    ]
    sections += [(name, content) for name, content in _extra(figures)]
    for column, finding in enumerate(predicted.names):
        if "not_defined" not in figures["findings"][finding]:
            sections.append((finding, picture(_figure(predicted, column), f"ROC and other curves of {finding}")))
    save_page(path, "Linear probe", protocol, sections)


def _rows(figures: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for finding, entry in figures["findings"].items():
        counts = (finding, f"{entry['positives']:,}", f"{entry['negatives']:,}")
        if "not_defined" in entry:
            yield (*counts, "n/a", f"n/a: {entry['not_defined']}", *["n/a"] * (len(RANKED) - 1))
        else:
            yield (*counts, number(entry["chance"]["auprc"]), *(_cell(entry["figures"][name]) for name in RANKED))
    yield ("macro", "", "", "", *(_cell(figures["macro"].get(name)) for name in RANKED))


def _points_table(figures: dict[str, Any]) -> str:
    rows = [
        (finding, _name(point), _threshold(entry, point), *(_cell(entry["points"][point][name]) for name in CALLED))
        for finding, entry in figures["findings"].items()
        if "not_defined" not in entry
        for point in POINTS
        if point in entry["points"]
    ]
    rows.append(("macro", _name("youden"), "", *(_cell(figures["macro"].get(name)) for name in CALLED)))
    return table(("finding", "point", "threshold", *map(_name, CALLED)), rows)


def _threshold(entry: dict[str, Any], point: str) -> str:
    return number(entry["thresholds"][point]) if entry.get("thresholds") else "n/a"


def _extra(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "accuracy" in figures.get("classes", {}):
        classes = figures["classes"]
        row = (_cell(classes["accuracy"]), number(classes["chance"]), f"{classes['studies']:,}")
        yield "Most probable class", table(("accuracy", "chance", "studies"), [row])
    if len(figures["folds"]) > 1:
        rows = [
            (str(fold), f"{of_fold['studies']:,}", number(of_fold["macro_auroc"]))
            for fold, of_fold in enumerate(figures["folds"], 1)
        ]
        yield "Folds", table(("fold", "studies", "macro AUROC"), rows)


def _figure(predicted: Predictions, column: int) -> Figure:
    _, probabilities, targets = predicted.of(column)
    figure = Figure(figsize=(13, 3.2))
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.16, top=0.9, wspace=0.3)  # quicker than a solved layout
    roc, pr, calibrated, spread = figure.subplots(1, 4)
    _draw_curves(roc, pr, probabilities, targets)
    expected, observed, count = reliability(probabilities, targets)
    calibrated.plot([0, 1], [0, 1], color=_GREY)
    calibrated.scatter(expected, observed, s=8 + 120 * count / count.max(), color=_BLUE, alpha=0.8)
    calibrated.set(title="reliability", xlabel="probability", ylabel="share present", xlim=(0, 1), ylim=(0, 1))
    bins = np.linspace(0, 1, 31)
    for outcome, colour, label in ((0, _GREY, "absent"), (1, _RED, "present")):
        spread.hist(probabilities[targets == outcome], bins, density=True, color=colour, alpha=0.7, label=label)
    spread.set(title="probabilities", xlabel="probability", ylabel="density")
    spread.legend(frameon=False)
    return figure


def _draw_curves(roc: Axes, pr: Axes, probabilities: Columns, targets: Columns) -> None:
    order = np.argsort(-probabilities, kind="stable")
    last = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    true, false = ((targets[order] == outcome).cumsum()[last] for outcome in (1, 0))
    kept = np.unique(np.linspace(0, len(last) - 1, _CURVE_POINTS).astype(int))
    recall = np.append(0, true / true[-1])
    roc.plot([0, 1], [0, 1], color=_GREY)
    roc.plot(np.append(0, false / false[-1])[np.append(0, kept + 1)], recall[np.append(0, kept + 1)], color=_BLUE)
    roc.set(title="ROC", xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.02))
    pr.axhline(targets.mean(), color=_GREY)
    pr.plot(recall[1:][kept], (true / (true + false))[kept], color=_BLUE)
    pr.set(title="precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))


def _name(figure: str) -> str:
    return _NAMES.get(figure, figure)


def _cell(estimate: dict[str, float] | None) -> str:
    return "n/a" if estimate is None else number_with_interval(estimate["value"], estimate["low"], estimate["high"])


def _short(name: str, estimate: dict[str, float] | None) -> str:
    """Return a terminal's cell: AUROC with its interval, the others without."""
    if estimate is None:
        return "n/a"
    interval = f" ({estimate['low']:.3f}-{estimate['high']:.3f})" if name == "auroc" else ""
    return number(estimate["value"]) + interval
