"""What lies in the folders now, put in the place of what is served, without a request that fails or sees both."""

import logging
import threading
from collections.abc import Callable

from encoder.errors import EncoderError
from index.errors import BackendUnavailable, CollectionError, FingerprintMismatch
from service.errors import AuditError, Busy, NotReady, refusal_of
from service.served.mounted import Mounted, Served

log = logging.getLogger("precedent.service")


class Activation:
    """Swaps what is served. Safe under threads: one activation at a time, the next is turned away.

    One in the background is not: it waits, so that what lies in the folders when it is asked for is served in the end.
    """

    def __init__(
        self,
        served: Served,
        load: Callable[[str | None, Mounted], Mounted],
        audited: Callable[[str, Callable[[], int]], None] | None = None,
    ) -> None:
        """Swap in `served` what `load` makes of a collection's name, or of None for all, and of what is served now.

        Args:
            audited: writes down what a signal of this name asks for, before and after it is done.
        """
        self._served, self._load, self._audited, self._lock = served, load, audited, threading.Lock()
        self._waiting = False

    def activate(self, name: str | None = None) -> Mounted:
        """Open a collection, or all, anew and serve them; requests that have begun keep what they looked up.

        Raises:
            CollectionNotFound: no such collection. FingerprintMismatch: it is of another encoder.
            BackendUnavailable: its server does not answer, or is loading it. NotReady: it cannot be opened.
            Busy: another activation is at work. After each, all is served as before.
        """
        if not self._lock.acquire(blocking=False):
            raise Busy("another activation is running; try again when it has finished")
        try:
            return self._swap(name)
        finally:
            self._lock.release()

    def _swap(self, name: str | None) -> Mounted:
        try:
            served = self._served.now
            served.collection(name)
            fresh = self._load(name, served)
            self._served.now = fresh
        except (FingerprintMismatch, BackendUnavailable):
            raise
        except (CollectionError, EncoderError, OSError) as error:
            raise NotReady(
                "the index in the folder cannot be served, so the old one still is; see the log for the reason"
            ) from error
        log.info("activated %s", name or "every collection")
        return fresh

    def in_background(self) -> None:
        """Activate every collection in a thread of its own, after one that is at work; a refusal goes to the log.

        One that waits already has not looked into the folders yet, and will do for this as well.
        """
        if self._waiting:
            return
        self._waiting = True
        threading.Thread(target=self._try_all, name="activation", daemon=True).start()

    def _try_all(self) -> None:
        with self._lock:
            self._waiting = False
            try:
                self._status() if self._audited is None else self._audited("SIGHUP", self._status)
            except AuditError as refusal:
                log.error("nothing was activated, or it could not be told: %s", refusal, exc_info=refusal)

    def _status(self) -> int:
        """Return what a request to swap all would be answered with, once it is done."""
        try:
            self._swap(None)
        except Exception as refusal:  # of whatever class: nobody else hears of it, and its result is to be reported
            log.error("nothing was activated: %s", refusal, exc_info=refusal)
            return refusal_of(refusal)[0]
        return 200
