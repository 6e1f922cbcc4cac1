"""Every call to a Milvus server: within a time limit, connected again after a loss, its errors put into our words.

pymilvus is imported when it is first needed.
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from index.engines.availability import Availability, Silence
from index.engines.manifest import NotThere
from index.errors import BackendLoading, BackendUnavailable, CollectionError
from index.milvus.address import MilvusAddress

CALL_SECONDS = 10.0
"""That a call to a server may take, its repetitions included."""
FILE_SECONDS = 60.0
"""That a call to Milvus Lite may take, which counts what passes a filter by reading all of it."""
BUILD_SECONDS = 3600.0
"""That Milvus may take to index or load what was inserted."""
_LOOK_SECONDS = 0.05
LEAST_VERSION = (2, 5)
"""Of a server: the first that keeps nulls."""
_NO_CONNECTION, _NOT_FOUND, _NOT_LOADED, _NO_ALIAS = 2, 100, 101, 1600
_LOADING = (103, 106, 202, 400, 401, 503, 601, 602)
"""Codes of a collection of which parts are not in memory yet, as after a restart or while it is loaded."""
_BAD_REQUESTS = (5, 6, 10, 102, 104, 105, 107, 1100, 1101, 1102, 1601, 1602, 1700, 1701, 1804, 1806, 3000)
"""Codes for what Milvus does not take, however often it is asked."""
_LOST = ("MilvusException", "ConnectError", "MilvusUnavailableException", "ConnectionNotExistException")
"""Names of pymilvus' classes for what a server says, or does not; the others are of what it does not ask a server."""


class NotOnMilvus(NotThere):
    """A collection that the server does not have."""


