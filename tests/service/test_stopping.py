"""The real server told to stop under load: what had begun is answered whole, what comes meanwhile is refused in words."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from folders import ROOT, WORLDS
from service_world import build_client, film

from scripts.benches.clients import film_request
from service.state import state_of

RUN = """
import sys, time
from scripts.work import http_server as listening
from scripts.verbs.running.serve import bind, serve
from service_world import FakeEmbedder, app_over, build_mounted

class Slow(FakeEmbedder):
    def embed_study(self, frontal, lateral):
        sys.stdout.write("embedding\\n")  # in one piece: several do at once
        time.sleep(PAUSE)
        return super().embed_study(frontal, lateral)

listening.DRAIN_SECONDS = 2
serve(app_over(build_mounted(embedder=Slow())), bind("127.0.0.1", 0))
"""
JSON = {"Content-Type": "application/json"}
STUDY = json.dumps({"study_id": "patient00001/study1"})


class Process:
    """A server whose films take some seconds each to be embedded."""

    def __init__(self, seconds: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", RUN.replace("PAUSE", str(seconds))],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": f"{WORLDS}:{ROOT}"},
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout
        self.address = urlsplit(self.until("serving").split()[-1]).netloc

    def until(self, word: str) -> str:
        """Return the next line of the process that begins with a word."""
        return next(line for line in self.said if line.startswith(word))

    def ask(self, method: str, path: str, body: bytes | str | None = None, kind: str = JSON["Content-Type"]) -> str:
        """Return what became of a request: its status, "refused" where not a byte came back, or "torn"."""
        connection = http.client.HTTPConnection(self.address, timeout=20)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            with connection.getresponse() as answer:
                whole = answer.read()
        except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
            return "refused"
        except (http.client.HTTPException, OSError):
            return "torn"
        finally:
            connection.close()
        if answer.status == 503:
            assert json.loads(whole)["error"]["code"] == "stopping"
            assert (answer.headers["Connection"], answer.headers["Retry-After"]) == ("close", "5")
        return str(answer.status)

    def ask_with_film(self) -> str:
        """Return what became of a film."""
        asked = film_request(film(0), 1)
        return self.ask("POST", "/v1/search", asked.body, asked.content_type)


@pytest.fixture
def start() -> Iterator[Callable[[float], Process]]:
    """Yield what starts a server; whatever is left of them is killed."""
    started: list[Process] = []

    def begin(seconds: float) -> Process:
        started.append(Process(seconds))
        return started[-1]

    yield begin
    for one in started:
        with one.process:
            one.process.kill()


def until_refused(server: Process, path: str) -> list[str]:
    """Ask again and again until nobody answers, and return what became of each."""
    outcomes = [server.ask("GET", path)]
    while outcomes[-1] != "refused":
        outcomes.append(server.ask("GET", path))
    return outcomes


def test_what_has_begun_is_answered_whole_and_what_comes_meanwhile_is_refused_in_words(
    start: Callable[[float], Process],
) -> None:
    server = start(1.5)
    paths = ["/openapi.json", "/v1/studies/patient00001%2Fstudy1/similar", "/"]
    with ThreadPoolExecutor(8) as pool:
        films = [pool.submit(server.ask_with_film) for _ in range(4)]
        for _ in films:
            server.until("embedding")
        asked = [pool.submit(until_refused, server, path) for path in paths]
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        outcomes = Counter(outcome for one in asked for outcome in one.result())

    assert [one.result() for one in films] == ["200"] * 4
    assert set(outcomes) == {"200", "503", "refused"}
    assert server.process.wait(timeout=10) == 0


@pytest.mark.slow
def test_a_server_that_nobody_asks_stops_and_one_that_cannot_finish_ends_with_a_failure(
    start: Callable[[float], Process],
) -> None:
    idle = start(0)
    idle.process.send_signal(signal.SIGINT)
    assert idle.process.wait(timeout=10) == 0

    stuck = start(3600)
    with ThreadPoolExecutor(1) as pool:
        film_asked = pool.submit(stuck.ask_with_film)
        stuck.until("embedding")
        stuck.process.send_signal(signal.SIGTERM)
        assert stuck.process.wait(timeout=10) == 1
        assert film_asked.result() in ("refused", "torn")


def test_a_closing_service_lives_and_begins_nothing() -> None:
    client = build_client()
    state_of(client.application).closing.set()

    assert client.get("/healthz").status_code == 200
    for answer in (client.get("/readyz"), client.get("/"), client.post("/v1/search", data=STUDY, headers=JSON)):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert answer.get_json()["error"]["code"] == "stopping"
