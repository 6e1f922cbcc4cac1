"""A collection by its address: a folder, an address that files lie behind, or one on a server."""

from pathlib import Path
from typing import Any

from index.engines.address import ServerAddress
from index.engines.collection import EngineCollection
from index.engines.verification import verify_on_server
from index.errors import NoGpu
from index.living.additions import Writable
from index.living.collection import LivingCollection
from index.living.verification import Verdict, verify
from index.milvus.address import MilvusAddress, is_milvus, parse_milvus
from index.postgres.address import PostgresAddress, is_postgres, parse_postgres
from index.storage.places import place

Address = Path | MilvusAddress | PostgresAddress


def address_of(text: str) -> Address:
    """Return where a text points. Raises CollectionError: it points nowhere."""
    return parse_server(text) if is_on_server(text) else place(text)


def is_on_server(text: str) -> bool:
    """Return whether a text means a collection that a database server keeps."""
    return is_milvus(text) or is_postgres(text)


def parse_server(text: str) -> MilvusAddress | PostgresAddress:
    """Return what the address of a collection on a server means. Raises CollectionError: it is none."""
    return parse_postgres(text) if is_postgres(text) else parse_milvus(text)


def open_collection(address: Address, token: str = "", device: str = "cpu") -> Writable:
    """Return the collection at an address, to be searched and changed.

    Args:
        token: for a Milvus server that asks for one.
        device: what the vectors of a folder are searched on, of `index.built.gpu.DEVICES`.

    Raises:
        ArtefactError: none is there, or it is damaged or half filled. BackendUnavailable: its server does not answer.
        NoGpu: one is asked for and cannot be had. CollectionError: what a server needs is not installed.
    """
    if not isinstance(address, ServerAddress):
        return LivingCollection(address, device)
    if device == "gpu":
        raise NoGpu(
            f"expected an index in a folder for a GPU, got one on {address.engine}, which searches it itself; leave it "
            "out"
        )
    return _open_on_server(address, token)


def verify_collection(
    address: Address, image_root: Path | None = None, *, token: str = "", trusted: bool = False
) -> Verdict:
    """Return what is wrong with the collection at an address, after reading all of it; arguments as of `verify`."""
    if not isinstance(address, ServerAddress):
        return verify(address, image_root, trusted=trusted)
    return verify_on_server(_open_on_server(address, token), image_root, trusted=trusted)


def _open_on_server(address: MilvusAddress | PostgresAddress, token: str) -> EngineCollection[Any]:
    """Return what is at an address of a server; what an engine needs is imported for that engine alone."""
    if isinstance(address, PostgresAddress):
        from index.postgres.collection import PostgresCollection

        return PostgresCollection(address)
    from index.milvus.collection import MilvusCollection

    return MilvusCollection(address, token)