class MilvusServer:
    """A server, or a file of Milvus Lite. Safe under threads; connects with the first call."""

    def __init__(self, address: MilvusAddress, token: str = "", *, make: bool = False) -> None:
        """Take an address.

        Args:
            token: "user:password" or a key, where the server asks for one.
            make: whether a file of Milvus Lite that is not there may be made.

        Raises:
            CollectionError: the extra is not installed. NotOnMilvus: there is no such file.
        """
        self.address, self._token = address, token
        self._lock = threading.Lock()
        self._client: Any = None
        self._failure: Exception | None = None
        self._failed_at = 0.0
        self._availability = Availability(self._lost, forgives=address.file is not None)
        self._loading = threading.Lock()
        self._pymilvus = _pymilvus()
        if address.file is not None and not (address.file.exists() or make):
            raise NotOnMilvus(f"no file {str(address.file)!r}; run: {address.build_command}")

    def call(self, method: str, *arguments: Any, seconds: float | None = None, **named: Any) -> Any:
        """Return what a method of pymilvus' client gives; a collection that a restart has unloaded is loaded first.

        Raises:
            BackendUnavailable: the server does not answer in time, or did not within the last RETRY_SECONDS.
            BackendLoading: it is still loading the collection. NotOnMilvus: it has no such collection.
            CollectionError: it refuses what it was asked.
        """
        try:
            return self._try(method, *arguments, seconds=seconds, **named)
        except _NotLoaded:
            self._load(arguments[0], seconds)
            return self._try(method, *arguments, seconds=seconds, **named)

    def require_version(self) -> None:
        """Refuse a server that is too old for what we keep there, whatever else it can. Raises CollectionError.

        Milvus Lite, and who says no number, pass.
        """
        version = str(self.call("get_server_version"))
        number = re.search(r"(\d+)\.(\d+)", version)
        if version.startswith("milvus_lite") or number is None or tuple(map(int, number.groups())) >= LEAST_VERSION:
            return
        least = ".".join(map(str, LEAST_VERSION))
        raise CollectionError(
            f"expected Milvus {least} or later on {self._where}, got {version[:40]!r}, which keeps no nulls; nothing "
            "was created there; upgrade it"
        )

    def describe(self, name: str) -> dict[str, Any] | None:
        """Return what the server says of a collection or of what an alias stands for; None where there is neither."""
        try:
            description: dict[str, Any] = self.call("describe_collection", name)
        except NotOnMilvus:
            return None
        return description

    def close(self) -> None:
        """Let go of the connection; the next call makes another."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Raise our errors for those of pymilvus, as `call` does."""
        import grpc

        try:
            yield
        except self._pymilvus.MilvusException as error:
            raise self._refusal(error) from error
        except (grpc.RpcError, ValueError) as error:  # pymilvus lets both through; the latter for a closed channel
            if isinstance(error, CollectionError):
                raise
            self.close()
            raise self._lost(
                _said(error), Silence if isinstance(error, grpc.RpcError) else BackendUnavailable
            ) from error

    def _load(self, name: str, seconds: float | None) -> None:
        """Have a collection loaded; one caller waits for it, the others are refused at once. Raises BackendLoading."""
        loading = BackendLoading(f"Milvus on {self._where} is still loading {name!r}; try again in some seconds")
        if not self._loading.acquire(blocking=False):
            raise loading
        try:
            state = self._try("get_load_state", name, seconds=seconds)["state"]
            if state.name == "Loading":
                raise loading
            self._try("load_collection", name, seconds=seconds, _async=True)
            end = monotonic() + (seconds or self._patience)
            while self._try("get_load_state", name, seconds=seconds)["state"].name != "Loaded":
                if monotonic() > end:
                    raise loading
                sleep(_LOOK_SECONDS)
        finally:
            self._loading.release()

    def _try(self, method: str, *arguments: Any, seconds: float | None, **named: Any) -> Any:
        with self._availability.asking(), self.telling():
            return getattr(self._connected(), method)(*arguments, timeout=seconds or self._patience, **named)

    def _connected(self) -> Any:
        """Return the connection. Whoever waited while another failed to make it fails as well, at once."""
        began = monotonic()
        with self._lock:
            if self._client is None and self._failure is not None and self._failed_at > began:
                raise self._failure
            if self._client is None:
                try:
                    self._client = self._pymilvus.MilvusClient(
                        self.address.uri, token=self._token, timeout=self._patience, dedicated=self.address.file is None
                    )
                except self._pymilvus.MilvusException as error:
                    self._failure, self._failed_at = error, monotonic()
                    raise
            return self._client

    def _refusal(self, error: Any) -> CollectionError:
        if error.code in (_NOT_FOUND, _NO_ALIAS):
            return NotOnMilvus(
                f"no collection {self.address.collection!r} on {self._where}; run: {self.address.build_command}"
            )
        if error.code == _NOT_LOADED:
            return _NotLoaded(f"collection {self.address.collection!r} is not loaded")
        if error.code in _LOADING:
            return BackendLoading(
                f"Milvus on {self._where} is still loading {self.address.collection!r} ({_said(error)}); try again in "
                "some seconds"
            )
        if error.code in _BAD_REQUESTS or type(error).__name__ not in _LOST or getattr(error, "is_input_error", False):
            return CollectionError(f"Milvus on {self._where} does not take this: {_said(error)}")
        if not isinstance(error.code, int) or error.code == _NO_CONNECTION:
            self.close()
            return self._lost(_said(error), Silence)
        return self._lost(_said(error))

    def _lost(self, said: str, kind: type[BackendUnavailable] = BackendUnavailable) -> BackendUnavailable:
        if self.address.file is not None:
            return kind(
                f"{self._where} cannot be opened, or does not answer in time ({said}); Milvus Lite lets one "
                "process in at a time, reads no file of its versions before 3, and is for small collections"
            )
        return kind(
            f"Milvus on {self._where} does not answer ({said}); see that it runs and that the address "
            "and MILVUS_TOKEN are right, then try again"
        )

    @property
    def _patience(self) -> float:
        return CALL_SECONDS if self.address.file is None else FILE_SECONDS

    @property
    def _where(self) -> str:
        return self.address.uri if self.address.file is None else repr(str(self.address.file))


class _NotLoaded(CollectionError):
    """A collection that is there and not in the server's memory."""


def _pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError as error:
        raise CollectionError(
            "expected pymilvus to be installed for collections on Milvus; run: pip install 'cxr-precedent[milvus]'"
        ) from error
    for name in ("pymilvus", "milvus_lite", "grpc._server"):  # what they log, with tracebacks, is raised as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus


def _said(error: Any) -> str:
    """Return the first line of what pymilvus or gRPC says."""
    details = error.details() if hasattr(error, "details") else getattr(error, "message", "")
    return (str(details or error).splitlines() or [type(error).__name__])[0][:200]
