"""The one way to a Milvus server: bounded calls, connected again after a loss, refused in our sentences.

Knows pymilvus, which is imported when it is first needed; it must not know studies.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from index.errors import ArtefactError, BackendUnavailable, CollectionError
from index.milvus.address import MilvusAddress

CALL_SECONDS = 10.0
"""That a call to a server may take, its repetitions included."""
FILE_SECONDS = 60.0
"""That a call to Milvus Lite may take, which counts what passes a filter by reading all of it."""
BUILD_SECONDS = 3600.0
"""That Milvus may take to index or load what was inserted."""
_NO_CONNECTION, _NOT_FOUND, _NOT_LOADED, _NO_ALIAS = 2, 100, 101, 1600
_BAD_REQUESTS = (5, 6, 1100, 1101)
"""Codes for what Milvus does not take, however often it is asked."""


class NotOnMilvus(ArtefactError):
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
        self._pymilvus = _pymilvus()
        if address.file is not None and not (address.file.exists() or make):
            raise NotOnMilvus(
                f"no file {str(address.file)!r}; run: precedent index EMBEDDINGS --backend milvus --uri URI"
            )

    def call(self, method: str, *arguments: Any, seconds: float | None = None, **named: Any) -> Any:
        """Return what a method of pymilvus' client gives; a collection that a restart has unloaded is loaded first.

        Raises:
            BackendUnavailable: the server does not answer in time. NotOnMilvus: it has no such collection.
            CollectionError: it refuses what it was asked.
        """
        try:
            return self._try(method, *arguments, seconds=seconds, **named)
        except _NotLoaded:
            self._try("load_collection", arguments[0], seconds=seconds)
            return self._try(method, *arguments, seconds=seconds, **named)

    def describe(self, name: str) -> dict[str, Any] | None:
        """Return what the server says of a collection or of what an alias stands for; None where there is neither."""
        try:
            found: dict[str, Any] = self.call("describe_collection", name)
        except NotOnMilvus:
            return None
        return found

    def close(self) -> None:
        """Let go of the connection; the next call makes another."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Say in our words what pymilvus raises within; as `call` does."""
        import grpc

        try:
            yield
        except self._pymilvus.MilvusException as error:
            raise self._told(error) from error
        except (grpc.RpcError, ValueError) as error:  # pymilvus lets both through; the latter for a closed channel
            if isinstance(error, CollectionError):
                raise
            self.close()
            raise self._lost(error) from error

    def _try(self, method: str, *arguments: Any, seconds: float | None, **named: Any) -> Any:
        with self.telling():
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

    def _told(self, error: Any) -> CollectionError:
        if error.code in (_NOT_FOUND, _NO_ALIAS):
            return NotOnMilvus(
                f"no collection {self.address.collection!r} on {self._where}; run: precedent index EMBEDDINGS "
                f"--backend milvus --uri {self.address}"
            )
        if error.code == _NOT_LOADED:
            return _NotLoaded(f"collection {self.address.collection!r} is not loaded")
        if error.code in _BAD_REQUESTS:
            return CollectionError(f"Milvus on {self._where} does not take this: {error.message}")
        if not isinstance(error.code, int) or error.code == _NO_CONNECTION:
            self.close()
        return self._lost(error)

    def _lost(self, error: BaseException) -> BackendUnavailable:
        if self.address.file is not None:
            return BackendUnavailable(
                f"{self._where} cannot be opened, or does not answer in time ({_said(error)}); Milvus Lite lets one "
                "process in at a time, reads no file of its versions before 3, and is for small collections"
            )
        return BackendUnavailable(
            f"Milvus on {self._where} does not answer ({_said(error)}); see that it runs and that the address "
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
