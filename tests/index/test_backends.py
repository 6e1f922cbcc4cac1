"""The same questions to every backend: in memory, a folder that lives, the same on a GPU, a file of Milvus Lite, and a real
PostgreSQL.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from gpu_world import play_gpu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from milvus_world import HOSTILE, address_in, collection_of, hostile_studies, tied_vectors
from postgres_world import Postgres, postgres_of
from unit_vectors_world import DIM

from index.built.collection import build_collection, load_collection
from index.errors import CollectionError, FilterError, StudyNotFound, VectorsError
from index.living.additions import Writable
from index.living.collection import LivingCollection
from index.milvus.collection import MilvusCollection
from index.postgres.building import build_on_postgres
from index.postgres.collection import PostgresCollection
from index.search.retriever import Retriever
from index.search.searchable import Searchable
from index.table.filters import filter_mask
from index.vectors import Embeddings

BACKENDS = ("folder", "gpu", "milvus", "postgres", "graph")
ENGINES = ("milvus", "postgres")


class World(NamedTuple):
    """The same studies everywhere."""

    memory: Retriever
    folder: LivingCollection
    gpu: LivingCollection
    """What plays the GPU is on the processor, and rounds and disregards filters as one does."""
    milvus: MilvusCollection
    postgres: PostgresCollection
    graph: PostgresCollection
    """The same with pgvector's graph, which few studies are not looked up in."""
    studies: pa.Table
    vectors: Embeddings


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[World]:
    """Yield 150 studies with hostile texts and tied vectors, in memory and in every backend."""
    rng = np.random.default_rng(7)
    studies, vectors = hostile_studies(rng, 150), tied_vectors(rng, 150)
    folder = tmp_path_factory.mktemp("backends")
    milvus = collection_of(address_in(folder), folder, studies, vectors)
    build_collection(folder / "export", folder / "index")
    living = LivingCollection(folder / "index")
    built = load_collection(folder / "index")
    with pytest.MonkeyPatch.context() as patch:
        play_gpu(patch)
        on_gpu = LivingCollection(folder / "index", "gpu")
    table = postgres_of(postgres.address(), folder, studies, vectors)
    build_on_postgres(folder / "export", postgres.address("graph"), kind="hnsw")
    graph = PostgresCollection(postgres.address("graph"))
    yield World(Retriever(built), living, on_gpu, milvus, table, graph, built.studies, vectors)
    for opened in (on_gpu, living, milvus, table, graph):
        opened.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, world: World) -> Writable:
    """Return each backend in turn."""
    found: Writable = getattr(world, request.param)
    return found


def queries(world: World) -> Iterator[tuple[Embeddings, dict[str, Any]]]:
    """Yield queries and options of every sort."""
    rng = np.random.default_rng(3)
    wheres = [
        None,
        {"must": [{"key": "No Finding", "match": {"any": [1, None]}}]},
        {"must_not": [{"key": "age", "range": {"gte": 60}}]},
        {"must": [{"key": "dose", "range": {"gt": 1e9}}]},
    ]
    for row in (0, 40, 99):
        for where in wheres:
            for group in (None, "patient"):
                options = {"k": int(rng.choice([1, 5, 40, 400])), "where": where, "group_by": group}
                options |= {"exclude_patient": f"p{row % 40}", "exclude_study": world.studies["study_id"][row].as_py()}
                options |= {"min_similarity": [None, 0.2][int(rng.integers(2))], "exact": bool(rng.integers(2))}
                yield world.vectors[row], options


def test_every_backend_gives_the_same_answers(world: World, backend: Searchable) -> None:
    for query, options in queries(world):
        assert backend.search(query, **options) == world.memory.search(query, **options)


def test_every_backend_finds_the_studies_similar_to_a_stored_one(world: World, backend: Searchable) -> None:
    for study_id in world.studies["study_id"].to_pylist()[::29]:
        assert backend.similar(study_id, 7) == world.memory.similar(study_id, 7)
        assert backend.similar(study_id, exclude_same_patient=False) == world.memory.similar(
            study_id, exclude_same_patient=False
        )


