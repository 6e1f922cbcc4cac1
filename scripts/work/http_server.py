"""The HTTP server of `precedent serve`: h11 speaks the protocol over asyncio's transports, threads run the application.

No client keeps a connection for long, none takes what others need, and stopping tears no answer. That is why it is no
WSGI or ASGI server: none of waitress, gunicorn, uvicorn and hypercorn has public options for all three of how long a
request's headers may take, what a client may leave unread, and which connection goes where one too many comes.
"""

import asyncio
import json
import logging
import os
import re
import resource
import secrets
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from io import BytesIO
from tempfile import SpooledTemporaryFile
from threading import Event
from time import monotonic
from types import FrameType
from typing import IO, Any, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

import h11
from werkzeug.datastructures import Headers
from werkzeug.http import http_date

from service.errors import error_body
from service.served.disconnect import CLIENT_GONE, TURNED_AWAY

log = logging.getLogger("precedent.server")

DRAIN_SECONDS = 8.0
"""For what is in flight when the service is to stop; what a supervisor waits for is ten or more."""
HEAD_SECONDS = 10.0
"""For a request's line and headers, however they trickle in, and for the first byte of a new connection."""
IDLE_SECONDS = 60.0
"""Between an answer and the next request of its connection."""
GRACE_SECONDS, LEAST_RATE = 20.0, 1 << 14
"""A body on its way here and an answer on its way out may take so long, and a second more for each so many bytes."""
CONNECTIONS = 2048
"""Open at a time; beyond, those that have waited longest are closed, so that whoever comes is let in."""
BODIES_BYTES = 1 << 30
"""Of requests at a time, half of them of one sender: in memory, or in temporary files."""
ANSWERS_BYTES = 1 << 29
"""Unsent at a time; beyond, the oldest are dropped."""
HEAD_BYTES = 1 << 16
"""Of a request's line and headers at most."""
STRANGERS_BYTES = 1 << 16
SPOOLED_BYTES = 1 << 24
"""Of a body, kept in memory; what is longer goes to a temporary file without a name."""
_TICK_SECONDS = 0.1
_EVENTS = 256
"""Of one connection before it is another's turn: each byte of a body can be a chunk of its own."""
_ENDING = (signal.SIGTERM, signal.SIGINT)
_GO_ON = h11.InformationalResponse(status_code=100, reason="Continue", headers=[])
_WSGI: dict[str, Any] = {"wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.run_once": False}
_WSGI |= {"wsgi.multithread": True, "wsgi.multiprocess": False}
_AUTHORITY = re.compile(rb"^[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")

Environ = dict[str, Any]
Application = Callable[..., Iterable[bytes]]
Sender = Callable[[Environ], str | None]
Step = Literal["idle", "head", "body", "work", "answer", "linger"]


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
def closed_by_signals(closing: Event) -> Iterator[None]:
    """Have SIGTERM and SIGINT set `closing`; a second signal ends the process at once."""

    def close(_signal: int, _frame: FrameType | None) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
        closing.set()

    before = [signal.signal(number, close) for number in _ENDING]
    try:
        yield
    finally:
        for number, handler in zip(_ENDING, before, strict=True):
            signal.signal(number, handler)


class Answer(NamedTuple):
    """What an application answers."""

    status: str
    headers: Headers = Headers()
    body: bytes = b""
    whole: bool = True
    """Whether the application came to its end."""


def ask(app: Application, environ: Environ) -> Answer:
    """Return what a WSGI application answers; of one that fails midway what there was, and else a 500."""
    answers = [Answer("500 Internal Server Error")]
    body: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], _fault: Any = None) -> Callable[[bytes], None]:
        answers.append(Answer(status, Headers(headers)))
        return body.append

    chunks: Any = ()
    try:
        chunks = app(environ, start_response)
        body.extend(chunks)
        whole = True
    except BaseException as fault:
        log.error("an answer ended midway", exc_info=fault)
        whole = len(answers) == 1
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    return answers[-1]._replace(body=b"".join(body), whole=whole)


