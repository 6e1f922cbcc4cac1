"""The routes of those who operate the service: life, readiness, metrics, what is served, and serving what is new.

What is tried for readiness stands in `service.served.readiness`, how another index takes its place in
`service.served.activation`.
"""

from typing import Any

from flask import Response
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, Field

from encoder.films.image import MAX_FILE_BYTES, MAX_PIXELS
from service.api.answers import ActivationAnswer, InfoAnswer, LifeAnswer, ReadyAnswer
from service.api.openapi import SERVICE, content, refusals
from service.audit.trail import announce
from service.errors import NotWritable
from service.guard.disclosure import READ_HITS, exact
from service.limits import MAX_HITS
from service.served.mounted import mounted
from service.state import state
from service.watch.metrics import MIMETYPE, installed_version

api = APIBlueprint("operations", __name__, abp_tags=[SERVICE], abp_responses=refusals(500))


class IndexPath(BaseModel):
    """Which collection."""

    name: str = Field(max_length=64, description="as /info lists it")


@api.get("/healthz", responses={200: LifeAnswer})
def healthz() -> dict[str, Any]:
    """The process lives"""
    return LifeAnswer.of({})


@api.get("/readyz", responses={200: ReadyAnswer, **refusals(429, 503)})
def readyz() -> dict[str, Any]:
    """A test film is embedded, and found in every collection, as at start; the verdict is at most some seconds old"""
    return ReadyAnswer.of(state().readiness.check(mounted()))


@api.get("/info", responses={200: InfoAnswer})
def info() -> dict[str, Any]:
    """Which encoder, which collections, which columns of each can be filtered on, and the limits"""
    served = mounted()
    limits = {
        "k": MAX_HITS if exact() else READ_HITS,
        "body_bytes": state().limits.body_bytes,
        "film_bytes": MAX_FILE_BYTES,
        "film_pixels": MAX_PIXELS,
    }
    first = served.collection().retriever
    facts: dict[str, Any] = {
        "name": "precedent",
        "version": installed_version(),
        "collections": served.collections,
        "limits": limits,
    }
    facts |= {"sites": served.sites, "remote": state().remote}
    return InfoAnswer.of({**facts, "fingerprint": first.fingerprint, "embedding_dim": first.embedding_dim})


@api.get("/metrics", responses={200: content("text/plain")})
def exposition() -> Response:
    """Metrics in Prometheus's text format; no label holds a path, a study or a filter"""
    return Response(state().metrics.exposition(), content_type=MIMETYPE)


@api.post("/v1/indexes/<name>/activate", responses={200: ActivationAnswer, **refusals(400, 404, 409, 429, 503)})
def activate(path: IndexPath) -> dict[str, Any]:
    """Load a collection's folder anew and serve it: a compacted index, or another in its place"""
    activation = state().activation
    if activation is None:
        raise NotWritable(
            "this service was not started from folders, so it cannot load a new index; start it with precedent serve"
        )
    announce(mounted().collection(path.name))
    return ActivationAnswer.of(activation.activate(path.name).collection(path.name))
