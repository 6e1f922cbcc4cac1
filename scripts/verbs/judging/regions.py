"""`precedent regions`: how often a search by a part of a film finds the same finding, beside the whole film and chance.

precedent regions index/ --images films --boxes films/boxes.csv
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from encoder.films.image import read_plane
from encoder.maps.pointing import Box
from index.built.collection import load_collection
from index.built.regions import LEAST_SIDE, Region, RegionPlace
from index.errors import StudiesError
from index.export.film_maps import VIEWS
from index.export.reliability import Interval
from index.judging.bootstrap import estimates, patient_draws
from index.search.answer import Hit, Query, Subject
from index.search.retriever import Retriever
from scripts.options.places import Anywhere, Here, images_option
from scripts.terminal import progress_bar, say_json, show
from scripts.verbs.judging.pointing import Boxes, read_boxes

K = 5
_DRAWS = 1000
Asked = tuple[str, str, str, str, Box]
"""Study, patient, view, finding, box in pixels."""


@click.command()
@click.argument("index", type=Anywhere())
@images_option
@click.option(
    "--boxes",
    type=Here(),
    required=True,
    help="CSV file with the columns Path, Finding, x0, y0, x1, y1 (pixels), or NIH's BBox_List_2017.csv.",
)
@click.option("--view", type=click.Choice(VIEWS), default="frontal", show_default=True, help="The films that ask.")
@click.option(
    "--limit", type=click.IntRange(1), default=60, show_default=True, help="Boxes to ask for each finding, at most."
)
@click.option(
    "--exact", is_flag=True, help="Compare the places of every study, not of those similar by the whole film."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(index: Path, images: Path, boxes: Path, view: str, limit: int, exact: bool, as_json: bool) -> None:
    """Ask INDEX with every box around a finding, and count how many of the five first hits have that finding.

    A hit counts where a box of the same finding lies on its film of the same view; studies of the query's own patient
    never are hits. Beside it stand the whole film's search for the same queries, and chance: the share of other
    patients' films with such a box. The last column says of the hits that count in how many the middle of the place
    found lies in such a box. Judge an encoder on patients that it was not trained on: index those alone.

    \b
    precedent regions index/ --images films --boxes films/boxes.csv
    """
    collection = load_collection(index)
    rows = collection.studies.select(["study_id", "patient_id", f"{view}_path"]).to_pylist()
    known = _by_path(read_boxes(boxes), [row[f"{view}_path"] for row in rows if row[f"{view}_path"]])
    films = [row | {"path": row[f"{view}_path"]} for row in rows if row[f"{view}_path"]]
    asked = _drawn(films, known, view, limit)
    if not asked:
        raise StudiesError(f"expected boxes on {view} films of {str(index)!r}, got none; are the paths those of it?")
    retriever, judge = Retriever(collection), _Judge(films, known, images, view)
    judged: dict[str, list[dict[str, float]]] = defaultdict(list)
    patients: dict[str, list[str]] = defaultdict(list)
    with progress_bar("boxes") as bar:
        for study, patient, _, finding, box in bar.track(asked, description="regions"):
            query = Query(subject=Subject(study_id=study), k=K, exact=exact)
            by_film = retriever.answer(query).hits
            region = judge.region(study, box)
            by_region = retriever.answer(Query(subject=query.subject, k=K, exact=exact, region=region)).hits
            judged[finding].append(judge.figures(finding, patient, by_film, by_region))
            patients[finding].append(patient)
    judged["all"] = [one for several in judged.values() for one in several]
    patients["all"] = [one for several in patients.values() for one in several]
    figures = {finding: _summed(several, patients[finding]) for finding, several in judged.items()}
    if as_json:
        say_json({"view": view, "k": K, "exact": exact, "findings": figures})
        return
    show(_table(figures, view))


class _Judge:
    """What lies where on the films of one view."""

    def __init__(self, films: Sequence[Mapping[str, Any]], boxes: Boxes, images: Path, view: str) -> None:
        self._boxes, self._view = boxes, view
        self._paths = {film["study_id"]: film["path"] for film in films}
        self._having: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._films: dict[str, int] = defaultdict(int)
        for film in films:
            self._films[film["patient_id"]] += 1
        patient_of = {film["path"]: film["patient_id"] for film in films}
        for path, finding in boxes:
            self._having[finding][patient_of[path]] += 1
        self._size = lru_cache(None)(lambda path: read_plane(images / path).shape)

    def region(self, study: str, box: Box) -> Region:
        """Return a box in pixels of a study's film as a region."""
        return Region(self._shares(self._paths[study], box), self._view)

    def figures(self, finding: str, patient: str, by_film: Sequence[Hit], by_region: Sequence[Hit]) -> dict[str, float]:
        """Return what one query gave, each as a share of its hits."""
        having = self._having[finding]
        others = sum(self._films.values()) - self._films[patient]
        right = [hit for hit in by_region if self._has(hit, finding)]
        return {
            "region_1": float(self._has(by_region[0], finding)) if by_region else np.nan,
            "region": float(np.mean([self._has(hit, finding) for hit in by_region])) if by_region else np.nan,
            "whole_1": float(self._has(by_film[0], finding)) if by_film else np.nan,
            "whole": float(np.mean([self._has(hit, finding) for hit in by_film])) if by_film else np.nan,
            "in_box": float(np.mean([self._inside(hit, finding) for hit in right])) if right else np.nan,
            "chance": (sum(having.values()) - having[patient]) / others if others else np.nan,
        }

    def _has(self, hit: Hit, finding: str) -> bool:
        return (self._paths.get(hit.study.study_id), finding) in self._boxes

    def _inside(self, hit: Hit, finding: str) -> bool:
        path, place = self._paths[hit.study.study_id], hit.place
        assert isinstance(place, RegionPlace)
        x, y = (place.box[0] + place.box[2]) / 2, (place.box[1] + place.box[3]) / 2
        shares = (self._shares(path, box) for box in self._boxes[path, finding])
        return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in shares)

    def _shares(self, path: str, box: Box) -> Box:
        height, width = self._size(path)
        x0, x1 = (min(max(side / width, 0.0), 1.0) for side in box[::2])
        y0, y1 = (min(max(side / height, 0.0), 1.0) for side in box[1::2])
        x0, y0 = min(x0, 1 - LEAST_SIDE), min(y0, 1 - LEAST_SIDE)
        return x0, y0, max(x1, x0 + LEAST_SIDE), max(y1, y0 + LEAST_SIDE)


