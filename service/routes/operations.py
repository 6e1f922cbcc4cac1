"""Whether the service lives, whether it can do its work, and what it serves.

The routes alone: what is tried for readiness stands in `service.served.readiness`.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from flask import current_app
from flask_openapi3 import APIBlueprint

from service.api.answers import InfoAnswer, LifeAnswer, ReadyAnswer
from service.api.openapi import SERVICE, refusals
from service.guard.disclosure import READ_HITS, exact
from service.limits import MAX_FILE_BYTES, MAX_HITS, MAX_PIXELS
from service.served.mounted import Finder, mounted
from service.served.readiness import Readiness

READINESS = "precedent_readiness"

api = APIBlueprint("health", __name__, abp_tags=[SERVICE], abp_responses=refusals(500))


@api.get("/healthz", responses={200: LifeAnswer})
def healthz() -> dict[str, str]:
    """The process lives"""
    return {"status": "ok"}


@api.get("/readyz", responses={200: ReadyAnswer, **refusals(429, 503)})
def readyz() -> dict[str, Any]:
    """A test film is embedded, and found in every collection, as at start; the verdict is at most some seconds old"""
    return cast(Readiness, current_app.extensions[READINESS]).check(mounted())


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
            "body_bytes": current_app.config["MAX_CONTENT_LENGTH"],
            "film_bytes": MAX_FILE_BYTES,
            "film_pixels": MAX_PIXELS,
        },
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


def installed_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("cxr-precedent")
    except PackageNotFoundError:
        return "not installed"
