"""Joining a Ray cluster, or starting one on this machine, and what its machines have for an encoder.

Ray is imported when it is first needed.
"""

import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from tempfile import TemporaryDirectory
from typing import Any

from index.errors import CollectionError

PACKAGE = "cxr-precedent"
_OBJECT_STORE = 100_000_000
_CONNECT_SECONDS = 5.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_worker_niceness": "0",
}
"""How Ray is set: to report nothing to its makers, to log nothing here, to hide no GPU, to upload no code, and not to
put its workers behind everything else that runs (its default), since they are what the user waits for."""
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""How a cluster of this machine alone is set besides: to listen on loopback, as Ray does by itself where it knows no
cluster of several machines, and to let nobody in without the token. Given any other address of this machine, every
process of Ray listens on all of them; `_node_ip_address`, where it says loopback, is replaced by such a one."""


class RayRefused(CollectionError):
    """What cannot be done on this cluster, or went wrong on one of its machines."""


@dataclass(frozen=True)
class Allocation:
    """How many encoders run on the cluster, and what each is given."""

    workers: int
    """Encoders that there is room for now; the pool grows as machines join."""
    cores: int
    """Of each encoder."""
    gpus: bool
    """Whether each encoder has a GPU of its own."""

    @property
    def device(self) -> str:
        """The device of each encoder."""
        return "cuda" if self.gpus else "cpu"


@contextmanager
def joined_cluster() -> Iterator[Any]:
    """Yield Ray, joined to the cluster at RAY_ADDRESS, or to one of its own on this machine, which ends with it.

    Raises:
        RayRefused: Ray is not installed, nothing answers there, or another version of this package is.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    ray = _imported(_ENVIRONMENT | (_LOOPBACK if address == "local" else {}))
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        try:
            _connect(ray, address, folder)
            _require_same_versions(ray)
            yield ray
        finally:
            ray.shutdown()


def _imported(environment: Mapping[str, str]) -> Any:
    for name, value in environment.items():  # which Ray reads when it is imported
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RayRefused(f"expected Ray for --engine ray ({error}); run: pip install 'cxr-precedent[ray]'") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return ray


def _connect(ray: Any, address: str, folder: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    own = {"num_cpus": os.cpu_count(), "object_store_memory": _OBJECT_STORE, "include_dashboard": False}
    if address == "local":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray keeps one in the home folder
    elif address != "auto":
        _require_listening(address)
    try:
        with _quiet_stderr():
            ray.init(address, **quiet, **({**own, "_temp_dir": folder} if address == "local" else {}))
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        raise RayRefused(f"the Ray cluster {address!r} cannot be joined: {first_line(error)}") from error


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Leave out what Ray's own library says on stderr while it starts; what goes wrong is raised all the same."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _require_listening(address: str) -> None:
    """Raise RayRefused where nothing listens: Ray itself would try for minutes and then end this process."""
    remedy = "set RAY_ADDRESS to HOST:PORT as `ray start --head` prints it, or unset it to work on this machine alone"
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not host or "/" in host:
        raise RayRefused(f"expected RAY_ADDRESS to be HOST:PORT, got {address!r}; {remedy}")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RayRefused(f"nothing answers at RAY_ADDRESS {address!r} ({error}); {remedy}") from error


def _require_same_versions(ray: Any) -> None:
    """Raise RayRefused where a machine of the cluster has another version of this package, or none."""

    def version_there(package: str) -> str:  # travels whole, so that it runs where this package is missing
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(package)
        except PackageNotFoundError:
            return "none"

    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    ask = ray.remote(num_cpus=0)(version_there)
    asked = {
        name: ask.options(scheduling_strategy=affinity(node, soft=True)).remote(PACKAGE) for node, name in nodes.items()
    }
    for name, answer in asked.items():
        if (theirs := ray.get(answer)) != version(PACKAGE):
            raise RayRefused(
                f"expected {PACKAGE} {version(PACKAGE)} on every machine of the cluster, {name} has {theirs}; install "
                "the same version there"
            )


def allocation_of(ray: Any, device: str, cores: int | None) -> Allocation:
    """Return how the cluster is allocated: one encoder a GPU where there are any, else by cores.

    Args:
        device: auto, cpu or cuda. cores: that each encoder gets; None gives it all of the smallest machine, or of
            what comes to a GPU there.

    Raises:
        RayRefused: a GPU is asked for and there is none, or no machine has so many cores.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    with_gpu = [] if device == "cpu" else [machine for machine in machines if machine.get("GPU", 0) >= 1]
    if device.startswith("cuda") and not with_gpu:
        raise RayRefused("expected a GPU in the Ray cluster for --device cuda, found none; use --device cpu")
    shares = [(int(machine["CPU"]), int(machine.get("GPU", 0)) if with_gpu else 1) for machine in with_gpu or machines]
    each = cores or min((max(cpus // parts, 1) for cpus, parts in shares), default=1)
    room = sum(min(cpus // each, parts) if with_gpu else cpus // each for cpus, parts in shares)
    if not room:
        most = max((cpus for cpus, _ in shares), default=0)
        raise RayRefused(
            f"expected a machine of {each} cores in the Ray cluster, the largest has {most}; "
            "give a smaller --actor-cores"
        )
    return Allocation(room, each, bool(with_gpu))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
