"""A real `precedent serve` in a process of its own, and clients that ask it as fast as it answers."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, sleep
from typing import NamedTuple
from urllib.parse import urlsplit

import click

_BOUNDARY = "5f3b0e6c9d"
_BUSY = 429


class Asked(NamedTuple):
    """One request, as it goes over the wire."""

    body: bytes
    content_type: str


@dataclass(frozen=True)
class Load:
    """What became of many queries."""

    latencies: list[float]
    """Seconds, of the queries that were answered."""
    seconds: float
    """From the first query to the last answer."""
    answered: int
    busy: int = 0
    """Refusals with 429; each was asked again."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: "subprocess.Popen[str]"
    url: str
    ready_seconds: float
    """From the start of the process until it listened."""

    def memory_bytes(self, field: str = "VmRSS") -> int:
        """Return a field of the process's memory, resident if none is named; Linux only."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))


@contextmanager
def running(words: Sequence[str]) -> Iterator[Server]:
    """Start `precedent serve` with these words, wait until it listens, and end it afterwards.

    Raises:
        ClickException: it ended instead of listening.
    """
    started = perf_counter()
    command = [sys.executable, "-u", "-m", "scripts.cli", "serve", "--log-format", "text", *words]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if "http://" not in line:
                raise click.ClickException(f"expected the server to listen, got {line.strip() or 'its end'!r}")
            yield Server(process, line.split()[-1], perf_counter() - started)
        finally:
            process.terminate()


def vector_request(embedding: Sequence[float], k: int) -> Asked:
    """Return a search by a vector."""
    return Asked(json.dumps({"embedding": list(embedding), "k": k}).encode(), "application/json")


def film_request(film: bytes, k: int) -> Asked:
    """Return a search by an uploaded film."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="k"\r\n\r\n{k}\r\n--{_BOUNDARY}\r\n'
    head += 'Content-Disposition: form-data; name="frontal"; filename="film"\r\n\r\n'
    body = head.encode() + film + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return Asked(body, f"multipart/form-data; boundary={_BOUNDARY}")


def served(url: str, asked: Sequence[Asked], clients: int, count: int) -> Load:
    """Return what became of `count` searches by so many clients, each of which asks again once it is answered."""
    shares = [list(islice(cycle(asked), start, count, clients)) for start in range(min(clients, count))]
    begun = perf_counter()
    with ThreadPoolExecutor(len(shares)) as pool:
        done = list(pool.map(lambda share: _ask_all(url, share), shares))
    seconds = perf_counter() - begun
    latencies = [latency for answered, _ in done for latency in answered]
    return Load(latencies, seconds, len(latencies), sum(busy for _, busy in done))


def _ask_all(url: str, asked: Sequence[Asked]) -> tuple[list[float], int]:
    """Return the seconds of each answer over one connection, and how often the server was busy."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    latencies, busy = [], 0
    try:
        for body in asked:
            start = perf_counter()
            while (pause := _ask(connection, body)) is not None:
                busy += 1
                sleep(pause)
            latencies.append(perf_counter() - start)
    finally:
        connection.close()
    return latencies, busy


def _ask(connection: http.client.HTTPConnection, asked: Asked) -> float | None:
    """Return None once answered, or how long to wait. Raises ClickException on any other refusal."""
    connection.request("POST", "/v1/search", asked.body, {"Content-Type": asked.content_type})
    response = connection.getresponse()
    text = response.read()
    if response.status == _BUSY:
        return float(response.headers["Retry-After"])
    if response.status != 200:
        raise click.ClickException(f"expected an answer, got {response.status}: {text[:200].decode()}")
    return None
