"""Clients that dawdle, in their hundreds, against the real server: each is given up, and nobody else waits for it."""

import gc
import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from raw_requests import SEARCH, Served, answers, message, serving, status

from scripts.verbs.running.serve import bind
from scripts.work import http_server as listening
from service.guard.tokens import create_token

WAIT = 30
SHORT = {"HEAD_SECONDS": 1, "IDLE_SECONDS": 2, "GRACE_SECONDS": 1, "CONNECTIONS": 64}
LONG = SHORT | {"HEAD_SECONDS": 3600, "IDLE_SECONDS": 3600, "GRACE_SECONDS": 3600}
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(**SHORT) as served:
        yield served


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """Yield a service that asks for tokens, and the header of one."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    secret = create_token(path, "reader", ["read"])
    with serving(str(path), **LONG) as served:
        yield served, f"Authorization: Bearer {secret}"


def is_closed(client: socket.socket) -> bool:
    """Return whether the server has closed a connection, once what it sent is read."""
    with suppress(ConnectionError):
        client.settimeout(0.01)
        try:
            while client.recv(1 << 16):
                pass
        except TimeoutError:
            return False
    return True


def trickle(client: socket.socket, piece: bytes) -> None:
    """Send a piece, where the connection is still open."""
    with suppress(ConnectionError):
        client.settimeout(WAIT)
        client.sendall(piece)


HELD = {
    "no byte": (b"", b""),
    "a header line now and then": (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n"),
    "empty lines": (b"", b"\r\n\r\n"),
    "a request, and then none": (HEALTH, b""),
    "a request, and then headers": (HEALTH + b"GET / HTTP/1.1\r\n", b"X-A: b\r\n"),
    "a body, byte by byte": (message(b"", length=5_000), b"x"),
    "chunks without end": (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
    ),
    "a body that never comes": (message(b"", "Expect: 100-continue", length=5_000), b""),
}


@pytest.mark.slow
def test_a_connection_that_gets_nowhere_is_closed_and_one_that_asks_again_and_again_is_not(served: Served) -> None:
    with ExitStack() as closing:
        clients = {held: closing.enter_context(socket.create_connection(served.address, timeout=WAIT)) for held in HELD}
        asking = closing.enter_context(socket.create_connection(served.address, timeout=WAIT))
        for held, client in clients.items():
            client.sendall(HELD[held][0])
        left = dict(clients)
        until = time.monotonic() + WAIT
        while left and time.monotonic() < until:
            left = {held: client for held, client in left.items() if not is_closed(client)}
            for held, client in left.items():
                trickle(client, HELD[held][1])
            asking.sendall(HEALTH)
            time.sleep(0.25)

        assert not left
        assert not is_closed(asking)
    answers(served)


LONG_ANSWER = b"GET /docs/static/js/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_an_answer_that_nobody_reads_is_dropped() -> None:
    with serving(**LONG | {"GRACE_SECONDS": 1, "LEAST_RATE": 1 << 24}) as served, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(served.address)
        deaf.sendall(LONG_ANSWER * 16)
        until(lambda: not is_open(served, deaf.getsockname()[1]))


def is_open(served: Served, port: int) -> bool:
    """Return whether the server's end of a client's connection is open, by the kernel's table."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    ends = {tuple(int(end.partition(":")[2], 16) for end in line.split()[1:3]): line.split()[3] for line in lines}
    return ends.get((served.address[1], port)) == "01"


@pytest.mark.slow
def test_however_many_hold_connections_whoever_comes_is_answered() -> None:
    last = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with serving(**LONG) as served, ExitStack() as closing:
        for first in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n", message(b"", length=5_000), HEALTH):
            for _ in range(150):
                held = closing.enter_context(socket.create_connection(served.address, timeout=WAIT))
                held.sendall(first)
            assert status(served.say(last)) == 200
            answers(served)


def test_a_body_that_a_known_sender_is_sending_outlives_a_flood_of_strangers(locked: tuple[Served, str]) -> None:
    served, token = locked
    body = SEARCH + b" " * 5_000
    with ExitStack() as closing:
        honest = closing.enter_context(socket.create_connection(served.address, timeout=WAIT))
        honest.sendall(message(body, token)[:-10])
        for _ in range(150):
            closing.enter_context(socket.create_connection(served.address, timeout=WAIT))
        honest.sendall(body[-10:])
        assert status(honest.recv(1 << 16)) == 200


EXPECT = "Expect: 100-continue"


@pytest.mark.parametrize(
    "length", ["Content-Length: 300000000", "Content-Length: 100000", "Content-Length: 10" + 30 * "0"]
)
@pytest.mark.parametrize("path", ["/v1/search", "/login", "/nowhere", "/healthz"])
def test_no_stranger_is_asked_to_go_on(locked: tuple[Served, str], path: str, length: str) -> None:
    asked = "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", EXPECT, length, "", ""])
    answer = locked[0].say(asked.encode())

    assert status(answer) in (400, 401, 405, 413)
    assert b"100 Continue" not in answer


