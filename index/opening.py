"""A collection by its address: a folder, an address that files lie behind, or one on Milvus."""

from pathlib import Path

from index.errors import NoGpu
from index.living.additions import Writable
from index.living.collection import LivingCollection
from index.milvus.address import MilvusAddress, is_milvus, parse_milvus
from index.storage.places import place

Address = Path | MilvusAddress


def address_of(text: str) -> Address:
    """Return where a text points. Raises CollectionError: it points nowhere."""
    return parse_milvus(text) if is_milvus(text) else place(text)


def open_collection(address: Address, token: str = "", device: str = "cpu") -> Writable:
    """Return the collection at an address, to be searched and changed.

    Args:
        token: for a Milvus server that asks for one.
        device: what the vectors of a folder are searched on, of `index.built.gpu.DEVICES`.

    Raises:
        ArtefactError: none is there, or it is damaged or half filled. BackendUnavailable: its server does not answer.
        NoGpu: one is asked for and cannot be had.
    """
    if not isinstance(address, MilvusAddress):
        return LivingCollection(address, device)
    if device == "gpu":
        raise NoGpu(
            "expected an index in a folder for a GPU, got one on Milvus, which searches it itself; leave it out"
        )
    from index.milvus.collection import MilvusCollection  # nothing of it is needed for a folder

    return MilvusCollection(address, token)
