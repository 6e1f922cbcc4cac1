"""Whether the service still works as at its start: one film embedded, the nearest study of each collection found.

A probe is a real embedding and real searches, kept for some seconds. Without an encoder a stored vector is searched.
"""

import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import Gauge

from index.search.answer import Hit, Query
from index.search.searchable import Searchable
from service.errors import Busy, NotReady
from service.served.mounted import Mounted, MountedCollection
from service.served.pictures import drawn_film

KEPT_SECONDS = 5.0
LEAST_COSINE = 0.999
"""Of the test film's vector to the one at start: batch mates and threads move a vector by less than 0.0001."""
_TOLERANCE = 1e-4

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """The test film's vector (D,) and the encoder that made it."""

    fingerprint: str
    vector: Vector


@dataclass(frozen=True)
class NearestBefore:
    """What a search for the golden vector found in a collection as it was then."""

    searched: "weakref.ref[Searchable]"
    study_id: str
    similarity: float

    def require(self, hit: Hit) -> None:
        """Raise RuntimeError unless the hit is the study that was found before, at the same similarity."""
        if hit.study.study_id != self.study_id or abs(hit.similarity - self.similarity) > _TOLERANCE:
            raise RuntimeError(
                f"expected study {self.study_id!r} at {self.similarity:.4f} as before, "
                f"got {hit.study.study_id!r} at {hit.similarity:.4f}; restart the service"
            )


@dataclass
class Readiness:
    """The last verdict and its time; one probe at a time, the others take its verdict.

    What is compared with is taken anew for an encoder of another fingerprint, and for a collection that has changed.
    """

    ready: Gauge | None = None
    """Set to 1 or 0 by each verdict."""
    clock: float = -KEPT_SECONDS
    verdict: dict[str, Any] | NotReady = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    golden: Golden | None = None
    nearest: dict[str, NearestBefore] = field(default_factory=dict)

    def check(self, served: Mounted) -> dict[str, Any]:
        """Return how long an embedding and a search of each collection took, measured at most KEPT_SECONDS ago.

        Raises:
            NotReady: one of them failed, or gave something else than at start. Busy: too many films wait to try one
                more, and none was tried before.
        """
        with self.lock:
            if time.monotonic() - self.clock >= KEPT_SECONDS:
                try:
                    self.verdict = self._probe(served)
                except Busy:  # it works, at all it can: no reason to send its callers elsewhere, as 429 has some do
                    if not self.verdict:
                        raise
                self.clock = time.monotonic()
                if self.ready is not None:
                    self.ready.set(isinstance(self.verdict, dict))
            if isinstance(self.verdict, NotReady):
                raise self.verdict.with_traceback(None)  # which would grow with each caller
            return self.verdict

    def _probe(self, served: Mounted) -> dict[str, Any] | NotReady:
        started = time.perf_counter()
        first = served.collection()
        try:
            golden, cosine = self._embedded(first) if first.embeds else (None, None)
        except Busy:
            raise
        except (ValueError, OSError, RuntimeError) as error:
            return _not_ready("a test film is not embedded as at start; see the log", error)
        embed_ms, search_ms = _milliseconds(started) if golden is not None else None, {}
        for collection in served.collections:
            started = time.perf_counter()
            try:
                self._search(collection, golden.vector if golden is not None else stored_vector(collection))
            except (ValueError, OSError, RuntimeError) as error:
                return _not_ready(f"collection {collection.name!r} is not searched as at start; see the log", error)
            search_ms[collection.name] = _milliseconds(started)
        return {"embed_ms": embed_ms, "search_ms": search_ms, "cosine_to_start": cosine}

    def _embedded(self, collection: MountedCollection) -> tuple[Golden, float]:
        """Return the golden vector and the cosine to it of the vector the encoder gives now."""
        vector = collection.embed(drawn_film(), None)
        if self.golden is None or self.golden.fingerprint != collection.fingerprint:
            self.golden = Golden(collection.fingerprint, vector)
        cosine = float(vector @ self.golden.vector)
        if not cosine >= LEAST_COSINE:  # not a number either
            raise RuntimeError(
                f"expected the test film's vector at a cosine of at least {LEAST_COSINE} to the one at start, "
                f"got {cosine:.4f}; restart the service"
            )
        return self.golden, round(cosine, 6)

    def _search(self, collection: MountedCollection, vector: Vector) -> None:
        retriever = collection.retriever.now()
        if not (hits := retriever.answer(Query(vector, k=1)).hits):
            raise RuntimeError("expected a nearest study, got none")
        before = self.nearest.get(collection.name)
        if before is not None and before.searched() is retriever:
            before.require(hits[0])
        else:
            nearest = hits[0]
            self.nearest[collection.name] = NearestBefore(
                weakref.ref(retriever), nearest.study.study_id, nearest.similarity
            )


def stored_vector(collection: MountedCollection) -> Vector:
    """Return the vector (D,) of a stored study: that which points most into the direction of all axes."""
    here = collection.retriever.now()
    middle = np.full(here.embedding_dim, here.embedding_dim**-0.5, np.float32)
    hits = here.answer(Query(middle, k=1)).hits
    if not hits:
        raise RuntimeError("expected a nearest study, got none")
    return here.embedding(hits[0].study.study_id)


def _not_ready(sentence: str, cause: Exception) -> NotReady:
    verdict = NotReady(sentence)
    verdict.__cause__ = cause
    return verdict


def _milliseconds(since: float) -> float:
    return round(1000 * (time.perf_counter() - since), 2)
