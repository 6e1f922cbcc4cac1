"""waitress's server for the service: no client keeps a connection for long, and stopping tears no answer."""

import logging
import os
import resource
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
HEAD_SECONDS = 10.0
"""For a request's line and headers, however they trickle in, and for the first byte of a new connection."""
IDLE_SECONDS = 60.0
"""Between an answer and the next request of its connection."""
GRACE_SECONDS, LEAST_RATE = 20.0, 1 << 14
"""A body on its way here and an answer on its way out may take so long, and a second more for each so many bytes."""
CONNECTIONS = 2048
"""Open at a time; near that, those that have waited longest are closed, so that whoever comes is let in."""
BODIES_BYTES = 1 << 30
"""Of requests at a time, half of them of one sender: in memory, or in temporary files."""
ANSWERS_BYTES = 1 << 29
"""Unsent at a time; beyond, those that have not been read from for longest are dropped."""
RECEIVED_BYTES = 1 << 18
"""Read from a connection at once: a film of a megabyte comes in four reads, not in a hundred and thirty."""
STRANGERS_BYTES = 1 << 16
SPOOLED_BYTES = 1 << 24
"""Of a body, kept in memory; what is longer goes to a temporary file without a name."""
TURNED_AWAY = "precedent.turned_away"
"""In the environment of a request whose body was not received for want of room."""
_TICK_SECONDS = 0.05

Sender = Callable[[Mapping[str, str]], str | None]


def listen(
    app: Callable[..., Any],
    listener: socket.socket,
    *,
    threads: int,
    body_bytes: int,
    closing: Event,
    sender: Sender,
) -> Any:
    """Return the server of a bound socket; once `closing` is set, each answer is its connection's last.

    A body that is longer than it may be is not received: the application answers without it.

    Args:
        body_bytes: the longest body of a known sender; that of a stranger is of `STRANGERS_BYTES`.
        sender: tells a name of who sends these headers, by WSGI's names without HTTP_; None is a stranger.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page asks for its films all at once
    server = create_server(
        app,
        sockets=[listener],
        threads=threads,
        max_request_body_size=sys.maxsize,
        ident=None,
        channel_request_lookahead=1,  # a closed connection is noticed while its request waits
        connection_limit=_open_files(2 * CONNECTIONS) // 2,
        asyncore_use_poll=True,
        recv_bytes=RECEIVED_BYTES,
        inbuf_overflow=SPOOLED_BYTES,
        clear_untrusted_proxy_headers=False,  # none is believed, and that one is there says that a proxy is
    )
    server.channel_class, server.terms = Channel, Terms(closing, sender, body_bytes)
    return server


def _open_files(wanted: int) -> int:
    """Return how many files this process may open, up to those wanted, after it has asked for as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


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
    looked = monotonic()
    try:
        while not closing.is_set():
            _turn(server, 1.0)
            _accept(server)
            _make_room(server)
            if monotonic() - looked >= 1:
                _close_overdue(server)
                looked = monotonic()
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


def _accept(server: Any) -> None:
    """Open more of the connections that wait for it, of which waitress opens one a turn; no more than there is room."""
    for _ in range(_spare(server)):
        open_before = len(server._map)
        server.handle_accept()
        if len(server._map) == open_before:
            break


