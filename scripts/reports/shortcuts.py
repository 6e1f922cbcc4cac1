"""The report of shortcuts: what is read from vectors beside findings, and what retrieval loses without it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from index.printable import visible
from index.storage.files import finite, save_json
from scripts.reports.page import NOT_DEFINED, number, number_with_interval, picture, save_page, sentences, table
from scripts.terminal import say, say_json, say_warning, show

_READ = ("beside findings", "groups (studies)", "AUROC (95 % interval)", "floor", "above floor")
_LOST = ("must differ in", "by", "all", "chance", "as few", "differing", "chance", "lost (95 %)", "queries")
_BLUE, _PALE, _RED, _GREY = "#1f5f8b", "#9db4c6", "#b3402a", "#b8c2ca"


def publish(out: Path, metrics: dict[str, Any], *, as_json: bool) -> None:
    """Write metrics.json and report.html; print the figures as tables or as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    save_json(out / "metrics.json", finite(metrics))
    save_report(out / "report.html", metrics)
    if as_json:
        say_json(metrics)
    else:
        print_tables(metrics)
        say_warning(metrics["warning"])
        say(f"wrote {out / 'metrics.json'} and {out / 'report.html'}")


def print_tables(metrics: dict[str, Any]) -> None:
    """Print the protocol, a line an attribute, what the first rule loses, and the findings that lose most surely."""
    say(*(f"* {sentence}" for sentence in metrics["protocol"]))
    known = _known(metrics)
    first = [(name, *next(iter(attribute["retrieval"].items()))) for name, attribute in known.items()]
    surely = [(name, *rule) for name, rule in _findings(metrics) if rule[1]["lost"]["low"] > 0]
    tables = [
        _grid("Read from the vectors, unseen patients", _READ, _read_rows(metrics)),
        _grid(f"Precision@{metrics['k']} where query and hit must differ", _LOST, map(_lost_cells, first)),
    ]
    if surely:
        tables.append(_grid("Findings whose loss is above 0", _LOST, map(_lost_cells, surely)))
    show(*tables)
    say(*verdicts(metrics))


def verdicts(metrics: dict[str, Any]) -> Iterator[str]:
    """Yield what each attribute comes to, in a sentence."""
    for name, attribute in metrics["attributes"].items():
        if "not_defined" in attribute:
            yield f"{name}: {NOT_DEFINED}: {attribute['not_defined']}"
            continue
        read = "can be read from the vectors" if attribute["readable"] else "is not shown to be read from the vectors"
        leans = "retrieval leans on it" if attribute["leaned_on"] else "retrieval is not shown to lean on it"
        yield f"{name}: {read}; {leans}"


def save_report(path: Path, metrics: dict[str, Any]) -> None:
    """Write the page that stands alone, whole or not at all."""
    known = _known(metrics)
    rows = [(name, rule, loss) for name, attribute in known.items() for rule, loss in attribute["retrieval"].items()]
    by_group = [
        (f"{name}: {group}", _cell(area))
        for name, attribute in known.items()
        for group, area in attribute["by_group"].items()
    ]
    sections = [
        ("At a glance", sentences(verdicts(metrics)) + _glance(known, metrics["k"])),
        ("Read from the vectors", table(_READ, _read_rows(metrics))),
        ("Each group told from the others", table(("group", "AUROC (95 % interval)"), by_group)),
        (f"Precision@{metrics['k']} where query and hit must differ", table(_LOST, map(_lost_cells, rows))),
    ]
    save_page(path, "Shortcuts", metrics["protocol"], sections)


def _known(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: attribute for name, attribute in metrics["attributes"].items() if "not_defined" not in attribute}


def _findings(metrics: dict[str, Any]) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """Yield each attribute with each rule but the first, which is over all findings."""
    for name, attribute in _known(metrics).items():
        for rule in list(attribute["retrieval"].items())[1:]:
            yield name, rule


def _read_rows(metrics: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, attribute in metrics["attributes"].items():
        groups = ", ".join(f"{group} ({count:,})" for group, count in attribute["groups"].items())
        if "not_defined" in attribute:
            yield (name, groups, NOT_DEFINED, "", "")
        else:
            yield (name, groups, *map(_cell, (attribute["auroc"], attribute["floor"], attribute["above_floor"])))


def _lost_cells(row: tuple[str, str, dict[str, Any]]) -> tuple[str, ...]:
    name, rule, loss = row
    named = ("all", "value"), ("all", "chance"), ("as_few", "value"), ("differing", "value"), ("differing", "chance")
    shares = [number(loss[whom][figure]) for whom, figure in named]
    return (name, rule, *shares, _cell(loss["lost"]), f"{loss['lost']['queries']:,}")


def _cell(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return NOT_DEFINED
    return number_with_interval(estimate["value"], estimate["low"], estimate["high"])


def _grid(title: str, headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    grid = Table(title=title, box=SIMPLE)
    for place, heading in enumerate(headings):
        grid.add_column(heading, justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    return grid


def _glance(known: dict[str, Any], k: int) -> str:
    """Return a picture: how well each attribute is read, beside its floor, and what the first rule loses."""
    figure = Figure(figsize=(11, 1 + 0.35 * len(known)))
    figure.subplots_adjust(left=0.14, right=0.98, bottom=0.62 / figure.get_figheight(), top=0.96, wspace=0.08)
    read, lost = figure.subplots(1, 2, sharey=True)
    for place, attribute in enumerate(known.values()):
        _draw(read, -place, attribute["auroc"])
        if attribute["floor"] is not None:
            read.plot(attribute["floor"]["value"], -place, "|", color=_RED, markersize=14, markeredgewidth=2)
        _draw(lost, -place, next(iter(attribute["retrieval"].values()))["lost"])
    read.axvline(0.5, color=_GREY)
    lost.axvline(0, color=_GREY)
    read.set_xlim(0.3, 1.01)
    read.set_yticks([-place for place in range(len(known))], [visible(name) for name in known], parse_math=False)
    read.set_xlabel("AUROC: dot and 95 % interval; red: floor")
    lost.set_xlabel(f"lost of precision@{k}")
    return picture(figure, "how well each attribute is read, and what retrieval loses without it")


def _draw(axes: Axes, place: int, interval: dict[str, float]) -> None:
    axes.plot([interval["low"], interval["high"]], [place, place], color=_PALE, linewidth=4, solid_capstyle="butt")
    axes.plot(interval["value"], place, "o", color=_BLUE)
