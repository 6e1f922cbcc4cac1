"""The properties of a collection on Milvus, which say how it was built and whether it is complete."""

import json
from collections.abc import Mapping
from typing import Any

from index.errors import ArtefactError

FORMAT = "precedent-milvus"
VERSION = 1
MANIFEST = "precedent.manifest"
"""Written when all studies are there and indexed."""
BUILDING = "precedent.building"
"""How many shards are wholly inserted."""
FILMS_ORIGIN = "films_origin"
"""Key of the manifest under which it tells where the folder of added films was named."""
CHANGED = "precedent.changed"
"""Whether studies were added or deleted since it was built."""


CONSISTENCY = "consistency"
"""Key of the manifest under which it tells which of CONSISTENCIES its searches have."""
CONSISTENCIES = {"session": "Session", "strong": "Strong"}
"""What Milvus calls ours. session: a process finds its own changes at once and those of others within some seconds;
strong: all changes at once, for which every search waits until all of Milvus has caught up."""
_KINDS = {
    "fingerprint": str,
    "embedding_dim": int,
    "columns": list,
    "kind": str,
    "rows": int,
    "lists": int,
    "probes": int,
    "reading": int,
}


def property_of(described: Mapping[str, Any], name: str) -> Any:
    """Return the JSON value of a collection's property; None without one. Raises ArtefactError: it is not JSON."""
    text = (described.get("properties") or {}).get(name)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise ArtefactError(
            f"collection {described.get('collection_name')!r} has a {name} that Precedent did not write; index it anew"
        ) from error


def manifest_of(described: Mapping[str, Any], address: object) -> dict[str, Any]:
    """Return the manifest of a whole collection of ours.

    Raises:
        ArtefactError: it is half filled, of another version, or not ours.
    """
    stored = property_of(described, MANIFEST)
    remedy = f"run: precedent index EMBEDDINGS --backend milvus --uri {address}"
    if stored is None and property_of(described, BUILDING) is not None:
        raise ArtefactError(f"{str(address)!r} is half filled; run the same precedent index command again to continue")
    if not isinstance(stored, dict) or stored.get("format") != FORMAT or stored.get("version") != VERSION:
        raise ArtefactError(f"{str(address)!r} is no collection of Precedent of version {VERSION}; {remedy}")
    manifest = {"reading": 1} | stored  # collections from before there was a second
    if not all(isinstance(manifest.get(name), kind) for name, kind in _KINDS.items()):
        raise ArtefactError(f"{str(address)!r} has a manifest that Precedent did not write; {remedy}")
    return stored


def consistency_of(manifest: Mapping[str, Any]) -> str:
    """Return which of CONSISTENCIES a collection's searches have; those that say none were made strong."""
    level = manifest.get(CONSISTENCY)
    return level if level in CONSISTENCIES else "strong"
