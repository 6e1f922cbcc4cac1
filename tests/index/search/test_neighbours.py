"""The nearest of every study, and pairs that are nearly the same, against a search a study and against brute force."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gpu_world import play_gpu
from unit_vectors_world import retriever_of

from index.built.collection import Collection
from index.built.vector_index import VectorIndex
from index.errors import CollectionError
from index.search import neighbours
from index.search.neighbours import PAIRS, near_duplicates, nearest_neighbours
from index.vectors import Embeddings


def collection_of(studies: pa.Table, vectors: Embeddings, kind: str = "flat") -> Collection:
    return Collection({}, studies, VectorIndex.build(vectors, kind))


def pairs_of(blocks: Any) -> list[tuple[str, str, float]]:
    table = pa.concat_tables(blocks)
    assert table.schema == PAIRS
    return [(one["study_id"], one["neighbour_id"], one["similarity"]) for one in table.to_pylist()]


@pytest.fixture
def tied(unit_vectors: Embeddings) -> Embeddings:
    """Return vectors of which every fifth is a copy of another, so that similarities tie."""
    vectors = unit_vectors.copy()
    vectors[::5] = vectors[1]
    return vectors


@pytest.mark.parametrize(("device", "block"), [("cpu", 4096), ("cpu", 7), ("gpu", 64)])
def test_every_study_has_the_neighbours_that_a_search_finds(
    studies: pa.Table, tied: Embeddings, device: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_gpu(monkeypatch)
    for name, value in (("BLOCK", block), ("_PAIRS", 50 * block), ("_COMPARED", 33)):
        monkeypatch.setattr(neighbours, name, value)
    collection, retriever = collection_of(studies, tied), retriever_of(studies, tied)
    collection = replace(collection, vectors=collection.vectors.on(device))
    for k, same, some in ((1, False, 2), (12, True, 2), (190, False, 40), (500, True, 40)):
        asked = studies["study_id"].to_pylist()[::some]
        expected = [
            (one, hit.study.study_id, hit.similarity)
            for one in asked
            for hit in retriever.similar(one, k, exclude_same_patient=not same).hits
        ]
        found = pairs_of(nearest_neighbours(collection, k, same_patient=same))
        assert [pair for pair in found if pair[0] in asked] == expected


def test_a_patient_of_many_studies_fills_no_place_of_others(studies: pa.Table, tied: Embeddings) -> None:
    place = studies.schema.get_field_index("patient_id")
    owners = ["a"] * 120 + [f"p{row}" for row in range(80)]
    owned = studies.set_column(place, studies.schema.field(place), pa.array(owners))
    close = tied.copy()
    close[:120] = tied[0]
    found = pa.concat_tables(nearest_neighbours(collection_of(owned, close), 3))
    assert found.num_rows == 600
    assert found["same_patient"].to_pylist() == [False] * 600
    assert found["rank"].to_pylist() == [1, 2, 3] * 200


def test_near_duplicates_are_every_pair_once(studies: pa.Table, tied: Embeddings) -> None:
    cosines = np.round(tied.astype(np.float64) @ tied.astype(np.float64).T, 6)
    one, other = np.triu_indices(200, 1)
    for at_least in (0.4, 0.9, 1.0):
        expected = {
            (studies["study_id"][a].as_py(), studies["study_id"][b].as_py(), cosines[a, b])
            for a, b in zip(one.tolist(), other.tolist(), strict=True)
            if cosines[a, b] >= at_least
        }
        found = pairs_of(near_duplicates(collection_of(studies, tied), at_least, most=20_000))
        assert set(found) == expected
        assert len(found) == len(expected) > 700
    with pytest.raises(CollectionError, match="at most 100 pairs"):
        list(near_duplicates(collection_of(studies, tied), 0.9, most=100))


def test_pairs_say_whose_they_are(studies: pa.Table, tied: Embeddings) -> None:
    patients = dict(zip(studies["study_id"].to_pylist(), studies["patient_id"].to_pylist(), strict=True))
    table = pa.concat_tables(near_duplicates(collection_of(studies, tied), 0.99, most=20_000))
    for pair in table.to_pylist():
        assert (pair["patient_id"], pair["neighbour_patient_id"]) == (
            patients[pair["study_id"]],
            patients[pair["neighbour_id"]],
        )
        assert pair["same_patient"] == (pair["patient_id"] == pair["neighbour_patient_id"])


def test_an_approximate_graph_is_compared_exactly(studies: pa.Table, unit_vectors: Embeddings) -> None:
    found = pairs_of(nearest_neighbours(collection_of(studies, unit_vectors, "hnsw"), 5, approximate=True))
    exact = pairs_of(nearest_neighbours(collection_of(studies, unit_vectors), 5))
    assert len(set(found) & set(exact)) > 0.95 * len(exact)