def _by_path(boxes: Boxes, paths: Sequence[str]) -> Boxes:
    """Return the boxes on these films; those of a bare file name are of the one film of that name."""
    by_name = {path.rpartition("/")[2]: path for path in paths} | {path: path for path in paths}
    return {(by_name[path], finding): found for (path, finding), found in boxes.items() if path in by_name}


def _drawn(films: Sequence[Mapping[str, Any]], boxes: Boxes, view: str, limit: int) -> list[Asked]:
    """Return the boxes that ask, of each finding at most so many, drawn with a seed."""
    by_finding: dict[str, list[Asked]] = defaultdict(list)
    of_path = {film["path"]: film for film in films}
    for (path, finding), several in sorted(boxes.items()):
        film = of_path[path]
        by_finding[finding] += [(film["study_id"], film["patient_id"], view, finding, box) for box in several]
    rng = np.random.default_rng(0)
    orders = ((several, rng.permutation(len(several))[:limit]) for _, several in sorted(by_finding.items()))
    return [several[place] for several, order in orders for place in order]


def _summed(judged: Sequence[Mapping[str, float]], patients: Sequence[str]) -> dict[str, Any]:
    """Return means over queries with their 95 % intervals, by bootstrap over the patients that ask."""
    values = {name: np.array([one[name] for one in judged]) for name in judged[0]}
    values["gain"] = values["region"] - values["whole"]
    draws = patient_draws(list(patients), _DRAWS, seed=0)
    found = estimates(list(values.values()), [values["chance"]] * len(values), draws)
    summed = {name: vars(Interval.of(one.value, one.low, one.high)) for name, one in zip(values, found, strict=True)}
    return {"boxes": len(judged), **summed, "chance": round(float(np.nanmean(values["chance"])), 4)}


def _table(figures: Mapping[str, Mapping[str, Any]], view: str) -> Table:
    table = Table(title=f"The finding under the box, on {view} films", box=SIMPLE)
    headings = (
        "finding",
        "boxes",
        "first hit",
        f"{K} hits by region",
        "by the whole film",
        "gain",
        "chance",
        "in its box",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "finding" else "right")
    for finding, figure in figures.items():
        shown = [str(Interval(**figure[name])) for name in ("region", "whole", "gain")]
        first, in_box = (f"{figure[name]['value']:.3f}" for name in ("region_1", "in_box"))
        table.add_row(finding, f"{figure['boxes']:,}", first, *shown, f"{figure['chance']:.3f}", in_box)
    return table
