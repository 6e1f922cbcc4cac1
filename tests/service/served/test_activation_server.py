"""A real server that is told of another index: by SIGHUP under load, and while it loads."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
from activation_world import DIM, save_folders, turn, until
from folders import ROOT
from service_world import film

from encoder.embedder import Embedder
from index.living.verification import verify
from scripts.benches.clients import Asked, film_request, vector_request

RUN = """
import sys
from pathlib import Path
from scripts.verbs.running.serve import bind, serve
from service.loader import load
from service.served.mounts import parse_mounts
folder = Path(sys.argv[1])
serve(load(parse_mounts([f"main={folder / 'main'}"]), folder / "encoder.safetensors"), bind("127.0.0.1", 0))
"""


@pytest.fixture
def folders(tmp_path: Path, tiny_embedder: Embedder, studies: pa.Table, rng: np.random.Generator) -> Path:
    return save_folders(tmp_path, tiny_embedder, studies, rng)


@contextmanager
def running(folders: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Yield a server over the folder that the link leads to, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", RUN, str(folders)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()


@pytest.fixture
def server(folders: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    with running(folders) as found:
        yield found


def served(url: str) -> int:
    """Return how many studies a server says it serves."""
    with urllib.request.urlopen(f"{url}/info", timeout=30) as answer:
        return int(json.load(answer)["collections"][0]["studies"])


@pytest.mark.slow
def test_sighup_has_a_running_server_take_up_what_lies_in_its_folders_and_fails_no_request(
    server: tuple[subprocess.Popen[str], str], folders: Path
) -> None:
    process, url = server
    ending, statuses = threading.Event(), Counter[int]()
    asked = [film_request(film(0), 3), vector_request([1.0] + [0.0] * (DIM - 1), 3)]

    def ask(one: Asked) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        while not ending.is_set():
            connection.request("POST", "/v1/search", one.body, {"Content-Type": one.content_type})
            with connection.getresponse() as answer:
                answer.read()
                statuses[answer.status] += 1
        connection.close()

    assert served(url) == 40
    clients = [threading.Thread(target=ask, args=(asked[number % 2],)) for number in range(4)]
    for client in clients:
        client.start()
    for target, count in [("second", 60), ("first", 40)] * 2:
        turn(folders / "main", target)
        process.send_signal(signal.SIGHUP)
        until(lambda: served(url) == count)  # noqa: B023
    ending.set()
    for client in clients:
        client.join()
    assert set(statuses) == {200}
    assert statuses[200] > 8
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.parametrize("swaps", [pytest.param(1, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.long)])
def test_a_server_that_is_killed_while_it_swaps_serves_what_lies_there_once_it_is_back(
    swaps: int, folders: Path, rng: np.random.Generator
) -> None:
    expected = 40
    for target, count in islice(cycle([("second", 60), ("first", 40)]), swaps):
        with running(folders) as (process, url):
            assert served(url) == expected
            turn(folders / "main", target)
            process.send_signal(signal.SIGHUP)
            time.sleep(float(rng.uniform(0, 0.1)))
            process.kill()
        expected = count
        assert verify(folders / target).faults == []
    with running(folders) as (_, url):
        assert served(url) == expected


@pytest.mark.slow
def test_a_supervisor_is_told_once_the_server_listens_and_a_sighup_before_does_not_end_it(folders: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, ExitStack() as closing:
        supervisor.bind(str(folders / "notify"))
        supervisor.settimeout(60)
        words = ["serve", f"main={folders / 'main'}", "--encoder", str(folders / "encoder.safetensors"), "--port", "0"]
        process = closing.enter_context(
            subprocess.Popen(
                [sys.executable, "-u", "-m", "scripts.cli", *words],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=os.environ | {"NOTIFY_SOCKET": str(folders / "notify")},
            )
        )
        closing.callback(process.kill)

        assert supervisor.recv(100) == b"EXTEND_TIMEOUT_USEC=900000000"  # it is past its imports, and loads
        process.send_signal(signal.SIGHUP)
        assert supervisor.recv(100) == b"READY=1"
        assert process.stdout is not None
        assert "40 studies of main on http://" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert supervisor.recv(100) == b"STOPPING=1"
        assert process.wait(60) == 0
