"""Where films are decoded, whatever is asked of them: few at a time, and no more bytes than there is room for."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from encoder.films.body_part import as_parts
from encoder.films.image import ADMISSION
from service.context import running
from service.limits import DEFAULT_LIMITS, Limits
from service.served.concurrency import ConcurrencyLimit


class Decoding:
    """Places for those who decode films, and room in bytes for what they decode. Safe under threads."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, ignored_parts: Iterable[str] = ()) -> None:
        """Let one decode more than there are cores, `limits.decoding_bytes` together, and few of them for pictures.

        Args:
            ignored_parts: what a DICOM header may state of the body part as if it stated none.
        """
        self.ignored_parts = as_parts(ignored_parts)
        self._places = threading.BoundedSemaphore((os.cpu_count() or 1) + 1)
        self._pictures = ConcurrencyLimit("pictures of films", limits.pictures)
        self._room = self._left = limits.decoding_bytes
        self._first, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def slot(self, size: int = 0) -> Iterator[None]:
        """Wait for a place, and for room for `size` bytes; give both back in the end.

        Each film that is read meanwhile, in this thread, waits for room of its own, and gives back that
        of the one before it: films are shrunk one after the other.
        """
        held = 0

        def admit(wanted: int) -> None:
            nonlocal held
            self._give(held)
            held = 0  # whatever the wait comes to
            held = self._take(wanted)

        with self._places:
            before = ADMISSION.set(admit)
            try:
                admit(size)
                yield
            finally:
                ADMISSION.reset(before)
                self._give(held)

    @contextmanager
    def picture(self, size: int = 0) -> Iterator[None]:
        """Wait for a place to make a picture in. Raises Busy where so many do that searches would wait for a thread."""
        with self._pictures, self.slot(size):
            yield

    def _take(self, wanted: int) -> int:
        """Return what was taken: all of the room for what is larger, which is then alone."""
        size = min(wanted, self._room)
        with self._first, self._changed:  # in turn: many small films would keep a large one waiting
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        return size

    def _give(self, size: int) -> None:
        with self._changed:
            self._left += size
            self._changed.notify_all()


def decoding() -> Decoding:
    """Return that of the running application."""
    decoding_: Decoding = running.decoding
    return decoding_
