"""What a reader waits for on a line of 1.5 Mbit/s: from the films to the first hit, and from a filter to its hits."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
from page_world import QUERY, Reader, Relay

BYTES_A_SECOND, LATENCY_MS = 1_500_000 / 8, 40
SIDE = 1_500
READY = "document.readyState === 'complete' && document.documentElement.className === 'scripted'"
NARROW = """
    const filters = document.getElementById("filters");
    filters.elements.k.value = "24";
    filters.dispatchEvent(new Event("change"));
"""


def large_film(film: Path, into: Path) -> Path:
    """Write a film of 16 bits at a detector's size and with its noise: some megabytes."""
    small = cv2.imread(str(film), cv2.IMREAD_GRAYSCALE)
    whole = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float32) * 250
    noise = np.random.default_rng(7).normal(600, 300, whole.shape)
    cv2.imwrite(str(into), np.clip(whole + noise, 0, 65535).astype(np.uint16))
    return into


@contextmanager
def slow_line(reader: Reader) -> Iterator[Relay]:
    """Yield what stands between the browser and its server, on a slow line."""
    line = {"offline": False, "latency": LATENCY_MS}
    with Relay(reader.address) as relay:
        Thread(target=relay.serve_forever, daemon=True).start()
        reader.chrome.execute_cdp_cmd("Network.enable", {})
        slow = {"downloadThroughput": BYTES_A_SECOND, "uploadThroughput": BYTES_A_SECOND}
        reader.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", line | slow)
        try:
            yield relay
        finally:
            quick = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
            reader.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", line | quick)
            relay.shutdown()


def measured(relay: Relay, what: str, act: Callable[[], object], until: Callable[[], object]) -> tuple[float, int, int]:
    """Print and return the seconds from an act until a reader sees its result, and the bytes sent and received."""
    before, started = (relay.asked, relay.answered), time.perf_counter()
    act()
    until()
    took = time.perf_counter() - started
    figures = took, relay.asked - before[0], relay.answered - before[1]
    print(f"{what}: {1000 * took:,.0f} ms, {figures[1]:,} bytes sent, {figures[2]:,} bytes received")
    return figures


@pytest.mark.long
def test_a_filter_costs_no_upload_on_a_slow_line(visitor: Reader, tmp_path: Path) -> None:
    films = {
        "frontal": large_film(visitor.films / QUERY / "view1_frontal.jpg", tmp_path / "frontal.png"),
        "lateral": large_film(visitor.films / QUERY / "view2_lateral.jpg", tmp_path / "lateral.png"),
    }
    print(f"films: {sum(film.stat().st_size for film in films.values()):,} bytes")
    with slow_line(visitor) as relay:
        measured(relay, "the empty page", lambda: visitor.chrome.get(relay.address + "/"), lambda: visitor.wait(READY))
        measured(relay, "again", lambda: visitor.chrome.get(relay.address + "/"), lambda: visitor.wait(READY))
        for view, film in films.items():
            visitor.choose(view, film)
        measured(relay, "films to first hit", lambda: visitor.click("#films > button"), lambda: visitor.find(".hit"))
        visitor.find(".predictions [data-finding]")
        visitor.wait("[...document.images].every((film) => film.complete)")
        time.sleep(2)
        more = "document.querySelectorAll('.hit').length > 12"
        _, sent, _ = measured(relay, "a filter to its hits", lambda: visitor.ask(NARROW), lambda: visitor.wait(more))

        assert sent < 100_000
    visitor.complaints()
