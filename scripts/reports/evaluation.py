"""The retrieval report: short tables for the terminal, every figure and a picture for the page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from index.printable import visible
from index.storage.files import save_json
from scripts.reports.page import number, number_with_interval, picture, save_page, table
from scripts.terminal import say, say_json, say_warning, show

Space = dict[str, Any]
_COLUMNS = ("value (95 % interval)", "chance", "queries", "left out")


def publish(out: Path, metrics: dict[str, Any], *, as_json: bool) -> None:
    """Write metrics.json and report.html; print the figures as tables or as JSON."""
    protocol, spaces, floors = metrics["protocol"], metrics["spaces"], metrics["floors"]
    out.mkdir(parents=True, exist_ok=True)
    save_json(out / "metrics.json", metrics)
    save_report(out / "report.html", protocol, spaces, floors)
    if as_json:
        say_json(metrics)
    else:
        print_tables(spaces, protocol, floors)
        say_warning(metrics["warning"])
        say(f"wrote {out / 'metrics.json'} and {out / 'report.html'}")


def print_tables(spaces: dict[str, Space], protocol: Sequence[str], floors: Sequence[str] = ()) -> None:
    """Print each rule's figures with the spaces side by side, then each finding's in the first space.

    Args:
        floors: names of the spaces that are there to be beaten.
    """
    rules, findings = _rules_table(spaces, floors), _findings_table(spaces)
    say(*(f"* {sentence}" for sentence in protocol))
    show(rules, findings)
    main = next(iter(spaces.values()))
    judged = {**main["rules"], **main["findings"]}
    for reason in sorted({figures["not_defined"] for figures in judged.values() if "not_defined" in figures}):
        names = [name for name, figures in judged.items() if figures.get("not_defined") == reason]
        say(f"n/a: {', '.join(names)}: {reason}")


def _rules_table(spaces: dict[str, Space], floors: Sequence[str]) -> Table:
    first, *others = (_heading(name, floors) for name in spaces)
    rules = Table(title="Retrieval, other patients only", box=SIMPLE)
    _columns(rules, ("rule", "figure", first, "95 % interval", *others, "chance", "queries"))
    for rule, by_rule in next(iter(spaces.values()))["rules"].items():
        if "not_defined" in by_rule:
            rules.add_row(rule, "n/a")
            continue
        for figure in _headline(by_rule["figures"]):
            estimates = [space["rules"][rule]["figures"][figure] for space in spaces.values()]
            rules.add_row(rule, figure, *_side_by_side(estimates))
        rules.add_section()
    privacy = [space["same_patient_precision@1"] for space in spaces.values()]
    rules.add_row("same patient", "precision@1", *_side_by_side(privacy))
    return rules


def _findings_table(spaces: dict[str, Space]) -> Table:
    """Return each finding's precisions in the first space."""
    (first, main), *_ = spaces.items()
    findings = Table(title=f"Query and hit both have it ({first})", box=SIMPLE)
    _columns(findings, ("finding", "figure", first, "95 % interval", "chance", "queries"))
    for finding, by_rule in main["findings"].items():
        if "not_defined" in by_rule:
            findings.add_row(finding, "n/a")
            continue
        for figure in filter(_is_precision, by_rule["figures"]):
            findings.add_row(finding, figure, *_side_by_side([by_rule["figures"][figure]]))
    return findings


def _headline(figures: dict[str, Any]) -> list[str]:
    """Return the figures worth a line in a terminal: precision at every k, the others at the largest, MRR over all."""
    deepest = [name for name in figures if "@" in name][-1].partition("@")[2]
    shown = [name for name in figures if _is_precision(name) or name.endswith(f"@{deepest}") or name == "mrr"]
    return [name for name in shown if "mrr" not in shown or not name.startswith("mrr@")]


def _is_precision(figure: str) -> bool:
    return figure.startswith("precision")