def _refusal(fault: h11.RemoteProtocolError) -> Answer:
    """Return the refusal of bytes that are no request."""
    status, number = HTTPStatus(fault.error_status_hint), secrets.token_hex(8)
    code = status.phrase.lower().replace(" ", "_")
    body = json.dumps(error_body(code, "expected a request of HTTP/1.1 within its limits", number)).encode()
    headers = Headers({"Content-Type": "application/json", "X-Request-Id": number})
    return Answer(f"{status} {status.phrase}", headers, body)


def _environ(request: h11.Request, client: str, own: tuple[str, int]) -> Environ:
    """Return a request for a WSGI application, without its body.

    A header whose name holds an underscore is left out, for it would pass for another's.
    """
    path, _, query = _AUTHORITY.sub(b"", request.target).partition(b"?")
    environ: Environ = {
        "REQUEST_METHOD": request.method.decode("ascii"),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "SERVER_NAME": own[0],
        "SERVER_PORT": str(own[1]),
        "SERVER_PROTOCOL": f"HTTP/{request.http_version.decode('ascii')}",
        "REMOTE_ADDR": client,
        "wsgi.errors": sys.stderr,
    } | _WSGI
    for raw, value in request.headers:
        if b"_" in raw:
            continue
        name, text = raw.decode("ascii").upper().replace("-", "_"), value.decode("latin-1")
        name = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
        between = "; " if name == "HTTP_COOKIE" else ", "
        environ[name] = f"{environ[name]}{between}{text}" if name in environ else text
    return environ


