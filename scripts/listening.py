"""waitress's server for the service, which stops without tearing an answer.

Knows sockets, signals and waitress; it must not know what is served.
"""

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from time import monotonic
from types import FrameType
from typing import Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import WSGITask

DRAIN_SECONDS = 8.0
"""For what is in flight when the service is to stop; what a supervisor waits for is ten or more."""
RECEIVED_BYTES = 1 << 18
"""Read from a connection at once: a film of a megabyte comes in four reads, not in a hundred and thirty."""
_TICK_SECONDS = 0.05


def listen(app: Callable[..., Any], listener: socket.socket, *, threads: int, body_bytes: int, closing: Event) -> Any:
    """Return the server of a bound socket; once `closing` is set, each answer is its connection's last."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page asks for its films all at once
    server = create_server(
        app, sockets=[listener], threads=threads, max_request_body_size=body_bytes, ident=None,
        channel_request_lookahead=1,  # a closed connection is noticed while its request waits
        connection_limit=max(100, 2 * threads), asyncore_use_poll=True,
        recv_bytes=RECEIVED_BYTES,
    )  # fmt: skip
    server.channel_class = _channel_of(closing)
    return server


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


def _channel_of(closing: Event) -> type[HTTPChannel]:
    """Return the channels whose answers end the connection, and say so, once the service is closing."""

    class Answer(WSGITask):
        def build_response_header(self) -> bytes:
            if closing.is_set():
                self.set_close_on_finish()
            head: bytes = super().build_response_header()
            return head

    class Channel(HTTPChannel):
        task_class = Answer

    return Channel
