"""What a collection on a server says of itself: how it was built, and that it is complete."""

from collections.abc import Mapping
from typing import Any

from index.engines.address import ServerAddress
from index.errors import ArtefactError

VERSION = 1
FILMS_ORIGIN = "films_origin"
"""Key of the manifest under which it tells where the folder of added films was named."""
_KINDS = {"fingerprint": str, "embedding_dim": int, "columns": list, "kind": str, "rows": int, "reading": int}


class NotThere(ArtefactError):
    """A collection that the server does not have."""


def require_manifest(stored: Any, address: ServerAddress, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return the manifest of a whole collection of ours.

    Args:
        stored: what the server keeps as one.
        kinds: the types of what the engine says beside what all say.

    Raises:
        ArtefactError: it is of another version, or not ours.
    """
    remedy = f"run: {address.build_command}"
    if not isinstance(stored, dict) or stored.get("format") != format_of(address) or stored.get("version") != VERSION:
        raise ArtefactError(f"{str(address)!r} is no collection of Precedent of version {VERSION}; {remedy}")
    manifest = {"reading": 1} | stored  # collections from before there was a second
    if not all(isinstance(manifest.get(name), kind) for name, kind in (_KINDS | dict(kinds)).items()):
        raise ArtefactError(f"{str(address)!r} has a manifest that Precedent did not write; {remedy}")
    return stored


def format_of(address: ServerAddress) -> str:
    """Return what a manifest there calls itself."""
    return f"precedent-{address.backend}"
