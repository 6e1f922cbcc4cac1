"""waitress's server for the service, which stops without tearing an answer.

Knows sockets, signals and waitress; it must not know what is served.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event
from time import monotonic
from types import FrameType
from typing import Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import create_server
from waitress.task import WSGITask

DRAIN_SECONDS = 8.0
"""For what is in flight when the service is to stop; what a supervisor waits for is ten or more."""
RECEIVED_BYTES = 1 << 18
"""Read from a connection at once: a film of a megabyte comes in four reads, not in a hundred and thirty."""
STRANGERS_BYTES = 1 << 16
SPOOLED_BYTES = 1 << 24
"""Of a body, kept in memory; what is longer goes to a temporary file without a name."""
_TICK_SECONDS = 0.05


def listen(
    app: Callable[..., Any],
    listener: socket.socket,
    *,
    threads: int,
    body_bytes: int,
    closing: Event,
    known: Callable[[Mapping[str, str]], bool],
) -> Any:
    """Return the server of a bound socket; once `closing` is set, each answer is its connection's last.

    Args:
        body_bytes: a body this long is dropped in waitress's own words.
        known: whether the sender of these headers, by WSGI's names without HTTP_, may send a body of any length;
            that of a stranger is not received beyond `STRANGERS_BYTES`, and the application answers without it.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page asks for its films all at once
    server = create_server(
        app, sockets=[listener], threads=threads, max_request_body_size=body_bytes, ident=None,
        channel_request_lookahead=1,  # a closed connection is noticed while its request waits
        connection_limit=max(100, 2 * threads), asyncore_use_poll=True,
        recv_bytes=RECEIVED_BYTES, inbuf_overflow=SPOOLED_BYTES,
        clear_untrusted_proxy_headers=False,  # none is believed, and that one is there says that a proxy is
    )  # fmt: skip
    server.channel_class = _channel_of(closing, known)
    return server


def tell_supervisor(word: str) -> None:
    """Tell systemd, where it started this process and waits for it, as sd_notify(3) does; else do nothing."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, suppress(OSError):
            supervisor.sendto(word.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


@contextmanager
def closed_by_signals(server: Any, closing: Event) -> Iterator[None]:
    """Have SIGTERM and SIGINT set `closing`; a second signal ends the process at once."""

    def close(_signal: int, _frame: FrameType | None) -> None:
        if closing.is_set():
            raise KeyboardInterrupt
        closing.set()
        server.pull_trigger()  # the loop sleeps in poll

    before = {number: signal.signal(number, close) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(server: Any, closing: Event) -> bool:
    """Serve until `closing` is set, finish what is in flight, and return whether all of it was.

    What comes meanwhile is the application's to refuse.
    """
    try:
        while not closing.is_set():
            _turn(server, 1.0)
        tell_supervisor("STOPPING=1")
        return _drain(server, monotonic() + DRAIN_SECONDS)
    finally:
        server.task_dispatcher.shutdown(timeout=0.5)
        server.close()
        wasyncore.close_all(server._map)


def _drain(server: Any, deadline: float) -> bool:
    """Finish what is in flight, then what came meanwhile, which can be refusals alone, behind a closed door."""
    begun = [channel for channel in server.active_channels.values() if _busy(channel)]
    while any(map(_busy, begun)) and monotonic() < deadline:
        _turn(server, _TICK_SECONDS)
    wasyncore.dispatcher.close(server)
    while any(map(_busy, server.active_channels.values())) and monotonic() < deadline:
        _turn(server, _TICK_SECONDS)
    return not any(map(_busy, server.active_channels.values()))


def _busy(channel: Any) -> bool:
    """Return whether a request is being received or answered, or an answer not yet sent to its last byte."""
    return channel.connected and bool(channel.requests or channel.request is not None or channel.total_outbufs_len)


def _turn(server: Any, seconds: float) -> None:
    wasyncore.loop(timeout=seconds, map=server._map, use_poll=True, count=1)


def _channel_of(closing: Event, known: Callable[[Mapping[str, str]], bool]) -> type[HTTPChannel]:
    """Return the channels whose answers end the connection, and say so, once the service is closing."""

    class Received(HTTPRequestParser):
        completed = False

        def received(self, data: bytes) -> int:
            consumed: int = super().received(data)
            if self.completed or not self.headers_finished or self.body_bytes_received:
                return consumed
            if (self.chunked or self.content_length > STRANGERS_BYTES) and not known(self.headers):
                self.completed, self.expect_continue = True, False
                self.headers["CONNECTION"] = "close"
                return len(data)
            return consumed

    class Answer(WSGITask):
        def build_response_header(self) -> bytes:
            if closing.is_set():
                self.set_close_on_finish()
            head: bytes = super().build_response_header()
            return head

    class Channel(HTTPChannel):
        task_class = Answer
        parser_class = Received

    return Channel