def test_every_backend_keeps_a_study_and_its_vector_to_the_last_bit(world: World, backend: Searchable) -> None:
    assert len(backend) == 150
    assert backend.schema.names == world.studies.schema.names
    for row, study_id in enumerate(world.studies["study_id"].to_pylist()):
        if row % 6 == 0:
            assert backend.study(study_id) == world.memory.study(study_id)
            np.testing.assert_array_equal(backend.embedding(study_id), world.vectors[row])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (FilterError, {"where": {"must": [{"key": "height", "match": {"value": 1}}]}}),
        (FilterError, {"where": {"must": [{"key": "sex", "match": {"value": "\ud800"}}]}}),
        (FilterError, {"where": {"must": [{"key": "sex", "range": {"gt": 1}}]}}),
        (FilterError, {"where": {"must": [{"key": "Edema", "match": {"value": 300}}]}}),
        (CollectionError, {"k": 0}),
        (CollectionError, {"group_by": "sex"}),
    ],
)
def test_every_backend_refuses_in_the_same_words(
    world: World, backend: Searchable, kind: type[CollectionError], options: dict[str, Any]
) -> None:
    with pytest.raises(kind) as expected:
        world.memory.search(world.vectors[0], **options)
    with pytest.raises(kind) as refusal:
        backend.search(world.vectors[0], **options)
    assert str(refusal.value) == str(expected.value)


def test_every_backend_refuses_a_query_of_another_length_and_a_study_it_lacks(backend: Searchable) -> None:
    with pytest.raises(VectorsError, match=f"N, {DIM}"):
        backend.search([1.0, 0.0])
    for unknown in ("p0/none", '"] or study_id != "', "\ud800", ""):
        with pytest.raises(StudyNotFound, match="no study"):
            backend.study(unknown)


def test_an_export_without_layouts_has_the_same_gate_in_every_backend(world: World) -> None:
    for engine in (world.milvus, world.postgres):
        assert engine.gate().layouts is None
        ours, theirs = world.folder.gate().similarities, engine.gate().similarities
        assert len(ours) == len(theirs) == 40
        assert engine.gate().judge(1.0) is not None


def test_every_text_means_itself_to_an_engine_and_nothing_else(world: World) -> None:
    for text in HOSTILE:
        _same_rows(world, {"must": [{"key": "sex", "match": {"value": text}}]})
        _same_rows(world, {"must_not": [{"key": 'we"ird \\ näme\n', "match": {"any": [text, None]}}]})
    _same_rows(world, {"should": [{"key": "other_paths", "match": {"any": HOSTILE}}]})


NUMBERS = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=True),
    st.sampled_from([0.1, 60, 59.9, 255, -1, 0, 1e400, 2.0**63]),
)
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
TEXT_COLUMNS = ("sex", "projection", "Etiology", 'we"ird \\ näme\n', "study_id", "other_paths", "views", "split")
NUMBER_COLUMNS = ("age", "Edema", "not in", "$meta", "count(*)", "dose")


def _match(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    value = st.one_of(st.none(), values)
    return st.one_of(
        value.map(lambda one: {"match": {"value": one}}),
        st.lists(value, max_size=4).map(lambda some: {"match": {"any": some}}),
    )


BOUNDS = st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), NUMBERS, min_size=1)
CONDITIONS = st.one_of(
    st.tuples(st.sampled_from(TEXT_COLUMNS), _match(TEXTS)),
    st.tuples(st.sampled_from(NUMBER_COLUMNS), st.one_of(_match(NUMBERS), BOUNDS.map(lambda one: {"range": one}))),
).map(lambda pair: {"key": pair[0], **pair[1]})
CLAUSES = st.sampled_from(["must", "should", "must_not"])
FILTERS = st.recursive(
    st.dictionaries(CLAUSES, st.lists(CONDITIONS, max_size=3)),
    lambda inner: st.dictionaries(CLAUSES, st.lists(st.one_of(CONDITIONS, inner), max_size=3)),
    max_leaves=6,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(where=FILTERS)
def test_an_engine_passes_the_rows_that_the_mask_passes(world: World, where: dict[str, Any]) -> None:
    _same_rows(world, where)


@pytest.mark.long
@settings(max_examples=5_000, suppress_health_check=list(HealthCheck))
@given(where=FILTERS)
def test_an_engine_passes_the_rows_that_the_mask_passes_at_length(world: World, where: dict[str, Any]) -> None:
    _same_rows(world, where)


def _same_rows(world: World, where: dict[str, Any]) -> None:
    for name in ENGINES:
        engine: Writable = getattr(world, name)
        try:
            mask = filter_mask(where, world.studies)
        except FilterError as refusal:
            with pytest.raises(FilterError, match=re.escape(str(refusal))):
                engine.search(world.vectors[0], where=where)
            continue
        expected = sorted(world.studies.filter(pa.array(mask))["study_id"].to_pylist())
        answer = engine.search(world.vectors[0], 400, where=where)
        assert sorted(hit.study.study_id for hit in answer.hits) == expected
        assert answer.matched_total == len(expected)
