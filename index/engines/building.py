"""What a build on a server begins with and ends in, whichever engine it fills."""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from index.built.kinds import resolve_kind
from index.engines.address import ServerAddress
from index.engines.columns import KEY, Columns
from index.engines.manifest import FILMS_ORIGIN, VERSION, format_of
from index.errors import CollectionError
from index.export.reliability import kept_facts
from index.export.shards import FAILED, load_layouts, load_manifest
from index.storage.origin import is_root_ours, origin_of, rooted

SAMPLE = 1000
"""About so many studies stand for the collection where a new film's familiarity is judged; they are marked."""


def export_to_build(embeddings: Path, kind: str, kinds: Sequence[str], engine: str) -> tuple[dict[str, Any], str]:
    """Return the manifest of an export and the kind of index to make of it.

    Args:
        kind: auto, or of `kinds`: flat, and the engine's approximate one.

    Raises:
        ArtefactError: the export is unfinished. CollectionError: it is empty, or the kind is unknown.
    """
    export = load_manifest(embeddings)
    if not export["rows"]:
        raise CollectionError(f"{str(embeddings)!r} holds no embedded study; see its {FAILED}")
    if kind not in ("auto", *kinds):
        raise CollectionError(f"expected an index kind of auto, {', '.join(kinds)} on {engine}, got {kind!r}")
    flat, approximate = kinds
    return export, flat if resolve_kind(kind, export["rows"]) == flat else approximate


def name_of(address: ServerAddress, export: Mapping[str, Any], kind: str) -> str:
    """Return the name of what is built: that of its content, so that the same command goes on with it."""
    shards = [shard["sha256"] for shard in export["shards"]]
    content = json.dumps([format_of(address), VERSION, kind, export["fingerprint"], shards, export.get("image_root")])
    return f"{address.collection}_{sha256(content.encode()).hexdigest()[:12]}"


def manifest_for(
    address: ServerAddress,
    embeddings: Path,
    export: Mapping[str, Any],
    columns: Columns,
    **facts: Any,
) -> dict[str, Any]:
    """Return what a finished collection says of itself: what all say, and the facts of this one."""
    films = secrets.token_hex(8)
    manifest = {
        "format": format_of(address),
        "version": VERSION,
        "address": address.collection,
        "precision": "fp32",
        "rows": export["rows"],
        "embedding_dim": export["embedding_dim"],
        "fingerprint": export["fingerprint"],
        "image_root": export.get("image_root"),
        "films": films,
        FILMS_ORIGIN: origin_of(address, films),
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "columns": columns.as_json(),
        **facts,
    }
    manifest |= kept_facts(dict(export))
    return manifest | (rooted(address, manifest) if is_root_ours(embeddings, export) else {})


class Marked:
    """The studies of an export that stand for it, and the layouts of their films, where the export has any."""

    def __init__(self, embeddings: Path, count: int) -> None:
        """Take the number of studies of the export."""
        self._count, self._layouts = count, dict[str, list[bytes]]()
        table = load_layouts(embeddings)
        if table is not None:
            ids = table[KEY].to_pylist()
            rows = [row for row, study_id in enumerate(ids) if study_id in self]
            layouts_of = table["layouts"].take(pa.array(rows, pa.int64())).to_pylist()
            self._layouts = {ids[row]: layouts or [] for row, layouts in zip(rows, layouts_of, strict=True)}

    def __contains__(self, study_id: str) -> bool:
        """A study's id decides, as if by chance: the same studies are marked however often a build is begun."""
        return int.from_bytes(sha256(study_id.encode()).digest()[:8]) < 2**64 * SAMPLE // max(self._count, SAMPLE)

    def sample_of(self, study_id: str) -> str | None:
        """Return what is kept of a marked study: the layouts of its films as text; None of others."""
        if study_id not in self:
            return None
        return " ".join(base64.b64encode(layout).decode() for layout in self._layouts.get(study_id, []))
