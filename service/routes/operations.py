"""The routes of those who operate the service: life, readiness, metrics, what is served, and serving what is new.

What is tried for readiness stands in `service.served.readiness`, how another index takes its place in
`service.served.activation`.
"""

from typing import Any

from flask import Response
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, Field

from service.api.answers import InfoAnswer, LifeAnswer, ReadyAnswer
from service.api.openapi import SERVICE, content, refusals
from service.audit.trail import announce
from service.errors import NotWritable
from service.guard.disclosure import READ_HITS, exact
from service.limits import MAX_FILE_BYTES, MAX_HITS, MAX_PIXELS
from service.served.mounted import Finder, mounted
from service.state import state
from service.watch.metrics import MIMETYPE, installed_version

api = APIBlueprint("operations", __name__, abp_tags=[SERVICE], abp_responses=refusals(500))


class IndexPath(BaseModel):
    """Which collection."""

    name: str = Field(max_length=64, description="as /info lists it")


class ActivationAnswer(BaseModel):
    """What is served now."""

    name: str
    studies: int
    fingerprint: str
    built_at: str | None


@api.get("/healthz", responses={200: LifeAnswer})
def healthz() -> dict[str, str]:
    """The process lives"""
    return {"status": "ok"}


@api.get("/readyz", responses={200: ReadyAnswer, **refusals(429, 503)})
def readyz() -> dict[str, Any]:
    """A test film is embedded, and found in every collection, as at start; the verdict is at most some seconds old"""
    return state().readiness.check(mounted())


@api.get("/info", responses={200: InfoAnswer})
def info() -> dict[str, Any]:
    """Which encoder, which collections, which columns of each can be filtered on, and the limits"""
    served = mounted()
    return {
        "name": "precedent",
        "version": installed_version(),
        "fingerprint": served.finder().retriever.fingerprint,
        "embedding_dim": served.finder().retriever.embedding_dim,
        "collections": [_facts(finder) for finder in served.finders],
        "limits": {
            "k": MAX_HITS if exact() else READ_HITS,
            "body_bytes": state().limits.body_bytes,
            "film_bytes": MAX_FILE_BYTES,
            "film_pixels": MAX_PIXELS,
        },
    }


@api.get("/metrics", responses={200: content("text/plain")})
def exposition() -> Response:
    """Counts and times in Prometheus's text format; no label holds a path, a study or a filter"""
    return Response(state().metrics.exposition(), content_type=MIMETYPE)


@api.post("/v1/indexes/<name>/activate", responses={200: ActivationAnswer, **refusals(400, 404, 409, 429, 503)})
def activate(path: IndexPath) -> dict[str, object]:
    """Serve what lies in a collection's folder now: a compacted index, or another put in its place"""
    activation = state().activation
    if activation is None:
        raise NotWritable("the service was not started from folders; start it with precedent serve")
    announce(mounted().finder(path.name))
    finder = activation.activate(path.name).finder(path.name)
    return {
        "name": finder.name,
        "studies": len(finder.retriever),
        "fingerprint": finder.fingerprint,
        "built_at": finder.built_at,
    }


def _facts(finder: Finder) -> dict[str, Any]:
    retriever = finder.retriever
    choices = retriever.choices
    return {
        "name": finder.name,
        "studies": len(retriever),
        "embedding_dim": retriever.embedding_dim,
        "kind": retriever.manifest.get("kind"),
        "consistency": getattr(retriever, "consistency", None),
        "recall_at_10": retriever.manifest.get("recall_at_10"),
        "images": finder.image_root is not None,
        "map": finder.map is not None,
        "built_at": finder.built_at,
        "columns": finder.columns,
        "findings": list(choices.findings),
        "sexes": list(choices.sexes),
        "projections": list(choices.projections),
        "encoder_trained": finder.trained,
        "warning": finder.warning,
    }
