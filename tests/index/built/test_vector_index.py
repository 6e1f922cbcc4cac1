"""Every kind of index against NumPy: whole, filtered, in halves, from files and under threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from index.built.effort import Effort
from index.built.kinds import KINDS
from index.built.vector_index import VectorIndex
from index.errors import ArtefactError
from index.vectors import Embeddings, Mask, Rows

_DIM = 64
LISTED = [name for name, kind in KINDS.items() if kind.codes]


@pytest.fixture
def vectors(rng: np.random.Generator) -> Embeddings:
    """Return 4,000 unit vectors of 64 dimensions whose spread falls from axis to axis."""
    values = (rng.normal(size=(4000, _DIM)) * np.arange(1, _DIM + 1) ** -0.75).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def nearest(vectors: Embeddings, queries: Embeddings, k: int, mask: Mask | None = None) -> Rows:
    similarities = queries.astype(np.float64) @ vectors.astype(np.float64).T
    if mask is not None:
        similarities[:, ~mask] = -2
    return np.argsort(-similarities, axis=1, kind="stable")[:, :k]


def recall(truth: Rows, found: Rows) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(truth, found, strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_the_nearest_rows(kind: str, vectors: Embeddings) -> None:
    index = VectorIndex.build(vectors, kind)
    similarities, rows = index.search(vectors[:100], 10)
    assert recall(nearest(vectors, vectors[:100], 10), rows) >= 0.95
    assert (rows[:, 0] == np.arange(100)).mean() >= 0.99
    assert (np.diff(similarities, axis=1) <= 0).all()
    assert index.is_exact(False, None) == (kind == "flat")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_is_kept_to_inside_the_search(
    kind: str, share: float, vectors: Embeddings, rng: np.random.Generator
) -> None:
    mask = rng.random(len(vectors)) < share
    index = VectorIndex.build(vectors, kind)
    among = index.select(mask)
    rows = index.search(vectors[:100], 10, among=among)[1]
    assert mask[rows].all()
    assert recall(nearest(vectors, vectors[:100], 10, mask), rows) >= 0.95
    assert index.is_exact(False, among) == (kind == "flat" or share == 0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_to_k_is_row_minus_one(kind: str, vectors: Embeddings) -> None:
    mask = np.zeros(len(vectors), dtype=bool)
    mask[[5, 70, 300]] = True
    rows = VectorIndex.build(vectors, kind).search(vectors[70:71], 10, among=None)[1]
    assert (rows >= 0).all()
    index = VectorIndex.build(vectors, kind)
    found = index.search(vectors[70:71], 10, among=index.select(mask))[1][0]
    assert found[0] == 70
    assert set(found[:3]) == {5, 70, 300}
    assert (found[3:] == -1).all()


def test_a_filter_that_the_film_decides_skips_the_lists_it_leaves_empty(rng: np.random.Generator) -> None:
    values = 0.05 * rng.normal(size=(4000, _DIM)).astype(np.float32)
    values[:2000, 0] += 1
    values[2000:, 1] += 1
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    index = VectorIndex.build(values, "ivf").with_effort(Effort(probes=1, shortlist=64))
    rows = index.search(values[:50], 1, among=index.select(values[:, 1] > 0.5))[1]
    assert (rows >= 2000).all()


@pytest.mark.parametrize("kind", KINDS)
def test_exact_on_request_is_numpys_order(kind: str, vectors: Embeddings) -> None:
    index = VectorIndex.build(vectors, kind)
    kept = index.vectors(np.arange(len(vectors)))
    assert np.abs(kept - vectors).max() <= (2**-11 if KINDS[kind].half else 0)
    assert recall(nearest(kept, vectors[:50], 10), index.search(vectors[:50], 10, exact=True)[1]) == 1


@pytest.mark.parametrize("kind", LISTED)
def test_blocks_and_a_whole_array_build_the_same_index(kind: str, vectors: Embeddings) -> None:
    whole = VectorIndex.build(vectors, kind)
    blocks = VectorIndex.build(iter(np.split(vectors, [1, 1500])), kind)
    for ours, other in zip(whole.search(vectors[:50], 10), blocks.search(vectors[:50], 10), strict=True):
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_from_files_answers_as_the_built_one(kind: str, vectors: Embeddings, tmp_path: Path) -> None:
    built = VectorIndex.build(vectors, kind)
    exact, codes = tmp_path / "exact.faiss", tmp_path / "codes.faiss"
    built.save(exact, codes)
    loaded = VectorIndex.load(exact, codes if codes.exists() else None, kind, Effort(8, 64))
    assert (len(loaded), loaded.embedding_dim, loaded.effort) == (len(built), _DIM, Effort(8, 64))
    among = built.select(vectors[:, 1] > 0.5)
    for choice in ({}, {"among": among}, {"exact": True}):
        expected = built.with_effort(Effort(8, 64)).search(vectors[:20], 10, **choice)[1]
        np.testing.assert_array_equal(loaded.search(vectors[:20], 10, **choice)[1], expected)


def test_a_file_that_faiss_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "exact.faiss").write_bytes(b"nonsense" * 10)
    with pytest.raises(ArtefactError, match="run precedent index again"):
        VectorIndex.load(tmp_path / "exact.faiss", None, "flat")


@pytest.mark.parametrize("kind", KINDS)
def test_threads_with_different_filters_get_their_own_answers(kind: str, vectors: Embeddings) -> None:
    index = VectorIndex.build(vectors, kind)
    choices = [None, index.select(vectors[:, 0] > 0), index.select(vectors[:, 0] > 0.9)]

    def search(number: int) -> list[int]:
        return index.search(vectors[number : number + 1], 10, among=choices[number % 3])[1][0].tolist()

    alone = [search(number) for number in range(60)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(search, range(60))) == alone


def test_one_query_wakes_no_threads_and_leaves_the_number_as_it_was(
    vectors: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, seen = VectorIndex.build(vectors, "ivf"), []
    approach = index._approach
    monkeypatch.setattr(index, "_approach", lambda *a: (seen.append(faiss.omp_get_max_threads()), approach(*a))[1])

    def search() -> int:
        faiss.omp_set_num_threads(3)
        index.search(vectors[:1], 10)
        index.search(vectors[:2], 10)
        return int(faiss.omp_get_max_threads())

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(search).result() == 3
    assert seen == [1, 3]


@pytest.mark.parametrize("dim", [1, 3, 100])
@pytest.mark.parametrize("kind", ["ivf", "ivf-pq4"])
def test_any_number_of_dimensions_can_be_coded(kind: str, dim: int, rng: np.random.Generator) -> None:
    values = rng.normal(size=(300, dim)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    similarities = VectorIndex.build(values, kind).search(values, 5)[0]
    expected = np.sort(values @ values.T, axis=1)[:, :-6:-1]
    assert np.abs(similarities - expected).mean() < 0.01


@pytest.mark.parametrize("rows", [3, 17])
@pytest.mark.parametrize("kind", LISTED)
def test_any_number_of_rows_can_be_coded(kind: str, rows: int, vectors: Embeddings) -> None:
    found = VectorIndex.build(vectors[:rows], kind).search(vectors[:rows], 20)[1]
    assert (found[:, 0] == np.arange(rows)).all()
    assert all(set(hits[:rows]) == set(range(rows)) for hits in found)
    assert (found[:, rows:] == -1).all()


def test_vectors_that_hardly_differ_lose_no_recall_by_four_bits(rng: np.random.Generator) -> None:
    values = np.eye(1, 128) + 0.05 * rng.normal(size=(3000, 128)) * np.arange(1, 129) ** -0.75
    values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    index = VectorIndex.build(values, "ivf-pq4")
    assert recall(nearest(values, values[:100], 10), index.search(values[:100], 10)[1]) >= 0.95
