"""Whether the service lives, whether it can do its work, and what it serves.

Readiness is a real embedding and a real search, kept for some seconds so that probes cost nothing.
"""

import threading
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt
from flask import current_app
from flask_openapi3 import APIBlueprint

from service.answers import InfoAnswer
from service.errors import Busy, NotReady
from service.films import as_png
from service.finder import Finder, Mounted, mounted
from service.limits import MAX_HITS
from service.openapi import SERVICE, refusals

KEPT_SECONDS = 5.0

api = APIBlueprint("health", __name__, abp_tags=[SERVICE], abp_responses=refusals(500))


@dataclass
class Readiness:
    """The last verdict and its time; one probe at a time, the others take its verdict."""

    clock: float = -KEPT_SECONDS
    verdict: dict[str, Any] | NotReady = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, served: Mounted) -> dict[str, Any]:
        """Return how long an embedding and a search of each collection took, measured at most KEPT_SECONDS ago.

        Raises:
            NotReady: one of them failed. Busy: too many films wait to try one more, which is no verdict.
        """
        with self.lock:
            if time.monotonic() - self.clock >= KEPT_SECONDS:
                self.verdict, self.clock = _probe(served), time.monotonic()
            if isinstance(self.verdict, NotReady):
                raise self.verdict
            return self.verdict


def _probe(served: Mounted) -> dict[str, Any] | NotReady:
    started = time.perf_counter()
    try:
        vector = served.finder().embed(_synthetic_film(), None)
    except Busy:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        return _not_ready("a test film could not be embedded; see the log", error)
    embed_ms, search_ms = _milliseconds(started), {}
    for finder in served.finders:
        started = time.perf_counter()
        try:
            _search(finder, vector)
        except (ValueError, OSError, RuntimeError) as error:
            return _not_ready(f"collection {finder.name!r} could not be searched; see the log", error)
        search_ms[finder.name] = _milliseconds(started)
    return {"status": "ready", "embed_ms": embed_ms, "search_ms": search_ms}


def _search(finder: Finder, vector: npt.NDArray[np.float32]) -> None:
    if not finder.retriever.search(vector, k=1).hits:
        raise RuntimeError("expected a nearest study, got none")


def _not_ready(sentence: str, cause: Exception) -> NotReady:
    verdict = NotReady(sentence)
    verdict.__cause__ = cause
    return verdict


def _milliseconds(since: float) -> float:
    return round(1000 * (time.perf_counter() - since), 2)


def _synthetic_film() -> bytes:
    """Two dark fields in a bright body: enough for a reader that refuses constant images."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    lungs = np.exp(-((np.abs(x) - 0.45) ** 2) / 0.06 - y**2 / 0.4)
    return as_png(0.85 * np.exp(-(x**4)) * (1 - 0.8 * lungs))


@api.get("/healthz")
def healthz() -> dict[str, str]:
    """The process lives"""
    return {"status": "ok"}


@api.get("/readyz", responses=refusals(429, 503))
def readyz() -> dict[str, Any]:
    """A test film can be embedded, and searched for in every collection; the verdict is at most some seconds old"""
    readiness: Readiness = current_app.extensions["precedent_readiness"]
    return readiness.check(mounted())


@api.get("/info", responses={200: InfoAnswer})
def info() -> dict[str, Any]:
    """Which encoder, which collections, which columns of each can be filtered on, and the limits"""
    served = mounted()
    return {
        "name": "precedent",
        "version": _version(),
        "fingerprint": served.finder().retriever.fingerprint,
        "embedding_dim": served.finder().retriever.embedding_dim,
        "collections": [_facts(finder) for finder in served.finders],
        "limits": {"k": MAX_HITS, "body_bytes": current_app.config["MAX_CONTENT_LENGTH"]},
    }


def _facts(finder: Finder) -> dict[str, Any]:
    retriever = finder.retriever
    return {
        "name": finder.name,
        "studies": len(retriever),
        "embedding_dim": retriever.embedding_dim,
        "kind": retriever.manifest.get("kind"),
        "recall_at_10": retriever.manifest.get("recall_at_10"),
        "images": finder.image_root is not None,
        "map": finder.map is not None,
        "built_at": finder.built_at,
        "columns": list(retriever.columns),
    }


def _version() -> str:
    try:
        return version("cxr-precedent")
    except PackageNotFoundError:
        return "not installed"
