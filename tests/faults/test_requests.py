"""Requests that lie, dawdle or go away, sent to the real server: a refusal in its one body, and a thread for the rest."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from raw_requests import SEARCH, Served, answers, message, serving, status
from service_world import film

from scripts.benches.clients import film_request
from service.guard.tokens import create_token


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.mark.parametrize("header", ["X-Forwarded-For: 10.0.0.7", "Forwarded: for=10.0.0.7", "X-Real-IP: 10.0.0.7"])
def test_without_tokens_a_proxy_on_this_machine_lets_nobody_in(header: str, served: Served) -> None:
    answer = served.say(message(SEARCH, header))

    assert status(answer) == 403
    assert b"start it with --tokens FILE" in answer
    answers(served)


def test_without_tokens_a_proxy_that_adds_no_header_is_known_by_its_older_http(served: Served) -> None:
    assert status(served.say(message(SEARCH).replace(b"HTTP/1.1", b"HTTP/1.0"))) == 403
    assert status(served.say(b"GET /healthz HTTP/1.0\r\n\r\n")) == 200


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 127.0.0.1 127.0.0.1 56324 80\r\n",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\xdc\x04\0\x50",
    ],
)
def test_the_proxy_protocol_is_no_request(line: bytes, served: Served) -> None:
    answer = served.say(line + message(SEARCH))

    assert status(answer) == 400
    assert b"hits" not in answer
    answers(served)


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_a_compressed_body_is_refused_and_not_inflated(kind: str, served: Served) -> None:
    answers(served)
    before, bomb = served.memory(), gzip.compress(bytes(200_000_000), 1)

    answer = served.say(message(bomb, "Content-Encoding: gzip", kind=kind))

    assert status(answer) == 415
    assert b"Content-Encoding 'gzip'" in answer
    assert served.memory() - before < 50_000_000
    answers(served)


@pytest.mark.parametrize("length", [5, 0, len(SEARCH) - 1])
def test_a_length_that_is_too_short_is_refused_and_what_is_left_over_is_no_request(length: int, served: Served) -> None:
    assert status(served.say(message(SEARCH, length=length))) == 400
    answers(served)


@pytest.mark.parametrize("length", ["-1", "many", "0x10", "1e9", "12, 12", ""])
def test_a_length_that_is_no_number_is_refused(length: str, served: Served) -> None:
    assert status(served.say(message(SEARCH, length=length))) == 400
    answers(served)


def test_a_length_beyond_the_limit_is_refused_before_the_body_comes(served: Served) -> None:
    assert status(served.say(message(b"{}", length=10**12))) == 413
    answers(served)


def test_a_body_that_never_ends_is_dropped_when_its_client_leaves(served: Served) -> None:
    with socket.create_connection(served.address, timeout=0.3) as client:
        client.sendall(message(SEARCH, length=5_000))
        with pytest.raises(TimeoutError):
            client.recv(1)
        answers(served)
    answers(served)


def test_slow_clients_hold_no_thread(served: Served) -> None:
    asked = film_request(film(0), 1)
    whole = message(asked.body, kind=asked.content_type)
    with ExitStack() as closing:
        slow = [closing.enter_context(socket.create_connection(served.address, timeout=30)) for _ in range(8)]
        for place in range(60):  # a byte of each in turn: four times as many clients as threads
            for client in slow:
                client.sendall(whole[place : place + 1])
            if place % 20 == 0:
                answers(served)
        for client in slow:
            client.sendall(whole[60:])
        assert [status(client.recv(100)) for client in slow] == 8 * [200]


def test_clients_that_hang_up_hold_no_thread(served: Served) -> None:
    asked = film_request(film(0), 1)
    whole = message(asked.body, kind=asked.content_type)
    for cut in (1, 100, len(whole) // 2, len(whole)):
        for _ in range(8):
            with socket.create_connection(served.address, timeout=30) as client:
                client.sendall(whole[:cut])
    answers(served)


def test_a_client_that_reads_no_answer_holds_no_thread(served: Served) -> None:
    with ExitStack() as closing:
        for _ in range(8):
            deaf = closing.enter_context(socket.create_connection(served.address, timeout=30))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(b"GET /static/page/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        time.sleep(0.2)
        answers(served)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """Yield the service that asks for tokens, and one of them."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.json"
    secret = create_token(tokens, "reader", ["read"])
    with serving(str(tokens)) as served:
        yield served, secret


@pytest.mark.parametrize(
    "header", [(), ("Authorization: Bearer precedent_unknown",), ("Authorization: nonsense",), ("Cookie: a=b",)]
)
@pytest.mark.parametrize("length", ["Content-Length: 50000000", "Transfer-Encoding: chunked"])
def test_a_stranger_s_body_is_not_waited_for(header: tuple[str, ...], length: str, locked: tuple[Served, str]) -> None:
    asked = "\r\n".join(["POST /v1/search HTTP/1.1", "Host: localhost", "Expect: 100-continue", length, *header])

    answer = locked[0].say(asked.encode() + b"\r\n\r\n" + b"7\r\nGET / H\r\n")

    assert status(answer) == 401
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b'"code":"unauthorized"' in answer
    assert b"\r\nConnection: close\r\n" in answer


def test_the_body_of_one_who_is_signed_in_is_received_whole(locked: tuple[Served, str]) -> None:
    served, secret = locked
    form = message(f"token={secret}".encode(), kind="application/x-www-form-urlencoded")
    signed_in = served.say(form.replace(b"/v1/search", b"/login"))
    session = signed_in.partition(b"Set-Cookie: ")[2].partition(b";")[0].decode()
    answer = served.say(message(SEARCH + b" " * 200_000, f"Cookie: {session}"))

    assert (status(signed_in), status(answer)) == (303, 200)


def test_the_body_of_one_who_is_known_is_received_whole(locked: tuple[Served, str]) -> None:
    served, secret = locked
    shown = f"Authorization: Bearer {secret}"
    answer = served.say(message(SEARCH + b" " * 200_000, shown))

    assert status(answer) == 200
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["hits"]
