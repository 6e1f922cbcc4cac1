"""How many requests each token may make."""

import threading
import time
from collections.abc import Callable


class RateLimit:
    """So many calls a second of each name, and as many at once as have been saved up. Safe under threads."""

    def __init__(self, rate: int, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Let each name call `rate` >= 1 times a second, and `burst` times at once after a rest."""
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, calls: int = 1) -> bool:
        """Return whether `name` may call so often now; calls that may not be made cost it nothing."""
        with self._lock:
            at = self._clock()
            left, then = self._left.get(name, (float(self._burst), at))
            left = min(self._burst, left + (at - then) * self._rate)
            self._left[name] = (left - calls if left >= calls else left, at)
            return left >= calls
