"""The report of drift: each measure of arriving studies beside the collection's own, and what would be found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from index.judging.drift import Drift
from index.storage.files import finite, save_json
from scripts.reports.page import number, picture, save_page, sentences, table
from scripts.terminal import say, say_json, say_warning, show

_HEADINGS = ("measure", "collection", "arriving", "shift (deviations)", "distance", "p", "p of all")
_ACROSS = 3


def publish(out: Path | None, metrics: dict[str, Any], drift: Drift, *, as_json: bool) -> None:
    """Write metrics.json and report.html where a folder is named; print the figures as a table or as JSON."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        save_json(out / "metrics.json", finite(metrics))
        sections = [
            ("At a glance", sentences(verdicts(metrics))),
            ("Measures", table(_HEADINGS, _rows(metrics)) + _histograms(drift)),
        ]
        save_page(out / "report.html", "Drift", metrics["protocol"], sections)
    if as_json:
        say_json(metrics)
        return
    say(*(f"* {sentence}" for sentence in metrics["protocol"]))
    grid = Table(box=SIMPLE)
    for heading in _HEADINGS:
        grid.add_column(heading, justify="left" if heading == "measure" else "right", no_wrap=True)
    for row in _rows(metrics):
        grid.add_row(*row)
    show(grid)
    say(*verdicts(metrics))
    say_warning(metrics["warning"])
    if out is not None:
        say(f"wrote {out / 'metrics.json'} and {out / 'report.html'}")


def verdicts(metrics: dict[str, Any]) -> Iterator[str]:
    """Yield what the tests come to, and what they would have found."""
    if metrics["moved"]:
        yield f"the arriving studies differ from the collection in: {', '.join(metrics['moved'])}"
    else:
        yield "the arriving studies are not shown to differ from the collection"
    shift, foreign = metrics["power"]["shift"], metrics["power"]["foreign"]
    moved = "no shift along one measure" if shift is None else f"a shift of {shift:.2f} deviations along one measure"
    strange = "no share of foreign studies" if foreign is None else f"{foreign:.0%} of foreign studies"
    yield f"with so many, {moved} and {strange} would be found four times in five"


def _rows(metrics: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, measure in metrics["measures"].items():
        ours, theirs = (
            f"{measure[whose]['mean']:.3f} +- {measure[whose]['deviation']:.3f}" for whose in ("collection", "arriving")
        )
        shares = (number(measure[figure]) for figure in ("shift", "distance"))
        yield (name, ours, theirs, *shares, f"{measure['p']:.4f}", f"{measure['adjusted']:.4f}")


def _histograms(drift: Drift) -> str:
    """Return a picture: how each measure spreads over the collection's studies and over those arriving."""
    down = -(-len(drift.measures) // _ACROSS)
    figure = Figure(figsize=(11, 0.4 + 2.1 * down))
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.4 / (0.4 + 2.1 * down), top=0.95, wspace=0.15, hspace=0.5)
    for place, measure in enumerate(drift.measures):
        axes = figure.add_subplot(down, _ACROSS, place + 1)
        bins = np.linspace(*_ends(np.concatenate([measure.own, measure.new])), 31).tolist()
        axes.hist(measure.own, bins, density=True, color="#b8c2ca", alpha=0.8, label="collection")
        axes.hist(measure.new, bins, density=True, color="#b3402a", alpha=0.6, label="arriving")
        axes.set_title(measure.name)
        axes.set_yticks([])
        if not place:
            axes.legend(frameon=False)
    return picture(figure, "how each measure spreads over the collection and over arriving studies")


def _ends(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)