def _side_by_side(estimates: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a table's cells: the first space's value and interval, the others' values, chance and queries.

    Chance and queries depend on the studies alone, so they are the same in all spaces.
    """
    first = estimates[0]
    yield number(first["value"])
    yield "" if np.isnan(first["low"]) else f"{first['low']:.3f}-{first['high']:.3f}"
    yield from (number(estimate["value"]) for estimate in estimates[1:])
    yield number(first["chance"])
    yield f"{first['queries']:,}"


def save_report(path: Path, protocol: Sequence[str], spaces: dict[str, Space], floors: Sequence[str] = ()) -> None:
    """Write the page that stands alone, whole or not at all; arguments as for `print_tables`."""
    sections = [("At a glance", _glance(spaces)), ("Spaces side by side", _beside(spaces, floors))]
    sections += [(f"Space: {name} ({space['embedding_dim']}-D)", _space(space)) for name, space in spaces.items()]
    save_page(path, "Retrieval evaluation", protocol, sections)


def _heading(name: str, floors: Sequence[str]) -> str:
    return f"{name} (floor)" if name in floors else name


def _beside(spaces: dict[str, Space], floors: Sequence[str]) -> str:
    """Return one table of every rule's and finding's figures in all spaces, with chance."""
    rows: list[tuple[str, ...]] = []
    for kind, prefix in (("rules", ""), ("findings", "both have ")):
        for name, by_rule in next(iter(spaces.values()))[kind].items():
            if "not_defined" in by_rule:
                rows.append((prefix + name, *["n/a"] * (len(spaces) + 2), "0"))
                continue
            for figure in filter(_is_precision, by_rule["figures"]) if prefix else by_rule["figures"]:
                estimates = [space[kind][name]["figures"][figure] for space in spaces.values()]
                rows.append((prefix + name, figure, *_values(estimates)))
    privacy = [space["same_patient_precision@1"] for space in spaces.values()]
    rows.append(("nearest other study is of the same patient", "precision@1", *_values(privacy)))
    headings = ("rule", "figure", *(_heading(name, floors) for name in spaces), "chance", "queries")
    return table(headings, rows)


def _values(estimates: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield each space's value with its interval, then chance and queries, which are the same in all."""
    for estimate in estimates:
        yield number_with_interval(estimate["value"], estimate["low"], estimate["high"])
    yield number(estimates[0]["chance"])
    yield f"{estimates[0]['queries']:,}"


def _space(space: Space) -> str:
    rules = table(("rule", "figure", *_COLUMNS), _rows(space["rules"]))
    findings = table(("both have", "figure", *_COLUMNS), _rows(space["findings"]))
    cells = _cells(space["same_patient_precision@1"])
    privacy = table(("privacy", *_COLUMNS), [("nearest other study is of the same patient", *cells)])
    return rules + findings + privacy


def _rows(judged: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, by_rule in judged.items():
        if "not_defined" in by_rule:
            yield (name, by_rule["not_defined"], "n/a", "n/a", "0", str(_left_out(by_rule)))
            continue
        for figure, estimate in by_rule["figures"].items():
            yield (f"{name}: {by_rule['sentence']}", figure, *_cells(estimate))


def _left_out(by_rule: dict[str, Any]) -> int:
    return max(estimate["left_out"] for estimate in by_rule["figures"].values())


def _cells(estimate: dict[str, Any]) -> tuple[str, str, str, str]:
    return (
        number_with_interval(estimate["value"], estimate["low"], estimate["high"]),
        number(estimate["chance"]),
        f"{estimate['queries']:,}",
        f"{estimate['left_out']:,}",
    )


def _columns(grid: Table, names: Sequence[str]) -> None:
    for name in names:
        grid.add_column(name, justify="left" if name in ("rule", "finding", "figure") else "right", no_wrap=True)


def _glance(spaces: dict[str, Space]) -> str:
    """Return a picture: precision at the middle k of each rule and space, with interval and chance."""
    lines = [
        (f"{rule}: {name}", space["rules"][rule]["figures"])
        for rule, by_rule in next(iter(spaces.values()))["rules"].items()
        for name, space in spaces.items()
        if "not_defined" not in by_rule and any(map(_is_precision, by_rule["figures"]))
    ]
    if not lines:
        return "<p>n/a: no rule has a query.</p>"
    precisions = list(filter(_is_precision, lines[0][1]))
    shown = precisions[len(precisions) // 2]
    figure = Figure(figsize=(8, 1 + 0.32 * len(lines)))
    figure.subplots_adjust(left=0.3, right=0.97, bottom=0.6 / figure.get_figheight(), top=0.98)
    axes = figure.subplots()
    for place, (_, figures) in enumerate(lines):
        estimate = figures[shown]
        axes.plot(
            [estimate["low"], estimate["high"]], [-place, -place], color="#9db4c6", linewidth=4, solid_capstyle="butt"
        )
        axes.plot(estimate["value"], -place, "o", color="#1f5f8b")
        axes.plot(estimate["chance"], -place, "|", color="#b3402a", markersize=14, markeredgewidth=2)
    axes.set_yticks(-np.arange(len(lines)), [visible(name) for name, _ in lines], parse_math=False)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"{shown}: dot and 95 % interval; red: chance")
    axes.grid(axis="x", color="#e3e8ec")
    return picture(figure, f"{shown} by rule and space")
