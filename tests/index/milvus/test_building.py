"""A collection on Milvus is filled: how a killed build goes on, how a swap is seen, what is left alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from export_files import save_export
from milvus_world import COUNT, collection_of
from unit_vectors_world import DIM, retriever_of

from index.built.collection import build_collection
from index.engines.verification import verify_on_server
from index.errors import (
    ArtefactError,
    CollectionError,
)
from index.export.shards import ExportPlan, ShardFolder
from index.living.collection import LivingCollection
from index.milvus import columns
from index.milvus.address import MilvusAddress
from index.milvus.building import build_on_milvus
from index.milvus.client import MilvusServer
from index.milvus.collection import MilvusCollection
from index.vectors import Embeddings


class Killed(Exception):
    """What a kill is like to the code that it ends."""


def held(address: MilvusAddress) -> list[str]:
    """Return the names of what was built for an address."""
    names = MilvusServer(address).call("list_collections")
    return [name for name in names if name.startswith(address.collection)]


def test_a_build_that_was_killed_goes_on_where_it_stopped(
    tmp_path: Path, address: MilvusAddress, studies: pa.Table, vectors: Embeddings
) -> None:
    export = save_export(tmp_path / "export", studies, vectors)
    steps: list[int] = []

    def advance(rows: int) -> None:
        steps.append(rows)
        if len(steps) == 2:
            raise Killed

    with pytest.raises(Killed):
        build_on_milvus(export, address, advance=advance)
    (half,) = held(address)
    with pytest.raises(ArtefactError, match=r"no collection .*run: precedent index"):
        MilvusCollection(address)
    with pytest.raises(ArtefactError, match="half filled; run the same precedent index command again"):
        MilvusCollection(replace(address, collection=half))

    build_on_milvus(export, address)

    whole = MilvusCollection(address)
    assert whole.search(vectors[0], COUNT) == retriever_of(studies, vectors).search(vectors[0], COUNT)
    assert verify_on_server(whole).faults == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "last", ["create_collection", "flush", "create_index", "alter_collection_properties", "create_alias"]
)
def test_a_build_that_was_killed_between_any_two_steps_goes_on(
    last: str,
    tmp_path: Path,
    address: MilvusAddress,
    studies: pa.Table,
    vectors: Embeddings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export, call = save_export(tmp_path / "export", studies, vectors), MilvusServer.call

    def killed(server: MilvusServer, method: str, *arguments: Any, **named: Any) -> Any:
        found = call(server, method, *arguments, **named)
        if method == last:
            raise Killed
        return found

    with monkeypatch.context() as patch:
        patch.setattr(MilvusServer, "call", killed)
        with pytest.raises(Killed):
            build_on_milvus(export, address)
    build_on_milvus(export, address)

    assert verify_on_server(MilvusCollection(address)).faults == []


def test_building_again_keeps_what_was_added(tmp_path: Path, collection: MilvusCollection) -> None:
    collection.delete([_first(collection)])

    build_on_milvus(tmp_path / "export", collection.address)

    assert len(MilvusCollection(collection.address)) == COUNT - 1


def test_a_swap_is_seen_by_who_opens_it_anew_and_by_nobody_else(
    tmp_path: Path, collection: MilvusCollection, studies: pa.Table, vectors: Embeddings
) -> None:
    fewer = save_export(tmp_path / "fewer", studies.slice(0, 9), vectors[:9])

    build_on_milvus(fewer, collection.address)
    assert (len(collection), len(MilvusCollection(collection.address))) == (COUNT, 9)

    build_on_milvus(fewer, collection.address, drop_old=True)
    assert len(held(collection.address)) == 1
    with pytest.raises(ArtefactError, match="no collection"):
        collection.search(vectors[0])


def test_an_export_never_takes_the_place_of_studies_that_were_added(
    tmp_path: Path, collection: MilvusCollection, studies: pa.Table, vectors: Embeddings
) -> None:
    collection.delete([_first(collection)])
    fewer = save_export(tmp_path / "fewer", studies.slice(0, 9), vectors[:9])

    with pytest.raises(CollectionError, match="studies were added to or deleted from"):
        build_on_milvus(fewer, collection.address)
    assert len(MilvusCollection(collection.address)) == COUNT - 1


def test_columns_beyond_what_milvus_types_become_dynamic_fields(
    tmp_path: Path, address: MilvusAddress, studies: pa.Table, vectors: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "MOST_FIELDS", 12)
    found, memory = collection_of(address, tmp_path, studies, vectors), retriever_of(studies, vectors)

    for where in (
        {"must": [{"key": "count(*)", "match": {"any": [255, None]}}]},
        {"must_not": [{"key": "Etiology", "match": {"any": ["null", None]}}, {"key": "dose", "range": {"gt": 0}}]},
        {"should": [{"key": "not in", "range": {"gte": -1, "lt": 7}}, {"key": "Etiology", "match": {"value": ""}}]},
    ):
        assert found.search(vectors[1], COUNT, where=where) == memory.search(vectors[1], COUNT, where=where)
    assert verify_on_server(found).faults == []


def test_an_inverted_file_answers_exactly_where_it_is_asked_to(
    tmp_path: Path, address: MilvusAddress, studies: pa.Table, vectors: Embeddings
) -> None:
    found, memory = collection_of(address, tmp_path, studies, vectors, kind="ivf"), retriever_of(studies, vectors)

    assert (found.manifest["kind"], found.manifest["lists"]) == ("ivf", 128)
    assert found.manifest["recall_at_10"] >= 0.99
    assert found.search(vectors[0], 5, exact=True) == memory.search(vectors[0], 5)
    assert not found.search(vectors[0], 1).exact


def test_films_are_judged_by_the_layouts_of_the_export_as_in_a_folder(
    tmp_path: Path, address: MilvusAddress, studies: pa.Table, vectors: Embeddings, rng: np.random.Generator
) -> None:
    shards = ShardFolder(tmp_path / "export", ExportPlan("f" * 64, DIM, "0" * 64, COUNT, COUNT))
    layouts = [[rng.integers(-128, 127, 64).astype(np.int8).tobytes()] * (1 + row % 2) for row in range(COUNT)]
    shards.save_shard(0, studies, [["frontal"]] * COUNT, vectors, [], layouts)
    shards.finish(image_root="")
    build_collection(tmp_path / "export", tmp_path / "index")
    build_on_milvus(tmp_path / "export", address)

    ours, theirs = LivingCollection(tmp_path / "index").gate().layouts, MilvusCollection(address).gate().layouts

    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(theirs.distances, ours.distances, rtol=1e-4)


def test_a_collection_of_somebody_else_is_left_alone(tmp_path: Path, collection: MilvusCollection) -> None:
    server = MilvusServer(collection.address)
    theirs = replace(collection.address, collection="theirs")
    server.call("create_collection", "theirs", dimension=4)

    with pytest.raises(ArtefactError, match="no collection of Precedent"):
        MilvusCollection(theirs)
    with pytest.raises(CollectionError, match="is already a collection there that Precedent did not make"):
        build_on_milvus(tmp_path / "export", theirs)


def _first(collection: MilvusCollection) -> str:
    row, _, _ = next(iter(collection.entities()))
    return str(row["study_id"])
