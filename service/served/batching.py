"""Films of many requests on their way through one encoder: what gathers while it works goes through it together."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from service.errors import ClientGone, NotReady
from service.limits import BATCH
from service.served.concurrency import ConcurrencyLimit
from service.served.decoding import Decoding
from service.watch.metrics import Metrics

log = logging.getLogger("precedent.service")

ReadFilms = TypeVar("ReadFilms")
Vector = npt.NDArray[np.float32]
Gone = Callable[[], bool]
"""Whether nobody waits for the answer any more."""

CHUNK = 4
"""Studies that are better embedded together: OpenVINO takes four for half of what each costs it alone."""
LANES = 2
"""Batches the encoder has at once, so that it need not wait for one to be fused and the next to be put together."""


class FilmEmbedder(Protocol[ReadFilms]):
    """What is asked of an encoder here: to read the films of a study, and to embed those of several together."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, config and preprocessing."""

    @property
    def embedding_dim(self) -> int:
        """Length D of a vector."""

    def read_films(self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None) -> ReadFilms:
        """Return the films of one study as the encoder takes them. Raises ImageError."""

    def embed(self, studies: Sequence[ReadFilms]) -> Vector:
        """Return the (B, D) unit vectors of studies."""


@dataclass(frozen=True)
class _Ticket(Generic[ReadFilms]):
    films: ReadFilms
    gone: Gone
    vector: "Future[Vector]" = field(default_factory=Future)
    since: float = field(default_factory=perf_counter)


def stays() -> bool:
    """Say that the caller is still there."""
    return False


class BatchingEmbedder(Generic[ReadFilms]):
    """An embedder for many threads at once: each reads its own films, and those that are read are embedded together.

    A batch is what waits when the encoder has room, never more than `batch`. Nothing waits for the clock: only fewer
    than a chunk wait, and only for films that are being read at that moment. A study that cannot be read or embedded
    fails alone. It is a `service.served.embedder.Embedder`.
    """

    def __init__(
        self,
        embedder: FilmEmbedder[ReadFilms],
        *,
        places: int,
        batch: int = BATCH,
        disconnect_check: Callable[[], Gone] = lambda: stays,
        metrics: Metrics | None = None,
        films: Decoding | None = None,
    ) -> None:
        """Wrap an embedder.

        Args:
            places: studies that may be here at a time, from upload to vector; one more is turned away.
            disconnect_check: asked in the caller's thread; returns what tells whether that caller has gone.
            metrics: where stages, batches and the queue are counted.
            films: where they are decoded, among others.
        """
        self._embedder, self._batch, self._disconnect_check = embedder, batch, disconnect_check
        self.fingerprint, self.embedding_dim = embedder.fingerprint, embedder.embedding_dim
        self._places = ConcurrencyLimit("studies to embed", places)
        self._metrics = metrics or Metrics()
        self.films = films or Decoding()
        self._lock = threading.Lock()
        self._coming = 0
        self._waiting: deque[_Ticket[ReadFilms]] = deque()
        self._lanes = ThreadPoolExecutor(LANES, thread_name_prefix="embed")

    def embed_study(self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None) -> Vector:
        """Return the (D,) unit vector of one study; errors as `read_and_embed`."""
        return self.read_and_embed(frontal, lateral, projection)[1]

    def read_and_embed(
        self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None
    ) -> tuple[ReadFilms, Vector]:
        """Return the films of one study and their (D,) unit vector.

        Raises:
            ImageError: a view that is no image, or not usable as a radiograph.
            Busy: too many studies are here already. ClientGone: nobody waits for the answer.
        """
        with self._places, self._metrics.uploads.track_inprogress():
            ticket = self._ticket((frontal, lateral) if projection is None else (frontal, lateral, projection))
            return ticket.films, ticket.vector.result()

    def _ticket(self, given: tuple[Any, ...]) -> _Ticket[ReadFilms]:
        """Read films and put them among those that wait."""
        gone = self._disconnect_check()
        with self._lock:
            self._coming += 1
        ticket = None
        try:
            with self.films.slot():
                _require_client(gone)
                with self._metrics.stage("decode"):
                    films = self._embedder.read_films(*given)
                ticket = _Ticket(films, gone)
        finally:
            with self._lock:
                self._coming -= 1
                if ticket is not None:
                    self._waiting.append(ticket)
                    self._metrics.queue.inc()
            self._lanes.submit(self._embed_waiting)  # also where nothing was read: others may have waited for it
        return ticket

    def _embed_waiting(self) -> None:
        """Embed a batch of what waits."""
        taken = self._take()
        try:
            if taken:
                self._lanes.submit(self._embed_waiting)  # for the rest, whatever becomes of these
            if here := [ticket for ticket in taken if not ticket.gone()]:
                self._settle(here)
        finally:
            _leave_nobody_waiting(taken)

    def _take(self) -> list[_Ticket[ReadFilms]]:
        """Return the studies to embed next: whole chunks, or all that wait where no more are coming."""
        with self._lock:
            count = min(len(self._waiting), self._batch)
            if self._coming:
                count -= count % CHUNK
            taken = [self._waiting.popleft() for _ in range(count)]
        self._metrics.queue.dec(count)
        for ticket in taken:
            self._metrics.took("wait", perf_counter() - ticket.since)
        return taken

    def _settle(self, tickets: Sequence[_Ticket[ReadFilms]]) -> None:
        """Give each ticket its vector or, of what cannot be embedded even alone, its error."""
        self._metrics.batch.observe(len(tickets))
        try:
            with self._metrics.stage("encode"):
                vectors = self._embedder.embed([ticket.films for ticket in tickets])
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            if len(tickets) > 1:
                for ticket in tickets:
                    self._settle([ticket])
            else:
                tickets[0].vector.set_exception(error)
            return
        for ticket, vector in zip(tickets, vectors, strict=True):
            ticket.vector.set_result(vector)


def _leave_nobody_waiting(tickets: Sequence[_Ticket[ReadFilms]]) -> None:
    """Answer those whose client has gone, or whom an error that nobody foresaw has left without vector or error."""
    for ticket in tickets:
        if ticket.vector.done():
            continue
        if ticket.gone():
            ticket.vector.set_exception(ClientGone())
        else:
            log.error("a batch of %d studies failed", len(tickets), exc_info=True)
            ticket.vector.set_exception(NotReady("the encoder failed on these films; see the service's log"))


def _require_client(gone: Gone) -> None:
    if gone():
        raise ClientGone
