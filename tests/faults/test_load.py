"""A real `precedent serve` under 32 clients that never pause: bounded, no fault, memory and file handles flat."""

import http.client
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from served_world import save_world, serving

from encoder.embedder import Embedder
from scripts.benches.clients import Asked, Server, film_request, vector_request

CLIENTS = 32
SHORT, LONG = 20.0, 600.0
"""Seconds."""
WARM_UP = 0.3
"""Of the time, until caches and pools are as large as they get."""
MOST_GROWTH = 1.0
"""Megabytes a minute, in the long form."""


@dataclass
class Watched:
    """What became of the requests, and what the server held meanwhile."""

    statuses: Counter[int] = field(default_factory=Counter)
    untold: int = 0
    """Refusals with 429 that do not say when to ask again."""
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds since the start, bytes, file handles."""

    def growth(self) -> float:
        """Return how fast memory grows after the warm-up, in megabytes a minute."""
        seconds, held, _ = np.array(self.warm(), dtype=np.float64).T
        return float(np.polyfit(seconds, held, 1)[0]) * 60 / 1e6

    def warm(self) -> list[tuple[float, int, int]]:
        """Return the samples after the warm-up."""
        return self.samples[int(WARM_UP * len(self.samples)) :]

    def sentence(self) -> str:
        """Return the figures in words."""
        first, last = self.warm()[0], self.warm()[-1]
        counts = ", ".join(f"{count:,} x {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{CLIENTS} clients, {last[0]:.0f} s: {counts}; memory {first[1] / 1e6:.0f} to {last[1] / 1e6:.0f} MB, "
            f"{self.growth():+.2f} MB a minute; file handles {first[2]} to {last[2]}"
        )


def asked_of(root: Path) -> list[Asked]:
    """Return films to search by, whole and torn, and vectors."""
    films = [film_request((root / f"{number}.png").read_bytes(), 5) for number in range(8)]
    torn = film_request((root / "0.png").read_bytes()[:900], 5)
    return [*films, torn, vector_request([1.0] + [0.0] * 255, 20)]


def watched(server: Server, asked: Sequence[Asked], seconds: float) -> Watched:
    """Let the clients ask for so long, and look at the server once in a while."""
    found, ending, begun = Watched(), threading.Event(), time.monotonic()
    lock = threading.Lock()
    clients = [
        threading.Thread(target=_ask, args=(server, asked[number % len(asked) :], found, lock, ending))
        for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    handles = Path(f"/proc/{server.process.pid}/fd")
    while (past := time.monotonic() - begun) < seconds:
        found.samples.append((past, server.memory_bytes(), len(os.listdir(handles))))
        time.sleep(min(1.0, seconds / 20))
    ending.set()
    for client in clients:
        client.join()
    return found


def _ask(server: Server, asked: Sequence[Asked], found: Watched, lock: threading.Lock, ending: threading.Event) -> None:
    """Ask over one connection, again as soon as there is an answer, also where it is a refusal."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=120)
    while not ending.is_set():
        for one in asked:
            connection.request("POST", "/v1/search", one.body, {"Content-Type": one.content_type})
            response = connection.getresponse()
            response.read()
            with lock:
                found.statuses[response.status] += 1
                found.untold += response.status == 429 and not response.headers.get("Retry-After", "").isdigit()
    connection.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="memory and handles are read from Linux")
@pytest.mark.parametrize(
    "seconds", [pytest.param(SHORT, marks=pytest.mark.slow), pytest.param(LONG, marks=pytest.mark.long)]
)
def test_under_load_all_is_answered_or_told_when_to_come_again(
    seconds: float, tmp_path: Path, tiny_embedder: Embedder
) -> None:
    root = save_world(tmp_path, tiny_embedder)
    with serving(root, "--threads", "32") as server:
        found = watched(server, asked_of(root), seconds)

    print(found.sentence())
    assert set(found.statuses) <= {200, 422, 429}
    assert min(found.statuses[200], found.statuses[422], found.statuses[429]) > 0
    assert found.untold == 0
    assert found.samples[-1][2] <= max(handles for _, _, handles in found.samples[: len(found.samples) // 2]) + 4
    if seconds == LONG:
        assert found.growth() < MOST_GROWTH
