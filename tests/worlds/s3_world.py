"""A real S3 server in a process of its own on loopback, and a gate before it that can be shut."""

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

BUCKET = "radiology"


class Gate:
    """Passes on what comes to its port while it is open; while it is shut, nothing listens there."""

    def __init__(self, target: int) -> None:
        self._target, self.port = target, 0
        self._held: list[socket.socket] = []
        self.open()

    def open(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._held = [listener]
        threading.Thread(target=self._welcome, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        for one in self._held:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _welcome(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                ends = listener.accept()[0], socket.create_connection(("127.0.0.1", self._target))
                self._held += ends
                for here, there in (ends, ends[::-1]):
                    threading.Thread(target=_pump, args=(here, there), daemon=True).start()


def _pump(here: socket.socket, there: socket.socket) -> None:
    with suppress(OSError):
        while data := here.recv(1 << 16):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)


@contextmanager
def s3_server(home: str) -> Iterator[Gate]:
    """Yield the gate before a server with one bucket, to which the environment of this process points meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _make_bucket(port, process)
            gate = Gate(port)
            try:
                with pytest.MonkeyPatch.context() as patch:
                    for name, value in _environment(gate.port, home).items():
                        patch.setenv(name, value)
                    yield gate
            finally:
                gate.shut()
        finally:
            process.kill()


def _environment(port: int, home: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "hush-hush",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": home,
    }


def _make_bucket(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        asked = http.client.HTTPConnection("127.0.0.1", port)
        try:
            asked.request("PUT", f"/{BUCKET}")
            assert asked.getresponse().status == 200
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
        finally:
            asked.close()
    raise AssertionError("the S3 server ended instead of listening")
