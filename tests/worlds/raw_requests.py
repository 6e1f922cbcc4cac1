"""The real server over the four studies of `service_world`, in a process of its own, and what is said to it byte by byte."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from folders import ROOT, WORLDS

RUN = """
import sys
from pathlib import Path
from scripts.work import http_server as listening
from scripts.verbs.running.serve import bind, serve
from service.guard import access
from service.guard.tokens import TokenFile
from service_world import build_app, with_tokens
app = build_app()
for word in sys.argv[1:]:
    name, _, value = word.rpartition("=")
    if name:
        setattr(listening, name, int(value))
    else:
        app = with_tokens(app, Path(value))
serve(app, bind("127.0.0.1", 0), threads=2)
"""
SEARCH = b'{"study_id": "patient00001/study1"}'


class Served(NamedTuple):
    """A server of two threads."""

    process: "subprocess.Popen[str]"
    address: tuple[str, int]

    def say(self, message: bytes) -> bytes:
        """Send bytes as they are, and return all that comes back until the server closes the connection."""
        with socket.create_connection(self.address, timeout=30) as client:
            client.sendall(message)
            return b"".join(iter(lambda: client.recv(65_536), b""))

    def memory(self) -> int:
        """Return the most bytes that the server has held; Linux only."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@contextmanager
def serving(*tokens: str, **terms: int) -> Iterator[Served]:
    """Yield the service with a file of tokens or none, and terms of its own for its clients, named as in `listening`."""
    environment = os.environ | {"PYTHONPATH": f"{WORLDS}:{ROOT}"}
    words = [*tokens, *(f"{name}={value}" for name, value in terms.items())]
    command = [sys.executable, "-u", "-c", RUN, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        place = urlsplit(process.stdout.readline().split()[-1])
        assert place.hostname is not None
        assert place.port is not None
        try:
            yield Served(process, (place.hostname, place.port))
        finally:
            process.kill()


def message(body: bytes, *headers: str, length: int | str | None = None, kind: str = "application/json") -> bytes:
    """Return a search as it goes over the wire, its Content-Length true or not."""
    lines = ["POST /v1/search HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    """Return the status of the first answer."""
    return int(answer.split(b" ", 2)[1])


def answers(served: Served) -> None:
    """Fail unless a plain search is answered at once and well."""
    answer = served.say(message(SEARCH))
    assert status(answer) == 200
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["hits"][0]["study_id"] == "patient00002/study1"