class Server:
    """A bound socket, its connections, and the threads that answer what they ask."""

    def __init__(
        self,
        app: Application,
        listener: socket.socket,
        *,
        threads: int,
        body_bytes: int,
        closing: Event,
        sender: Sender,
    ) -> None:
        """Listen; who connects is answered once it runs.

        A body that is longer than it may be is not received: the application answers without it.

        Args:
            body_bytes: the longest body of a known sender; that of a stranger is of `STRANGERS_BYTES`.
            closing: once it is set, each answer is its connection's last, and the server ends.
            sender: tells a name of who sends a request, by WSGI's environment without a body; None is a stranger.
        """
        self.app, self.closing, self.sender, self.body_bytes = app, closing, sender, body_bytes
        self.threads = ThreadPoolExecutor(threads, "answers")
        self.connections: set[Connection] = set()
        self._most, self._listener = _open_files(2 * CONNECTIONS) // 2, listener
        self._spare = max(2, self._most // 32)
        listener.listen(self._most)

    def run(self) -> bool:
        """Serve until `closing` is set, finish what is in flight, and return whether all of it was.

        What comes meanwhile is the application's to refuse.
        """
        try:
            return asyncio.run(self._serve())
        finally:
            self.threads.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> bool:
        self.loop = asyncio.get_running_loop()
        door = await self.loop.create_server(lambda: Connection(self), sock=self._listener, backlog=self._spare)
        try:
            # asyncio accepts its backlog at once: so few that each is heard in between, while more may queue
            self._listener.listen(self._most)
            while not self.closing.is_set():
                await asyncio.sleep(_TICK_SECONDS)
                self._close_overdue()
            tell_supervisor("STOPPING=1")
            deadline = monotonic() + DRAIN_SECONDS
            await _until_idle([connection for connection in self.connections if connection.busy], deadline)
            door.close()  # what came meanwhile can be refusals alone
            return await _until_idle(self.connections, deadline)
        finally:
            door.close()
            for connection in self.connections:
                connection.transport.abort()

    def _close_overdue(self) -> None:
        """Close connections whose client takes too long, and the oldest of those that keep too much unread."""
        now = monotonic()
        for connection in [connection for connection in self.connections if connection.is_overdue(now)]:
            connection.transport.abort()
        unread = sorted(
            (connection for connection in self.connections if connection.unsent),
            key=lambda connection: connection.since,
        )
        while sum(connection.unsent for connection in unread) > ANSWERS_BYTES:
            unread.pop(0).transport.abort()

    def make_room(self, newest: "Connection") -> None:
        """Close connections that wait for their client, where more are open than may be.

        Those of the address that has most go first, among them those that were answered, or opened, longest ago; a
        proxy has all of them. What a known sender is sending goes last, and what is being worked on never, nor who
        came last: where senders hold every other place, that would be whoever has not been heard yet.
        """
        too_many = len(self.connections) - self._most
        if too_many <= 0:
            return
        waiting = sorted(
            (connection for connection in self.connections if connection.step != "work"),
            key=lambda connection: connection.served,
        )
        waiting = waiting[: -self._spare]
        open_of = Counter(connection.client for connection in waiting)
        waiting.sort(
            key=lambda connection: (connection.sender is not None, -open_of[connection.client], connection.served)
        )
        for connection in waiting[: too_many + self._spare] or [newest]:
            connection.transport.abort()

    def has_room(self, sender: str | None, announced: int) -> bool:
        """Return whether a body of so many bytes may come beside those that are here or on their way."""
        own = sum(connection.announced for connection in self.connections if connection.sender == sender) + announced
        return max(2 * own, sum(connection.announced for connection in self.connections) + announced) <= BODIES_BYTES


async def _until_idle(connections: Collection["Connection"], deadline: float) -> bool:
    """Return whether what they ask was answered before the deadline."""
    while (busy := any(connection.busy for connection in connections)) and monotonic() < deadline:
        await asyncio.sleep(_TICK_SECONDS)
    return not busy


class Connection(asyncio.Protocol):
    """One client's connection; its requests are answered one after another."""

    transport: asyncio.Transport
    client: str
    environ: Environ

    def __init__(self, server: Server) -> None:
        self.server, self.http = server, h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self.step: Step = "idle"
        self.since = self.served = monotonic()
        """When that step began, and when the last answer was sent or the connection opened."""
        self.answered = self.gone = self.closes = False
        """Whether a request was answered, the client has left, and no request may follow."""
        self.sender: str | None = None
        self.body: IO[bytes] = BytesIO()
        self.announced = self.received = self.length = 0
        """Bytes of the body at most and up to now, and of the answer."""

    @property
    def busy(self) -> bool:
        """Whether a request is received or answered."""
        return self.step not in ("idle", "linger")

    @property
    def unsent(self) -> int:
        """Bytes of the answer that its client has not taken."""
        return self.transport.get_write_buffer_size()

    def is_overdue(self, now: float) -> bool:
        """Return whether the client has taken longer over the present step than it may."""
        allowed = HEAD_SECONDS
        if self.step == "idle" and self.answered:
            allowed = IDLE_SECONDS
        elif self.step in ("body", "answer"):
            moved = self.received if self.step == "body" else self.length - self.unsent
            allowed = GRACE_SECONDS + moved / LEAST_RATE
        return self.step != "work" and now - self.since > allowed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place among the others."""
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.client = transport, transport.get_extra_info("peername")[0]
        transport.set_write_buffer_limits(0)  # writing is resumed once the last byte has left
        self.server.connections.add(self)
        self.server.make_room(self)

    def connection_lost(self, _fault: Exception | None) -> None:
        """Leave that place."""
        self.gone = True
        self.server.connections.discard(self)
        if self.step != "work":
            self.body.close()

    def data_received(self, data: bytes) -> None:
        """Go on with the request; what comes before the last one is answered has to wait, beyond some bytes unread."""
        if self.step == "linger":
            return
        self.http.receive_data(data)
        if self.step not in ("work", "answer"):
            self._advance()
        elif len(self.http.trailing_data[0]) > HEAD_BYTES:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Note that nothing more comes, as of a client that has left; an answer can still go out."""
        self.gone = True
        self.data_received(b"")
        return self.step != "linger"

    def resume_writing(self) -> None:
        """Go on where the answer has left to its last byte."""
        if self.step == "answer":
            self._end()

    def _begin(self, step: Step) -> None:
        self.step, self.since = step, monotonic()

    def _advance(self) -> None:
        """Go on with the request as far as it has come."""
        if self.transport.is_closing():
            return
        self.transport.resume_reading()
        if self.step == "idle":
            self._begin("head")
        try:
            for _ in range(_EVENTS):
                event = self.http.next_event()
                if event is h11.NEED_DATA:
                    if self.http.they_are_waiting_for_100_continue:
                        self.transport.write(self.http.send(_GO_ON) or b"")
                    return
                if isinstance(event, h11.ConnectionClosed):
                    self.transport.abort()
                    return
                if isinstance(event, h11.Request):
                    self._receive(event)
                elif isinstance(event, h11.Data):
                    self.body.write(event.data)
                    self.received += len(event.data)
                if self.closes or self.received > self.announced or isinstance(event, h11.EndOfMessage):
                    self._work()
                    return
        except h11.RemoteProtocolError as fault:
            self.closes = True
            self._answer(_refusal(fault))
            return
        self.transport.pause_reading()
        self.server.loop.call_soon(self._advance)

    def _receive(self, request: h11.Request) -> None:
        """Begin with a body, and close the connection to one that may not come.

        Raises:
            h11.RemoteProtocolError: two lengths of one body; a proxy may believe the other one (RFC 9112, 6.1).
        """
        self.environ = _environ(request, self.client, self.transport.get_extra_info("sockname"))
        length, chunked = int(self.environ.get("CONTENT_LENGTH", 0)), "HTTP_TRANSFER_ENCODING" in self.environ
        if chunked and "CONTENT_LENGTH" in self.environ:
            raise h11.RemoteProtocolError("a length beside chunks")
        self.sender = self.server.sender(self.environ)
        allowed = STRANGERS_BYTES if self.sender is None else self.server.body_bytes
        announced = allowed if chunked else length
        turned_away = STRANGERS_BYTES < announced <= allowed and not self.server.has_room(self.sender, announced)
        self.closes = turned_away or announced > allowed or (chunked and self.sender is None)
        self.announced, self.received = 0 if self.closes else announced, 0
        self.body = SpooledTemporaryFile(SPOOLED_BYTES)  # noqa: SIM115 - closed where it is answered, or lost
        self.environ |= {"wsgi.input": self.body, TURNED_AWAY: turned_away, CLIENT_GONE: lambda: self.gone}
        self._begin("body")

    def _work(self) -> None:
        """Have a thread answer."""
        if self.environ.pop("HTTP_TRANSFER_ENCODING", None) and not self.closes:
            self.environ["CONTENT_LENGTH"], self.closes = str(self.received), self.received > self.announced
        self.body.seek(0)
        self._begin("work")
        self.server.threads.submit(self._ask)

    def _ask(self) -> None:
        with self.body:
            answer = Answer("499 Client Gone") if self.gone else ask(self.server.app, self.environ)
        self.server.loop.call_soon_threadsafe(self._answer, answer)

    def _answer(self, answer: Answer) -> None:
        """Send an answer, or as much as there is of it."""
        self._begin("answer")
        if self.transport.is_closing():
            return
        status, headers = int(answer.status[:3]), answer.headers.copy()
        headers.remove("Connection")
        if answer.whole and status not in (204, 304):
            headers.setdefault("Content-Length", str(len(answer.body)))
        self.closes = self.closes or self.server.closing.is_set()
        if self.closes:
            headers["Connection"] = "close"
        headers["Date"] = http_date()
        named = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        head = h11.Response(status_code=status, reason=answer.status[4:], headers=named)
        parts: list[h11.Event] = [head, h11.Data(answer.body), *([h11.EndOfMessage()] if answer.whole else [])]
        message = b"".join(self.http.send(part) or b"" for part in parts)
        self.length = len(message)
        self.transport.write(message)
        if not self.unsent:
            self._end()

    def _end(self) -> None:
        """Wait for the next request, or until who is still sending has read the answer, which closing would tear."""
        self.served, self.answered, self.sender, self.announced = monotonic(), True, None, 0
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
            self._begin("idle")
            self.transport.resume_reading()
            if self.http.trailing_data != (b"", False):
                self._advance()
        elif self.gone or self.http.our_state is h11.SEND_BODY:  # half an answer
            self.transport.abort()
        else:
            self._begin("linger")
            self.transport.resume_reading()
            self.transport.write_eof()
