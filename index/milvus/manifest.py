"""The properties of a collection on Milvus, which say how it was built and whether it is complete."""

import json
from collections.abc import Mapping
from typing import Any

from index.engines.manifest import require_manifest
from index.errors import ArtefactError
from index.milvus.address import MilvusAddress

MANIFEST = "precedent.manifest"
"""Written when all studies are there and indexed."""
BUILDING = "precedent.building"
"""How many shards are wholly inserted."""
CHANGED = "precedent.changed"
"""Whether studies were added or deleted since it was built."""
CONSISTENCY = "consistency"
"""Key of the manifest under which it tells which of CONSISTENCIES its searches have."""
CONSISTENCIES = {"session": "Session", "strong": "Strong"}
"""What Milvus calls ours. session: a process finds its own changes at once and those of others within some seconds;
strong: all changes at once, for which every search waits until all of Milvus has caught up."""
_KINDS = {"lists": int, "probes": int}


def property_of(described: Mapping[str, Any], name: str) -> Any:
    """Return the JSON value of a collection's property; None without one. Raises ArtefactError: it is not JSON."""
    text = (described.get("properties") or {}).get(name)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise ArtefactError(
            f"collection {described.get('collection_name')!r} has a {name} that Precedent did not write; index it anew"
        ) from error


def manifest_of(described: Mapping[str, Any], address: MilvusAddress) -> dict[str, Any]:
    """Return the manifest of a whole collection of ours.

    Raises:
        ArtefactError: it is half filled, of another version, or not ours.
    """
    stored = property_of(described, MANIFEST)
    if stored is None and property_of(described, BUILDING) is not None:
        raise ArtefactError(f"{str(address)!r} is half filled; run the same precedent index command again to continue")
    return require_manifest(stored, address, _KINDS)


def consistency_of(manifest: Mapping[str, Any]) -> str:
    """Return which of CONSISTENCIES a collection's searches have; those that say none were made strong."""
    level = manifest.get(CONSISTENCY)
    return level if level in CONSISTENCIES else "strong"
