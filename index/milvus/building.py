"""A collection on Milvus, filled from an export a shard at a time and put in the place of the one before.

What it is made of names it, its manifest is written last and the alias is moved after that, so a killed build goes on
where it stopped and no search ever sees half of one.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from index.built.effort import lists_of
from index.engines.building import Marked, export_to_build, manifest_for, name_of
from index.engines.columns import KEY, VECTOR
from index.errors import ArtefactError, CollectionError
from index.export.shards import load_shards
from index.milvus.address import MilvusAddress
from index.milvus.client import BUILD_SECONDS, MilvusServer
from index.milvus.columns import Fields
from index.milvus.manifest import (
    BUILDING,
    CHANGED,
    CONSISTENCIES,
    CONSISTENCY,
    MANIFEST,
    consistency_of,
    property_of,
)
from index.milvus.recall import with_enough_probes
from index.vectors import Embeddings

KINDS = {"flat": "FLAT", "ivf": "IVF_FLAT"}
"""What our kinds are called there. Of its approximate ones the inverted file alone keeps whole vectors and can be told
to compare all of them, as an exact search must; a graph cannot."""
_LEAST_LISTS = 128
"""What Milvus Lite makes of any number; fewer could not be distinguished from all."""
_ROWS_A_CALL = 500
"""One of 512 dimensions and a study's columns is some 3 kB; Milvus takes 64 MB a call."""


