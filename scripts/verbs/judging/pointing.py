"""`precedent pointing`: how often heat maps peak where the findings are.

precedent pointing studies.parquet --images . --boxes boxes.csv --encoder encoder.safetensors --probe probe/
"""

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from encoder.embedder import Embedder
from encoder.findings.probe import LinearProbe
from encoder.maps.explain import DEFAULT_METHOD, METHODS, VIEWS, Explainer, OpenStudy
from encoder.maps.pointing import Box, grown, peak_in_box
from index.errors import ArtefactError
from index.export.reliability import warning_of
from index.importing.source import MOST_LINE
from index.search.votes import wilson_interval
from index.storage.files import open_regular
from index.table.studies import load_studies
from scripts.options.body_parts import ignored_parts
from scripts.options.encoder_file import EncoderFile
from scripts.options.places import Anywhere, Here, images_option
from scripts.terminal import progress_bar, say_json, say_warning, show

_PATH = Here()
Boxes = dict[tuple[str, str], list[Box]]
"""By film's path and finding."""


@dataclass
class Tally:
    """How often one finding's maps pointed at it, and how often a random peak would have."""

    hits: int = 0
    films: int = 0
    chances: list[float] = field(default_factory=list)


@click.command()
@click.argument("studies", type=Anywhere())
@images_option
@click.option(
    "--boxes", type=_PATH, required=True, help="CSV file with the columns Path, Finding, x0, y0, x1, y1 (pixels)."
)
@click.option("--encoder", type=EncoderFile(), required=True, help="Encoder file, or: builtin.")
@click.option(
    "--probe", type=_PATH, required=True, help="Folder of the probe that was trained on this encoder's vectors."
)
@ignored_parts
@click.option(
    "--method", type=click.Choice(METHODS), default=DEFAULT_METHOD, show_default=True, help="Method of the heat map."
)
@click.option(
    "--stage",
    type=click.IntRange(0),
    help="Stage of the network to use, 0 for half the input's resolution (default: last).",
)
@click.option(
    "--limit", type=click.IntRange(1), default=200, show_default=True, help="Studies to use for each finding, at most."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    studies: Path,
    images: Path,
    boxes: Path,
    encoder: Path,
    probe: Path,
    ignored: frozenset[str],
    method: str,
    stage: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """Count how often the peak of a heat map lies in the box drawn around the finding.

    Boxes are grown by half a cell of the feature map. Each film counts once for each finding that has a box on it.
    Chance is the share of the film that the grown boxes cover.

    \b
    precedent pointing studies.parquet --images . --boxes boxes.csv --encoder e.safetensors --probe probe/
    """
    table, where = load_studies(studies), read_boxes(boxes)
    explainer, learnt = Explainer(Embedder.load(encoder, ignored_parts=ignored)), LinearProbe.load(probe)
    warning = warning_of({}, explainer.embedder.trained)
    tallies: dict[str, Tally] = defaultdict(Tally)
    rows = table.select(["frontal_path", "lateral_path", "projection"]).to_pylist()
    with progress_bar("studies") as bar:
        for row in bar.track(rows, description="pointing"):
            paths = {view: row[f"{view}_path"] for view in VIEWS if row[f"{view}_path"]}
            present = sorted({finding for path, finding in where if path in paths.values()} & {*learnt.findings})
            wanted = [finding for finding in present if tallies[finding].films < limit]
            if not wanted:
                continue
            frontal, lateral = (images / paths[view] if view in paths else None for view in VIEWS)
            study = OpenStudy.read(explainer.embedder, frontal, lateral, row["projection"])
            for finding in wanted:
                explanation = explainer.why_finding(study, learnt, finding, method=method, stage=stage)
                for view, heat in explanation.maps.items():
                    _count(
                        tallies[finding], heat, where.get((paths[view], finding), []), explainer.cell(heat.shape, stage)
                    )
    figures = {finding: _figures(tally) for finding, tally in sorted(tallies.items()) if tally.films}
    if as_json:
        say_json({"method": method, "stage": stage, "findings": figures, "warning": warning})
        return
    show(_table(figures, method))
    say_warning(warning)


def read_boxes(path: Path) -> Boxes:
    """Return the boxes of a CSV, ours or NIH's. Raises ArtefactError: no such file, or other columns."""
    boxes: Boxes = defaultdict(list)
    try:
        with open_regular(path) as file:
            for row in csv.DictReader(iter(lambda: file.readline(MOST_LINE).decode("utf-8"), "")):
                if "Bbox [x" in row:  # NIH's BBox_List_2017.csv: a corner, width and height
                    x, y, width, height = (float(row[key]) for key in ("Bbox [x", "y", "w", "h]"))
                    boxes[row["Image Index"], row["Finding Label"]].append((x, y, x + width, y + height))
                    continue
                x0, y0, x1, y1 = (float(row[key]) for key in ("x0", "y0", "x1", "y1"))
                boxes[row["Path"], row["Finding"]].append((x0, y0, x1, y1))
    except ArtefactError:
        raise
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ArtefactError(f"expected columns Path, Finding, x0, y0, x1, y1 in {str(path)!r} ({error})") from error
    return dict(boxes)


def _count(tally: Tally, heat: np.ndarray, boxes: list[Box], cell: tuple[float, float]) -> None:
    if not boxes:
        return
    margin = (cell[0] / 2, cell[1] / 2)
    tally.films += 1
    tally.hits += peak_in_box(heat, boxes, margin)
    covered = np.zeros(heat.shape, dtype=bool)
    for box in boxes:
        x0, y0, x1, y1 = (max(0, round(side)) for side in grown(box, margin))
        covered[y0 : y1 + 1, x0 : x1 + 1] = True
    tally.chances.append(float(covered.mean()))


def _figures(tally: Tally) -> dict[str, float]:
    low, high = wilson_interval(tally.hits / tally.films, tally.films)
    return {
        "films": tally.films,
        "share": tally.hits / tally.films,
        "low": low,
        "high": high,
        "chance": float(np.mean(tally.chances)),
    }


def _table(figures: dict[str, dict[str, float]], method: str) -> Table:
    table = Table(title=f"Pointing game, {method}", box=SIMPLE)
    for heading in ("finding", "films", "peak in box", "95 % interval", "chance"):
        table.add_column(heading, justify="left" if heading == "finding" else "right")
    for finding, figure in figures.items():
        interval = f"{figure['low']:.3f}-{figure['high']:.3f}"
        table.add_row(finding, f"{figure['films']:,}", f"{figure['share']:.3f}", interval, f"{figure['chance']:.3f}")
    return table
