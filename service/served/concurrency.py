"""How many callers may be at one kind of work, and how many more may wait; the rest is refused at once."""

import threading
from types import TracebackType

from service.errors import Busy


class ConcurrencyLimit:
    """Lets some callers in, has some more wait and turns the others away. A context manager, safe under threads."""

    def __init__(self, work: str, at_once: int, waiting: int = 0) -> None:
        """Let `at_once` callers in and `waiting` more wait; `work` names what they do, in the plural."""
        self._work, self._all = work, at_once + waiting
        self._places = threading.BoundedSemaphore(self._all)
        self._inside = threading.BoundedSemaphore(at_once)

    def __enter__(self) -> None:
        """Wait for a turn. Raises Busy where too many wait already."""
        if not self._places.acquire(blocking=False):
            raise Busy(f"expected at most {self._all} {self._work} at a time, got more; try again in a second")
        self._inside.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, whatever happened inside."""
        self._inside.release()
        self._places.release()
