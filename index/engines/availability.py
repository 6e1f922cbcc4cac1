"""Whether a server answers: who may ask it at a time, and who is refused at once after it did not answer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from index.errors import BackendUnavailable, CollectionError

AT_ONCE = 32
"""Calls to a server at a time: one that stalls keeps no more threads than these until their time has passed."""
_TURN_SECONDS = 1.0
RETRY_SECONDS = 5.0
"""After a call that got no answer: others are refused at once, then one tries."""


class Silence(BackendUnavailable):
    """A server that did not answer in time, or cannot be connected to."""


class Availability:
    """What is known of a server from its last answers. Safe under threads."""

    def __init__(self, busy: Callable[[str], BackendUnavailable], *, forgives: bool = False) -> None:
        """Take what makes an error of why there was no turn.

        Args:
            forgives: never refuse a call because of one before it, as where a file takes the place of a server.
        """
        self._busy, self._forgives = busy, forgives
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._hope = threading.Lock()
        self._loss: BackendUnavailable | None = None
        self._lost_at, self._answered_at, self._tries = 0.0, 0.0, False

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Hold a turn while the server is asked; whatever it says but `Silence` is an answer.

        Raises:
            BackendUnavailable: it does not answer, or did not within the last RETRY_SECONDS, or too many wait for it.
        """
        tries, began = self._require_hope(), monotonic()
        try:
            if not self._turns.acquire(timeout=_TURN_SECONDS):
                raise self._busy(f"{AT_ONCE} calls wait for its answers")
            try:
                yield
            except Silence:
                raise
            except CollectionError:
                self._answered()
                raise
            else:
                self._answered()
            finally:
                self._turns.release()
        except Silence as loss:
            self._lose(loss, began)
            raise BackendUnavailable(str(loss)) from loss.__cause__
        finally:
            if tries:
                self._tries = False

    def _answered(self) -> None:
        self._loss, self._answered_at = None, monotonic()

    def _require_hope(self) -> bool:
        """Raise the last loss where it is recent or another call tries; return whether this call is the one to try."""
        with self._hope:
            if self._loss is None:
                return False
            if self._tries or monotonic() - self._lost_at < RETRY_SECONDS:
                raise BackendUnavailable(str(self._loss))
            self._tries = True
            return True

    def _lose(self, loss: BackendUnavailable, began: float) -> None:
        """Take the server for lost, unless it answered somebody meanwhile: then one call alone was too slow for it."""
        with self._hope:
            if not self._forgives and self._answered_at < began:
                self._loss, self._lost_at = loss, monotonic()
