"""The route of a collection's map: where each study stands on the plane, and how one finding is labelled there.

The map was worked out beforehand (`precedent map`); this room thins it, and must not compute places of its own.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, Field

from index.errors import FilterError
from service.errors import MapMissing
from service.finder import current
from service.openapi import STUDIES, refusals
from service.schemas import InCollection, StudyId

MAX_POINTS = 20_000
"""Points of one answer: what a browser still draws at once, in about a megabyte."""

api = APIBlueprint("maps", __name__, abp_tags=[STUDIES], abp_responses=refusals(400, 404, 500))


class MapQuery(InCollection):
    """Which map, and what its points are coloured by."""

    finding: str | None = Field(None, description="a column of labels; without one, no labels are answered")
    study: list[StudyId] = Field(default_factory=list, max_length=1100, description="studies that must be drawn")


class CollectionMapAnswer(BaseModel):
    """A map as columns, an entry a point."""

    rows: int = Field(description="studies of the collection; more than are answered where the map was thinned")
    study_ids: list[str]
    x: list[float]
    y: list[float]
    labels: list[int | None] = Field(description="of the finding: 1 present, 0 absent, -1 uncertain; or empty")
    findings: list[str] = Field(description="what points can be coloured by")
    shares: list[float] = Field(description="of the variance that each axis holds")
    mean: list[float] = Field(description="(D,): the place of a vector v is axes . (v - mean)")
    axes: list[list[float]] = Field(description="(2, D)")
    fingerprint: str


@api.get("/v1/map", responses={200: CollectionMapAnswer})
def collection_map(query: MapQuery) -> dict[str, Any]:
    """Where the studies stand on the collection's map, thinned evenly to 20,000 points"""
    found = current(query.collection).map
    if found is None:
        raise MapMissing("this collection has no map; run: precedent map INDEX, and start the service again")
    if query.finding is not None and query.finding not in found.findings:
        raise FilterError(f"no finding {query.finding!r} on this map; there are: {', '.join(found.findings)}")
    ids = found.points["study_id"].combine_chunks()
    points = found.points.take(_drawn(ids.to_pylist(), query.study))
    return {
        "rows": len(found),
        "study_ids": points["study_id"].to_pylist(),
        **{axis: [round(place, 5) for place in points[axis].to_pylist()] for axis in "xy"},
        "labels": points[query.finding].to_pylist() if query.finding else [],
        "findings": found.findings,
        "shares": list(found.plane.shares),
        "mean": found.plane.mean.tolist(),
        "axes": found.plane.axes.tolist(),
        "fingerprint": found.fingerprint,
    }


def _drawn(ids: list[str], wanted: list[str]) -> npt.NDArray[np.int64]:
    """Return the rows to draw: evenly spaced ones, and those asked for."""
    step = -(-len(ids) // MAX_POINTS)
    even = np.arange(0, len(ids), step)
    if step == 1 or not wanted:
        return even
    asked = set(wanted)
    return np.union1d(even, [row for row, one in enumerate(ids) if one in asked]).astype(np.int64)
