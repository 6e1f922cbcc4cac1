"""Search against NumPy: order, ties, filters, patients."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit_vectors_world import DIM, retriever_of

from index.built.kinds import KINDS
from index.errors import CollectionError, FingerprintMismatch, StudyNotFound, VectorsError
from index.search.answer import Answer
from index.search.retriever import Retriever
from index.vectors import Embeddings

FEMALE = {"must": [{"key": "sex", "match": {"value": "Female"}}]}


def ids(answer: Answer) -> list[str]:
    return [hit.study.study_id for hit in answer.hits]


def brute_force(studies: pa.Table, vectors: Embeddings, query: np.ndarray, keep: np.ndarray) -> list[str]:
    similarity = np.round(vectors.astype(np.float64) @ query.astype(np.float64), 6)
    names = studies["study_id"].to_pylist()
    return [names[row] for row in sorted(np.flatnonzero(keep), key=lambda row: (-similarity[row], names[row]))]


def test_a_search_gives_numpys_order(retriever: Retriever, studies: pa.Table, unit_vectors: Embeddings) -> None:
    for query in unit_vectors[:20]:
        expected = brute_force(studies, unit_vectors, query, np.ones(200, dtype=bool))
        answer = retriever.search(query, 25)
        assert ids(answer) == expected[:25]
        assert [hit.rank for hit in answer.hits] == list(range(1, 26))
        assert answer.matched_total == 200
        assert answer.exact


def test_every_row_finds_itself_first(retriever: Retriever, studies: pa.Table) -> None:
    for study_id in studies["study_id"].to_pylist()[:50]:
        first = retriever.search(retriever.embedding(study_id), 1).hits[0]
        assert (first.study.study_id, first.similarity) == (study_id, pytest.approx(1.0))


@settings(deadline=None)
@given(seed=st.integers(0, 2**16))
def test_permuting_the_rows_permutes_nothing_that_is_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(30, DIM)).round(0).astype(np.float32) + np.eye(30, DIM, dtype=np.float32)  # with ties
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = small_table([f"patient{row // 2:02d}/study{row}" for row in range(30)])
    order = rng.permutation(30)
    straight, permuted = retriever_of(table, vectors), retriever_of(table.take(order), vectors[order])
    for query in vectors[:5]:
        assert ids(straight.search(query, 12)) == ids(permuted.search(query, 12))


def test_ties_come_in_the_order_of_their_ids_even_across_the_cut() -> None:
    names = [f"patient{row:02d}/study1" for row in (3, 1, 2, 0)] + [f"patient{row:02d}/study1" for row in range(10, 60)]
    vectors = np.tile(np.eye(1, DIM, dtype=np.float32), (len(names), 1))
    answer = retriever_of(small_table(names), vectors).search(vectors[0], 3)
    assert ids(answer) == ["patient00/study1", "patient01/study1", "patient02/study1"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 30])
def test_copies_of_one_film_are_all_found(kind: str, count: int) -> None:
    names = [f"patient{row:02d}/study1" for row in range(count)]
    vectors = np.tile(np.eye(1, DIM, dtype=np.float32), (count, 1))
    assert ids(retriever_of(small_table(names), vectors, kind).search(vectors[0], 30)) == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_still_gives_k_hits_whenever_k_rows_pass(
    kind: str, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    retriever = retriever_of(studies, unit_vectors, kind)
    women = np.array([sex == "Female" for sex in studies["sex"].to_pylist()])
    answer = retriever.search(unit_vectors[0], int(women.sum()), where=FEMALE)
    assert ids(answer) == brute_force(studies, unit_vectors, unit_vectors[0], women)
    assert answer.matched_total == women.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_and_an_excluded_patient_hold_together_however_often_the_filter_is_asked(
    kind: str, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    retriever = retriever_of(studies, unit_vectors, kind)
    women = np.array([sex == "Female" for sex in studies["sex"].to_pylist()])
    for patient in studies["patient_id"].to_pylist()[:6] * 2:
        others = women & np.array([other != patient for other in studies["patient_id"].to_pylist()])
        answer = retriever.search(unit_vectors[0], 200, where=FEMALE, exclude_patient=patient)
        assert ids(answer) == brute_force(studies, unit_vectors, unit_vectors[0], others)
        assert answer.matched_total == others.sum()


def test_few_passing_rows_are_scanned_exactly(studies: pa.Table, unit_vectors: Embeddings) -> None:
    retriever = retriever_of(studies, unit_vectors, "hnsw")
    one = {"must": [{"key": "study_id", "match": {"value": studies["study_id"][7].as_py()}}]}
    assert retriever.search(unit_vectors[0], 5, where=one).exact
    assert not retriever.search(unit_vectors[0], 5).exact
    assert retriever.search(unit_vectors[0], 5, exact=True).exact


def test_a_stored_study_never_finds_itself_nor_its_patient(retriever: Retriever, studies: pa.Table) -> None:
    for study_id, patient in zip(studies["study_id"].to_pylist(), studies["patient_id"].to_pylist(), strict=True):
        answer = retriever.similar(study_id, 200)
        assert patient not in {hit.study.patient_id for hit in answer.hits}
        assert study_id not in ids(retriever.similar(study_id, 200, exclude_same_patient=False))
        assert len(answer.hits) == answer.matched_total


def test_grouping_gives_each_patient_once_by_the_nearest_study(retriever: Retriever, unit_vectors: Embeddings) -> None:
    answer = retriever.search(unit_vectors[3], 30, group_by="patient")
    every = retriever.search(unit_vectors[3], 200)
    first: dict[str, str] = {}
    for hit in every.hits:
        first.setdefault(hit.study.patient_id, hit.study.study_id)
    assert ids(answer) == list(first.values())[:30]


def test_similarity_has_a_floor_where_one_is_asked_for(retriever: Retriever, unit_vectors: Embeddings) -> None:
    answer = retriever.search(unit_vectors[3], 200, min_similarity=0.2)
    every = retriever.search(unit_vectors[3], 200)
    assert ids(answer) == [hit.study.study_id for hit in every.hits if hit.similarity >= 0.2]


def test_a_filter_that_nothing_passes_gives_no_hits(retriever: Retriever, unit_vectors: Embeddings) -> None:
    answer = retriever.search(unit_vectors[0], 5, where={"must": [{"key": "age", "range": {"gt": 500}}]})
    assert (answer.hits, answer.matched_total) == ([], 0)


def test_threads_get_their_own_answers(retriever: Retriever, unit_vectors: Embeddings) -> None:
    def search(row: int) -> tuple[list[str], list[str]]:
        return ids(retriever.search(unit_vectors[row], 5, where=FEMALE)), ids(retriever.search(unit_vectors[row], 5))

    alone = [search(row) for row in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(search, range(40))) == alone


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"query": np.zeros(DIM)}, VectorsError),
        ({"query": np.ones(3)}, VectorsError),
        ({"query": np.eye(3, DIM)}, VectorsError),
        ({"query": np.empty((0, DIM))}, VectorsError),
        ({"k": 0}, CollectionError),
        ({"k": 2.0}, CollectionError),
        ({"k": "2"}, CollectionError),
        ({"group_by": "sex"}, CollectionError),
    ],
)
def test_a_wrong_search_is_refused(
    change: dict[str, Any], error: type[Exception], retriever: Retriever, unit_vectors: Embeddings
) -> None:
    with pytest.raises(error):
        retriever.search(**({"query": unit_vectors[0]} | change))


def test_numbers_of_numpy_are_numbers(retriever: Retriever, unit_vectors: Embeddings) -> None:
    pairs: list[tuple[Any, Any]] = [(np.int64(3), np.int64(40)), (np.uint8(3), np.float32(40))]
    for k, age in pairs:
        where = {"must": [{"key": "age", "range": {"gte": age}}]}
        plain = {"must": [{"key": "age", "range": {"gte": 40}}]}

        answer = retriever.search(unit_vectors[0], k, where=where)

        assert answer == retriever.search(unit_vectors[0], 3, where=plain)


def test_many_queries_are_answered_as_each_alone(retriever: Retriever, unit_vectors: Embeddings) -> None:
    answers = retriever.search_many(unit_vectors[:3], k=4, group_by="patient")

    assert answers == [retriever.search(query, 4, group_by="patient") for query in unit_vectors[:3]]
    assert retriever.search_many(np.empty((0, DIM))) == retriever.similar_many([]) == []
    with pytest.raises(VectorsError):
        retriever.search_many(np.ones((2, 3)))


def test_many_stored_studies_are_answered_as_each_alone(retriever: Retriever, studies: pa.Table) -> None:
    ids = studies["study_id"].to_pylist()[:5]

    assert retriever.similar_many(ids, k=4) == [retriever.similar(one, 4) for one in ids]


def test_an_unknown_study_and_another_encoder_are_refused(retriever: Retriever) -> None:
    with pytest.raises(StudyNotFound, match="no study 'patient99/study1'"):
        retriever.similar("patient99/study1")
    with pytest.raises(FingerprintMismatch, match="precedent export"):
        retriever.require_fingerprint("0" * 64)


def test_filters_are_remembered_within_a_number_of_bytes_however_long_they_are(
    studies: pa.Table, unit_vectors: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.search.retriever._REMEMBERED_BYTES", 50_000)
    retriever = retriever_of(studies, unit_vectors)
    for number in range(40):
        where = {"must_not": [{"key": "sex", "match": {"value": "x" * 10_000 + str(number)}}]}
        assert retriever.search(unit_vectors[0], where=where).matched_total == 200

    assert 5 < len(retriever._remembered) < 15
    assert retriever._remembered.currsize <= 50_000
    assert all(len(key) == 32 for key in retriever._remembered)


def test_a_filter_asked_again_is_not_evaluated_again(
    retriever: Retriever, unit_vectors: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = retriever.search(unit_vectors[0], where=FEMALE)
    monkeypatch.setattr("index.search.retriever.filter_mask", None)

    assert retriever.search(unit_vectors[0], where=FEMALE) == first


def test_rows_compared_in_blocks_come_in_the_same_order(
    retriever: Retriever, unit_vectors: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = retriever.search(unit_vectors[0], 200)
    monkeypatch.setattr("index.search.retriever._BLOCK", 7)

    assert retriever.search(unit_vectors[0], 200) == whole


def small_table(names: list[str]) -> pa.Table:
    from index.table.studies import studies_schema

    rows = [{"study_id": name, "patient_id": name.split("/")[0], "frontal_path": "a.jpg"} for name in names]
    schema = studies_schema()
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in rows], schema)