def _spare(server: Any) -> int:
    """Return how many connections can always be opened."""
    return max(2, int(server.adj.connection_limit) // 32)


def _make_room(server: Any) -> None:
    """Close connections that wait for their client, where hardly one more could be opened.

    Those of the address that has most go first, among them those that were answered, or opened, longest ago; a proxy
    has all of them. What a known sender is sending goes last, and what is being worked on never, nor who came last:
    where senders hold every other place, that would be whoever has not been heard yet.
    """
    too_many = len(server._map) - server.adj.connection_limit + 2 * _spare(server)
    if too_many <= 0:
        return
    waiting = [channel for channel in server.active_channels.values() if not channel.requests]
    waiting = sorted(waiting, key=lambda channel: channel.served)[: -_spare(server)]
    open_of = Counter(channel.addr[0] for channel in waiting)
    waiting.sort(key=lambda channel: (channel.sends_for_somebody(), -open_of[channel.addr[0]], channel.served))
    for channel in waiting[: too_many + _spare(server)]:
        channel.handle_close()


def _close_overdue(server: Any) -> None:
    """Close connections whose client takes too long, and those that keep the most unread where that is too much.

    waitress would wait until such a socket takes a byte again.
    """
    now = monotonic()
    for channel in list(server.active_channels.values()):
        if channel.is_overdue(now):
            channel.handle_close()
    unread = [channel for channel in server.active_channels.values() if channel.total_outbufs_len]
    unread.sort(key=lambda channel: channel.served, reverse=True)
    while unread and sum(channel.total_outbufs_len for channel in unread) > ANSWERS_BYTES:
        unread.pop().handle_close()


@dataclass(frozen=True)
class Terms:
    """What every connection of a server goes by."""

    closing: Event
    sender: Sender
    body_bytes: int


class Received(HTTPRequestParser):
    """A request on its way here; one whose body may not come is complete with its headers."""

    def __init__(self, adj: Any, channel: "Channel") -> None:
        super().__init__(adj)
        self.channel = channel
        self.sender: str | None = None
        self.announced, self.turned_away = 0, False
        """Bytes of the body, at most; and whether there was no room for them."""

    def received(self, data: bytes) -> int:
        heading = not self.headers_finished
        consumed: int = super().received(data)
        if heading and self.headers_finished and not self.completed:
            return self._begin_body(len(data), consumed)
        if self.completed:
            self.expect_continue = False  # there is no body to come, or none that is wanted
        elif self.headers_finished and self.body_bytes_received > self.announced:
            return self._leave_body(len(data))
        return consumed

    def _begin_body(self, given: int, consumed: int) -> int:
        terms = self.channel.server.terms
        self.sender = terms.sender(self.headers)
        allowed = STRANGERS_BYTES if self.sender is None else terms.body_bytes
        if self.content_length > allowed or (self.chunked and self.sender is None):
            return self._leave_body(given)
        self.announced = allowed if self.chunked else self.content_length
        if self.announced > STRANGERS_BYTES and not self._has_room():
            self.turned_away = True
            return self._leave_body(given)
        return consumed

    def _has_room(self) -> bool:
        channels = self.channel.server.active_channels.values()
        held = [one for channel in channels for one in (*channel.requests, channel.request) if one is not None]
        own = sum(one.announced for one in held if one.sender == self.sender)
        return 2 * own <= BODIES_BYTES and sum(one.announced for one in held) <= BODIES_BYTES

    def _leave_body(self, given: int) -> int:
        """Have the application answer now, and whatever else comes thrown away."""
        self.headers["CONTENT_LENGTH"] = str(max(self.content_length, self.body_bytes_received))
        self.headers["CONNECTION"] = "close"
        self.completed, self.expect_continue, self.announced = True, False, 0
        self.channel.left_body = True
        return given


class Answer(WSGITask):
    """An answer, which ends its connection, and says so, once the service is closing."""

    def service(self) -> None:
        """Answer; whatever else an application raises than an Exception, waitress would leave its client waiting at."""
        try:
            super().service()
        except Exception:
            raise
        except BaseException as error:
            raise RuntimeError("an answer ended midway") from error

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[TURNED_AWAY] = self.request.turned_away
        return environ

    def build_response_header(self) -> bytes:
        if self.channel.server.terms.closing.is_set():
            self.set_close_on_finish()
        head: bytes = super().build_response_header()
        return head


class Channel(HTTPChannel):
    """A connection that knows for how long its client has been at what."""

    task_class = Answer
    close_when_flushed: bool

    def __init__(self, *given: Any, **named: Any) -> None:
        self.served = monotonic()
        """When a byte was last sent, or the connection opened."""
        self.answered = self.left_body = self.lingers = False
        self._step: tuple[object, ...] = ()
        self._since, self._sent = self.served, 0
        super().__init__(*given, **named)

    def parser_class(self, adj: Any) -> Received:
        return Received(adj, self)

    def sends_for_somebody(self) -> bool:
        """Return whether a known sender's body is coming."""
        return self.request is not None and self.request.sender is not None

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent: int = super().send(data, do_close)
        if sent:
            self.served, self.answered, self._sent = monotonic(), True, self._sent + sent
        return sent

    def is_overdue(self, now: float) -> bool:
        """Return whether the client has taken longer over the present step of a request than it may."""
        step = self._present_step()
        if step != self._step:
            self._step, self._since, self._sent = step, now, 0
        took, idle = now - self._since, now - self.served
        if step[0] == "answer":
            return took > GRACE_SECONDS + self._sent / LEAST_RATE
        if step[0] == "body":
            return took > GRACE_SECONDS + self.request.body_bytes_received / LEAST_RATE
        if step[0] == "head":
            return took > HEAD_SECONDS or idle > IDLE_SECONDS + HEAD_SECONDS
        return step[0] != "work" and idle > (IDLE_SECONDS if self.answered and not self.lingers else HEAD_SECONDS)

    def _present_step(self) -> tuple[object, ...]:
        if self.total_outbufs_len:
            return ("answer",)
        if self.requests:
            return ("work",)
        if self.request is None:
            return ("idle",)
        return ("body" if self.request.headers_finished else "head", self.request)

    def readable(self) -> bool:
        return self.lingers or super().readable()

    def handle_read(self) -> None:
        if not self.lingers:
            super().handle_read()
            return
        with suppress(OSError):
            if self.recv(RECEIVED_BYTES):
                return
        self.handle_close()

    def handle_write(self) -> None:
        """Send; where a body was left, wait until the client has read the answer, which closing would tear."""
        if not (self.close_when_flushed and self.left_body):
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if self.will_close:
            self.handle_close()
        elif not self.total_outbufs_len:
            self.close_when_flushed = False
            self.lingers = True
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
