"""Addresses of collections on Milvus: a server's, or a file's that Milvus Lite keeps."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from index.engines.address import ServerAddress
from index.errors import CollectionError

SCHEME = "milvus+"
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_EXPECTED = "milvus+http://HOST:19530/COLLECTION, or milvus+file:///FOLDER/NAME.db/COLLECTION for Milvus Lite"


@dataclass(frozen=True)
class MilvusAddress(ServerAddress):
    """Where a collection is."""

    engine: ClassVar[str] = "Milvus"
    backend: ClassVar[str] = "milvus"

    uri: str
    """As pymilvus wants it: http://HOST:PORT, https://HOST:PORT, or the path of a file."""
    collection: str
    """The name that searches ask by, an alias of what was built last."""
    file: Path | None = None
    """Of Milvus Lite."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.uri if self.file is None else self.file.as_uri()}/{self.collection}"


def is_milvus(text: str) -> bool:
    """Return whether a text means a collection on Milvus."""
    return text.startswith(SCHEME)


def parse_milvus(text: str) -> MilvusAddress:
    """Return what an address means, `milvus+` before it or not.

    Raises:
        CollectionError: it is none, or holds a password.
    """
    if set(text) & set("@?#"):  # wherever it stands, what is beside it may be secret
        raise CollectionError("expected an address without a password or query; put the token into MILVUS_TOKEN")
    try:
        parts = urlsplit(text.removeprefix(SCHEME))
        server, path = parts.netloc, parts.path
        valid = parts.port is None or parts.port > 0
    except ValueError:
        raise CollectionError(f"expected an address such as {_EXPECTED}, got {text!r}") from None
    where, _, collection = path.rpartition("/")
    if valid and _COLLECTION.fullmatch(collection):
        if parts.scheme in ("http", "https") and parts.hostname and not where:
            return MilvusAddress(f"{parts.scheme}://{server}", collection)
        if parts.scheme == "file" and not server and where.endswith(".db"):
            file = Path(where).absolute()
            return MilvusAddress(str(file), collection, file)
    raise CollectionError(f"expected an address such as {_EXPECTED}, got {text!r}")
