"""A Ray cluster of two nodes on loopback, each of them a session of processes that can be killed as a whole."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from folders import ROOT

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # a cluster of one machine alone leaves 0 in this process
}


@dataclass(frozen=True)
class Node:
    """What `ray start` left behind: all processes of one session."""

    session: int

    def kill(self) -> None:
        """End the node as a power switch does."""
        for process in self._processes():
            _kill(process)

    def _processes(self) -> list[int]:
        numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [number for number in numbers if _session_of(number) == self.session]


def _kill(process: int) -> None:
    """Kill a process that may have ended meanwhile."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _session_of(process: int) -> int | None:
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return None


@dataclass(frozen=True)
class TwoNodes:
    """A head and another node, one core each."""

    address: str
    head: Node
    other: Node


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Yield a cluster; its folder has a short name, for the names of sockets may have 107 characters and no more."""
    with TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        nodes: list[Node] = []
        try:
            port = address.partition(":")[2]
            _start(nodes, "--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false")
            _start(nodes, f"--address={address}")
            yield TwoNodes(address, *nodes)
        finally:
            for node in nodes:
                node.kill()


def _start(nodes: list[Node], *words: str) -> None:
    ray = Path(sys.executable).with_name("ray")
    common = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    if "--head" not in words:
        common.remove("--disable-usage-stats")
    process = subprocess.Popen(
        [ray, "start", *words, *common],
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    nodes.append(Node(process.pid))
    assert process.wait() == 0