def test_a_known_sender_is_asked_to_go_on_within_the_limit_and_answered_at_once_beyond(
    locked: tuple[Served, str],
) -> None:
    served, token = locked
    with socket.create_connection(served.address, timeout=WAIT) as client:
        client.sendall(message(b"", token, EXPECT, length=len(SEARCH)))
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(SEARCH)
        assert status(client.recv(1 << 16)) == 200
    beyond = served.say(message(b"", token, EXPECT, length=300_000_000))
    assert (status(beyond), b"100 Continue" in beyond) == (413, False)
    assert json.loads(beyond.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_entity_too_large"


def test_a_request_that_expects_and_has_no_body_is_answered(served: Served) -> None:
    asked = HEALTH.replace(b"\r\n\r\n", f"\r\n{EXPECT}\r\nConnection: close\r\n\r\n".encode())

    assert served.say(asked).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kind", ["Content-Length: 80000000", "Transfer-Encoding: chunked"])
def test_a_body_beyond_the_limit_is_refused_in_words_though_its_sender_goes_on(served: Served, kind: str) -> None:
    with socket.create_connection(served.address, timeout=WAIT) as client:
        head = ["POST /v1/search HTTP/1.1", "Host: localhost", "Content-Type: application/json", kind, "", ""]
        client.sendall("\r\n".join(head).encode())
        piece = bytes(1_000_000)
        chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if "chunked" in kind else piece
        for _ in range(75):
            client.sendall(chunk)
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))

    assert status(answer) == 413
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_entity_too_large"


def test_bodies_that_one_token_has_on_their_way_are_bounded_and_another_s_come_in(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    one, other = (f"Authorization: Bearer {create_token(path, name, ['read'])}" for name in ("one", "other"))
    with serving(str(path), **SHORT, BODIES_BYTES=20_000_000) as served, ExitStack() as closing:
        for _ in range(2):
            client = closing.enter_context(socket.create_connection(served.address, timeout=WAIT))
            client.sendall(message(b"", one, EXPECT, length=4_500_000))
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 100")
        third = served.say(message(b"", one, EXPECT, length=4_500_000))
        small = served.say(message(SEARCH, one))
        of_other = closing.enter_context(socket.create_connection(served.address, timeout=WAIT))
        of_other.sendall(message(b"", other, EXPECT, length=4_500_000))

        assert (status(third), b"Retry-After: 1" in third, status(small)) == (429, True, 200)
        assert of_other.recv(1 << 16).startswith(b"HTTP/1.1 100")


def test_requests_that_come_at_once_are_answered_one_after_another_and_a_head_alone_where_one_is_asked_for(
    served: Served,
) -> None:
    head = HEALTH.replace(b"GET", b"HEAD")
    far = HEALTH.replace(b"/healthz", b"http://localhost/healthz?a=1")
    last = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = served.say(head + far + message(SEARCH).replace(b"Connection: close\r\n", b"") + last + HEALTH)

    told = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    bodies = [one.partition(b"\r\n\r\n")[2] for one in told]
    assert (bodies[0], bodies[1], bodies[3], len(bodies)) == (b"", b'{"status":"ok"}\n', bodies[1], 4)
    assert b"Content-Length: 16" in told[0]
    assert json.loads(bodies[2])["hits"]


SMUGGLED = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
)
"""Two requests to who counts chunks, one to who counts bytes."""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 70_000, 431),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (SMUGGLED, 400),
    ],
)
def test_what_is_no_request_is_refused_in_the_one_body(served: Served, said: bytes, expected: int) -> None:
    head, _, body = served.say(said).partition(b"\r\n\r\n")

    assert status(head) == expected
    assert set(json.loads(body)["error"]) == {"code", "message", "request_id"}
    assert b"\r\nConnection: close" in head


def test_a_header_with_an_underscore_does_not_pass_for_another(locked: tuple[Served, str]) -> None:
    served, token = locked
    answer = served.say(message(SEARCH, token.replace("Authorization", "X_Forwarded_For: a\r\nAuthorization")))
    forged = served.say(message(SEARCH, "X-A: a", "Content_Length: 7", token))

    assert (status(answer), status(forged)) == (200, 200)


def test_a_long_body_lies_in_a_file_without_a_name_until_it_is_answered() -> None:
    with serving(**LONG, SPOOLED_BYTES=1_000) as served, ExitStack() as closing:
        files = Path(f"/proc/{served.process.pid}/fd")
        before = unnamed(files)
        body = SEARCH + b" " * 5_000
        client = closing.enter_context(socket.create_connection(served.address, timeout=WAIT))
        client.sendall(message(body)[:-10])
        until(lambda: unnamed(files) == before + 1)
        client.sendall(body[-10:])
        assert status(client.recv(1 << 16)) == 200
        until(lambda: unnamed(files) == before)


def unnamed(files: Path) -> int:
    """Return how many files without a name a process has open."""
    ends = [os.readlink(one) for one in files.iterdir() if one.is_symlink()]
    return sum("(deleted)" in end for end in ends)


def until(true: Callable[[], bool]) -> None:
    """Wait until it is true."""
    ending = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < ending
        time.sleep(0.02)


def test_answers_that_nobody_reads_are_dropped_at_once_where_they_are_too_many_bytes() -> None:
    with serving(**LONG, ANSWERS_BYTES=1_000) as served, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(served.address)
        deaf.sendall(LONG_ANSWER * 16)
        until(lambda: not is_open(served, deaf.getsockname()[1]))
        answers(served)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_socket_that_cannot_be_bound_is_closed(port: int) -> None:
    with pytest.raises(OverflowError):
        bind("127.0.0.1", port)  # an unclosed socket is a warning, which is an error here
    gc.collect()


def test_as_many_files_may_be_opened_as_connections_need() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert listening._open_files(2_000) == 2_000
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (2_000, before[1])
        assert listening._open_files(before[1] + 1) == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
