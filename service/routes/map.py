"""The route of a collection's map: where each study stands on the plane, and how one finding is labelled there.

The map was worked out beforehand (`precedent map`); this room thins it, and must not compute places of its own.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from flask import request
from flask_openapi3 import APIBlueprint
from pydantic import Field

from index.built.map import CollectionMap
from index.errors import FilterError
from service.api.answers import CollectionMapAnswer, PlaceAnswer
from service.api.openapi import STUDIES, film_body, refusals
from service.api.requests import Finding, InCollection, Place, PlaceOptions, StudyId, parse_query
from service.errors import MapMissing
from service.guard import disclosure
from service.limits import MAX_DRAWN
from service.served.mounted import MountedCollection, current
from service.served.queries import recalled

MAX_POINTS = 20_000
"""Points of one answer: what a browser still draws at once, in about a megabyte."""

api = APIBlueprint("maps", __name__, abp_tags=[STUDIES], abp_responses=refusals(400, 404, 500))


class MapQuery(InCollection):
    """Which map, and what its points are coloured by."""

    finding: Finding | None = Field(
        None, description="a label column to colour the points by; without it the answer has no labels"
    )
    study: list[StudyId] = Field(
        default_factory=list, max_length=MAX_DRAWN, description="ids of studies that must be among the points"
    )


@api.get("/v1/map", responses={200: CollectionMapAnswer, **refusals(431)})
def collection_map(query: MapQuery) -> dict[str, Any]:
    """Where the studies stand on the collection's map, thinned evenly to 20,000 points; those added since do not"""
    collection = current(query.collection)
    studies, drawn = collection.retriever.now(), _map_of(collection)
    if query.finding is not None and query.finding not in drawn.findings:
        raise FilterError(f"no finding {query.finding!r} on this map; there are: {', '.join(drawn.findings)}")
    placed = np.flatnonzero(~_among(drawn.points["study_id"], studies.moved))
    points = drawn.points.take(placed[_drawn(drawn.points["study_id"].take(placed), query.study)])
    return CollectionMapAnswer.of(
        {
            "rows": len(placed),
            "absent": max(len(studies) - len(placed), 0),
            "study_ids": points["study_id"].to_pylist(),
            **{axis: [disclosure.coordinate(round(value, 5)) for value in points[axis].to_pylist()] for axis in "xy"},
            "labels": points[query.finding].to_pylist() if query.finding else [],
            "findings": drawn.findings,
            "shares": list(drawn.plane.shares),
            "fingerprint": drawn.fingerprint,
        }
    )


@api.post(
    "/v1/map",
    responses={200: PlaceAnswer, **refusals(409, 413, 415, 422, 429, 503)},
    openapi_extensions=film_body(PlaceOptions, Place),
)
def locate() -> dict[str, Any]:
    """Where films, or a stored study that was added since, stand on the collection's map"""
    asked, kept = recalled(parse_query(request, PlaceOptions, Place))
    collection = current(asked.collection)
    drawn = _map_of(collection)
    if asked.study_id is not None:
        vector = collection.retriever.embedding(asked.study_id)
    elif kept is not None:
        _, vector = kept.look(collection)
    else:
        vector = collection.embed(asked.frontal, asked.lateral)
    x, y = map(disclosure.coordinate, drawn.plane.project(vector[None])[0].tolist())
    return PlaceAnswer.of({"x": x, "y": y, "fingerprint": drawn.fingerprint})


def _map_of(collection: MountedCollection) -> CollectionMap:
    if collection.map is None:
        raise MapMissing("this collection has no map; run: precedent map INDEX, and start the service again")
    return collection.map


def _drawn(ids: pa.ChunkedArray, wanted: Collection[str]) -> npt.NDArray[np.int64]:
    """Return the rows to draw: evenly spaced ones, and those asked for."""
    step = -(-len(ids) // MAX_POINTS)
    even = np.arange(0, len(ids), step)
    if step == 1 or not wanted:
        return even
    return np.union1d(even, np.flatnonzero(_among(ids, wanted)))


def _among(ids: pa.ChunkedArray, wanted: Collection[str]) -> npt.NDArray[np.bool_]:
    """Return which of the ids (N,) are wanted."""
    return np.array(pc.is_in(ids, pa.array(list(wanted), pa.string())), dtype=bool)