def build_on_milvus(
    embeddings: Path,
    address: MilvusAddress,
    *,
    token: str = "",
    kind: str = "auto",
    consistency: str = "session",
    drop_old: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> dict[str, Any]:
    """Fill a collection from an export, point the address to it and return its manifest.

    Args:
        kind: auto, or of KINDS.
        consistency: of CONSISTENCIES: of which changes a search is sure to know. A collection that is there takes it.
        drop_old: remove what the address meant before, and what it meant before that.
        advance: called with the number of rows that were added, for a progress bar.

    Raises:
        ArtefactError: the export is unfinished or has changed. CollectionError: it is empty, the kind or consistency
            is unknown, the server is too old, or the address means something else. BackendUnavailable: the server was
            lost; the same call goes on.
    """
    export, kind = export_to_build(embeddings, kind, tuple(KINDS), address.engine)
    if consistency not in CONSISTENCIES:
        raise CollectionError(f"expected a consistency of {', '.join(CONSISTENCIES)}, got {consistency!r}")
    server = MilvusServer(address, token, make=True)
    server.require_version()
    name = name_of(address, export, kind)
    _require_no_changes(server, name)
    described = server.describe(name)
    manifest = None if described is None else property_of(described, MANIFEST)
    if manifest is None:
        manifest = _fill(server, name, described, embeddings, export, kind, advance, consistency)
    elif consistency_of(manifest) != consistency:
        manifest |= {CONSISTENCY: consistency}
        _write(server, name, {MANIFEST: manifest})
    _mean(server, name)
    if drop_old:
        _drop_others(server, name)
    return manifest


def _require_no_changes(server: MilvusServer, name: str) -> None:
    """Refuse to put an export in the place of studies that no export holds, or of a collection that is not ours."""
    address, meant = server.address, server.describe(server.address.collection)
    if meant is None or meant["collection_name"] == name:
        return
    if meant["collection_name"] == address.collection:
        raise CollectionError(
            f"{address.collection!r} is already a collection there that Precedent did not make; give another name at "
            "the end"
        )
    if property_of(meant, CHANGED):
        raise CollectionError(
            f"studies were added to or deleted from {str(address)!r} after it was built, of which an export knows "
            "nothing; give another name, or drop that collection in Milvus to discard those changes"
        )


def _fill(
    server: MilvusServer,
    name: str,
    described: dict[str, Any] | None,
    embeddings: Path,
    export: dict[str, Any],
    kind: str,
    advance: Callable[[int], object],
    consistency: str,
) -> dict[str, Any]:
    """Insert what is not there yet, index it, and write the manifest."""
    marked = Marked(embeddings, export["rows"])
    done = 0 if described is None else int(property_of(described, BUILDING) or 0)
    columns: Fields | None = None
    for number, (studies, vectors) in enumerate(load_shards(embeddings)):
        columns = columns or Fields(studies.schema.remove_metadata())
        if described is None:
            described = _create(server, name, columns, export["embedding_dim"], kind, consistency)
        if number >= done:
            for rows in _entities(columns, studies, vectors, marked):
                server.call("upsert", name, rows)
                advance(len(rows))
            _write(server, name, {BUILDING: number + 1})
        else:
            advance(len(studies))
    assert columns is not None  # an empty export is refused before
    return _finish(server, name, columns, embeddings, export, kind, consistency)


def _create(
    server: MilvusServer, name: str, columns: Fields, embedding_dim: int, kind: str, consistency: str
) -> dict[str, Any]:
    import pymilvus

    schema = columns.as_collection(pymilvus, embedding_dim)
    server.call(
        "create_collection",
        name,
        schema=schema,
        consistency_level=CONSISTENCIES[consistency],
        properties={BUILDING: "0"},
    )
    return {"collection_name": name, "kind": kind}


def _entities(
    columns: Fields, studies: pa.Table, vectors: Embeddings, marked: Marked
) -> Iterator[list[dict[str, Any]]]:
    """Yield the studies of a shard as Milvus keeps them, so many at a time."""
    for start in range(0, len(studies), _ROWS_A_CALL):
        rows = studies.slice(start, _ROWS_A_CALL).to_pylist()
        yield [
            columns.as_entity(row, vector, marked.sample_of(row[KEY]))
            for row, vector in zip(rows, vectors[start : start + _ROWS_A_CALL], strict=True)
        ]


def _finish(
    server: MilvusServer,
    name: str,
    columns: Fields,
    embeddings: Path,
    export: dict[str, Any],
    kind: str,
    consistency: str,
) -> dict[str, Any]:
    server.call("flush", name, seconds=BUILD_SECONDS)
    lists = max(lists_of(export["rows"]), _LEAST_LISTS)
    if not server.call("list_indexes", name):  # a build that was killed may have come so far
        server.call("create_index", name, _index_params(kind, lists), seconds=BUILD_SECONDS)
    server.call("load_collection", name, seconds=BUILD_SECONDS)
    rows = server.call("query", name, filter="", output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"]
    if rows != export["rows"]:
        raise ArtefactError(
            f"{name!r} holds {rows:,} studies, expected {export['rows']:,}: another build is writing it; "
            "try again when it has finished"
        )
    probes, recall = with_enough_probes(server, name, rows, lists) if kind == "ivf" else (0, 1.0)
    facts = {"kind": kind, "lists": lists, "probes": probes, "recall_at_10": recall, CONSISTENCY: consistency}
    manifest = manifest_for(server.address, embeddings, export, columns, **facts)
    _write(server, name, {MANIFEST: manifest})
    return manifest


def _index_params(kind: str, lists: int) -> Any:
    import pymilvus

    params = pymilvus.MilvusClient.prepare_index_params()
    extra = {"nlist": lists} if kind == "ivf" else {}
    params.add_index(VECTOR, index_type=KINDS[kind], metric_type="IP", params=extra)
    return params


def _write(server: MilvusServer, name: str, facts: dict[str, Any]) -> None:
    server.call("alter_collection_properties", name, {key: json.dumps(fact) for key, fact in facts.items()})


def _mean(server: MilvusServer, name: str) -> None:
    """Let the address mean the collection of that name; a search sees the one before or this one."""
    alias = server.address.collection
    meant = server.describe(alias)
    if meant is None:
        server.call("create_alias", name, alias)
    elif meant["collection_name"] != name:
        server.call("alter_alias", name, alias)


def _drop_others(server: MilvusServer, name: str) -> None:
    for other in server.call("list_collections"):
        if other != name and other.startswith(f"{server.address.collection}_"):
            manifest = property_of(server.describe(other) or {}, MANIFEST)
            if manifest and manifest["address"] == server.address.collection:
                server.call("drop_collection", other)
