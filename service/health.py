"""Whether the service lives, whether it can do its work, and what it serves.

Readiness is a real embedding and a real search, kept for some seconds so that probes cost nothing.
"""

import threading
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from flask import current_app
from flask_openapi3 import APIBlueprint

from service.errors import NotReady
from service.films import as_png
from service.finder import Finder, current
from service.limits import MAX_HITS
from service.openapi import SERVICE, refusals

KEPT_SECONDS = 5.0
RECALL = "recall_at_10"

api = APIBlueprint("health", __name__, abp_tags=[SERVICE], abp_responses=refusals(500))


@dataclass
class Readiness:
    """The last verdict and its time; one probe at a time, the others take its verdict."""

    clock: float = -KEPT_SECONDS
    verdict: dict[str, Any] | NotReady = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, finder: Finder) -> dict[str, Any]:
        """Return how long an embedding and a search took, measured at most KEPT_SECONDS ago.

        Raises:
            NotReady: one of the two failed.
        """
        with self.lock:
            if time.monotonic() - self.clock >= KEPT_SECONDS:
                self.verdict, self.clock = _probe(finder), time.monotonic()
            if isinstance(self.verdict, NotReady):
                raise self.verdict
            return self.verdict


def _probe(finder: Finder) -> dict[str, Any] | NotReady:
    try:
        return _embed_and_search(finder)
    except (ValueError, OSError, RuntimeError) as error:
        verdict = NotReady("a test film could not be embedded and searched for; see the log")
        verdict.__cause__ = error
        return verdict


def _embed_and_search(finder: Finder) -> dict[str, Any]:
    started = time.perf_counter()
    vector = finder.embed(_synthetic_film(), None)
    embedded = time.perf_counter()
    if not finder.retriever.search(vector, k=1).hits:
        raise RuntimeError("expected a nearest study, got none")
    searched = time.perf_counter()
    return {
        "status": "ready",
        "embed_ms": round(1000 * (embedded - started), 2),
        "search_ms": round(1000 * (searched - embedded), 2),
    }


def _synthetic_film() -> bytes:
    """Two dark fields in a bright body: enough for a reader that refuses constant images."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    lungs = np.exp(-((np.abs(x) - 0.45) ** 2) / 0.06 - y**2 / 0.4)
    return as_png(0.85 * np.exp(-(x**4)) * (1 - 0.8 * lungs))


@api.get("/healthz")
def healthz() -> dict[str, str]:
    """The process lives"""
    return {"status": "ok"}


@api.get("/readyz", responses=refusals(503))
def readyz() -> dict[str, Any]:
    """A test film can be embedded and searched for; the verdict is at most some seconds old"""
    readiness: Readiness = current_app.extensions["precedent_readiness"]
    return readiness.check(current())


@api.get("/info")
def info() -> dict[str, Any]:
    """Which encoder, how many studies, which columns can be filtered on, and the limits"""
    retriever = current().retriever
    return {
        "name": "precedent",
        "version": _version(),
        "fingerprint": retriever.fingerprint,
        "embedding_dim": retriever.embedding_dim,
        "rows": len(retriever),
        "kind": retriever.manifest.get("kind"),
        RECALL: retriever.manifest.get(RECALL),
        "columns": list(retriever.columns),
        "limits": {"k": MAX_HITS, "body_bytes": current_app.config["MAX_CONTENT_LENGTH"]},
    }


def _version() -> str:
    try:
        return version("cxr-precedent")
    except PackageNotFoundError:
        return "not installed"
