"""The application under gunicorn, as `service/deploy/README.md` runs it: real processes, behind a prefix, of one folder."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from folders import ROOT
from served_world import save_world
from service_world import film

from encoder.embedder import Embedder
from service.guard.access import COOKIE
from service.guard.tokens import SCOPES, create_token

pytest.importorskip("gunicorn")
pytestmark = pytest.mark.slow
PREFIX = "/precedent"
GTHREAD = ["--worker-class", "gthread", "--threads", "8", "--bind", "127.0.0.1:0"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_embedder: Embedder) -> Path:
    """Return a folder with films, index, probe, encoder and tokens."""
    return save_world(tmp_path_factory.mktemp("gunicorn"), tiny_embedder)


@pytest.fixture(scope="module")
def secret(world: Path) -> str:
    return create_token(world / "tokens.json", "all", list(SCOPES))


def environment(world: Path, **further: str) -> dict[str, str]:
    named = {"INDEX": "index", "ENCODER": "encoder.safetensors", "PROBE": "probe", "TOKENS": "tokens.json"}
    words = {f"PRECEDENT_{name}": str(world / value) for name, value in named.items()}
    return os.environ | words | {"PRECEDENT_IMAGES": str(world), "PRECEDENT_PREFIX": PREFIX} | further


@contextmanager
def gunicorn(world: Path, *words: str, **further: str) -> Iterator["subprocess.Popen[str]"]:
    """Yield gunicorn's first process, whose log is its stderr."""
    command = [sys.executable, "-m", "gunicorn", "service.loader:from_env()", *GTHREAD, *words]
    given = {"stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment(world, **further)}
    with subprocess.Popen(command, **given) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def workers(world: Path, secret: str) -> Iterator[tuple[int, list[int]]]:
    """Yield the port of two workers of eight threads, and the ids of their processes."""
    with gunicorn(world, "--workers", "2", "--timeout", "300") as process:
        assert process.stderr is not None
        log = iter(process.stderr)
        listening = next(filter(None, (re.search(r"http://127.0.0.1:(\d+)", line) for line in log)))
        booted = filter(None, (re.search(r"Booting worker with pid: (\d+)", line) for line in log))
        yield int(listening[1]), [int(next(booted)[1]) for _ in range(2)]


@pytest.fixture(scope="module")
def port(workers: tuple[int, list[int]]) -> int:
    """Return the port of two workers."""
    return workers[0]


def ask(port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, str, str]:
    """Return status, Location or Set-Cookie, and text, over a connection of its own, to whichever worker takes it."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        told = answer.headers.get("Set-Cookie") or answer.headers.get("Location") or ""
        return answer.status, told, answer.read().decode()
    finally:
        connection.close()


def started(port: int, secret: str) -> str:
    """Return when the process that answers began."""
    text = ask(port, "/metrics", Authorization=f"Bearer {secret}")[2]
    return next(line for line in text.splitlines() if line.startswith("process_start_time_seconds"))


def test_two_workers_share_sessions_films_and_changes(workers: tuple[int, list[int]], secret: str) -> None:
    port, pids = workers
    form = urllib.parse.urlencode({"token": secret, "next": "/docs"}).encode()
    kind = {"Content_Type": "application/x-www-form-urlencoded"}
    status, cookie, _ = ask(port, f"{PREFIX}/login", "POST", form, **kind)
    assert (status, cookie.startswith(f"{COOKIE}="), f"Path={PREFIX}" in cookie) == (303, True, True)
    session = cookie.partition(";")[0]
    edge = "edge-of-parts"
    study = {"study_id": "patient90000/study1", "patient_id": "patient90000"}
    parts = [
        b'name="study"\r\n\r\n' + json.dumps(study).encode(),
        b'name="frontal"; filename="f.png"\r\n\r\n' + film(90),
    ]
    body = b"".join(b"--%b\r\nContent-Disposition: form-data; %b\r\n" % (edge.encode(), part) for part in parts)
    body += f"\r\n--{edge}--\r\n".encode()
    body = body.replace(b"}--edge", b"}\r\n--edge")
    added = ask(
        port,
        f"{PREFIX}/v1/studies",
        "POST",
        body,
        Authorization=f"Bearer {secret}",
        Content_Type=f"multipart/form-data; boundary={edge}",
    )
    assert added[0] == 201, added

    processes = set()
    for other in pids:  # each answers while the other is stopped
        os.kill(other, signal.SIGSTOP)
        try:
            processes.add(started(port, secret))
            page = ask(port, f"{PREFIX}/?study=patient90000/study1", Cookie=session, Accept="text/html")
        finally:
            os.kill(other, signal.SIGCONT)
        assert page[0] == 200
        assert page[2].count('<li class="hit"') == 12
    assert len(processes) == 2


def test_a_prefix_that_a_request_claims_is_not_believed_by_gunicorn_either(port: int) -> None:
    claims = {"SCRIPT_NAME": "//evil.example", "X_Forwarded_Prefix": "//evil.example", "Accept": "text/html"}
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("GET", f"{PREFIX}/?study=a")
    for name, value in claims.items():
        connection.putheader(name if name == "SCRIPT_NAME" else name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()

    assert answer.status in (302, 400, 500)
    assert "evil" not in str(answer.headers.get("Location"))


@pytest.mark.parametrize(
    ("words", "further", "sentence"),
    [
        (["--preload"], {}, "expected each worker to load the application for itself, got --preload"),
        (["--workers", "2"], {"PRECEDENT_AUDIT": "audit.jsonl"}, "another process is writing"),
        ([], {"PRECEDENT_TOKENS": ""}, "come through a proxy"),
    ],
)
def test_what_cannot_be_run_ends_at_start_with_a_sentence(
    world: Path, secret: str, words: list[str], further: dict[str, str], sentence: str
) -> None:
    if "PRECEDENT_AUDIT" in further:
        further = {"PRECEDENT_AUDIT": str(world / "audit.jsonl")}
    with gunicorn(world, *words, **further) as process:
        _, told = process.communicate(timeout=120)

    assert sentence in told
    assert "Traceback" not in told
    assert process.returncode != 0
