"""Collections as the command line names them: a folder, or an address.

Reads the token of a Milvus server from the environment.
"""

import os
from collections.abc import Callable
from typing import Any

import click

from index.built.gpu import DEVICES
from index.engines.address import ServerAddress
from index.errors import CollectionError
from index.living.additions import Writable
from index.opening import Address, address_of, open_collection


class CollectionAddress(click.ParamType):
    """A folder, s3://BUCKET/INDEX, milvus+http://HOST:PORT/COLLECTION, or postgresql://HOST/DATABASE/COLLECTION."""

    name = "index"

    def __init__(self, instead: str | None = None) -> None:
        """Take all addresses; or none on a server, where `instead` says what to do in place of this."""
        self._instead = instead

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Return the address, which is about to be read. Raises CollectionError: it is none, or one not taken here."""
        address: Address = address_of(value) if isinstance(value, str) else value
        if self._instead is not None and isinstance(address, ServerAddress):
            raise CollectionError(f"expected an index in a folder, got one on {address.engine}; {self._instead}")
        return address


trust_option = click.option(
    "--trust-collection",
    "trusted",
    is_flag=True,
    help="Use the image root stored in INDEX even where INDEX was made on another machine or by another user.",
)


def token() -> str:
    """Return the token of Milvus servers, "" where none is set."""
    return os.environ.get("MILVUS_TOKEN", "")


def device_option(default: str, help: str) -> Callable[[Any], Any]:
    """Return the option `--device`: what FAISS runs on."""
    return click.option(
        "--device",
        type=click.Choice(DEVICES),
        default=default,
        show_default=True,
        help=f"{help} auto: a GPU that fits.",
    )


def opened(address: Address, device: str = "cpu") -> Writable:
    """Return the collection at an address. Raises what `open_collection` does."""
    return open_collection(address, token(), device)
