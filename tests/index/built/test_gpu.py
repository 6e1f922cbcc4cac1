"""What a GPU finds, by a stand-in that rounds and disregards filters as it does, against a scan by the processor."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from gpu_world import StandIn, play_gpu
from hypothesis import given, settings
from hypothesis import strategies as st

from index.built import gpu
from index.built.gpu import MOST_NEAREST, Scan, Seen, engine_for
from index.built.kinds import KINDS
from index.built.vector_index import VectorIndex
from index.errors import NoGpu
from index.vectors import Embeddings


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    play_gpu(monkeypatch)


def unit(values: np.ndarray) -> Embeddings:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def crowded(seed: int, rows: int = 3000, dim: int = 24) -> Embeddings:
    """Return unit vectors that lie so close that half precision puts many in another order, some of them copies."""
    rng = np.random.default_rng(seed)
    values = unit(1 + 0.02 * rng.normal(size=(rows, dim)))
    values[::7] = values[3]
    return values


def same_answers(one: VectorIndex, other: VectorIndex, queries: Embeddings, k: int, **options: Any) -> None:
    """Assert that both find rows of the same similarities, and no row twice; equal ones may come in any order."""
    (expected, _), (found, rows) = (index.search(queries, k, exact=True, **options) for index in (one, other))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert all(len(set(hits)) == len(hits) for hits in rows[:, :3].tolist() if hits[-1] >= 0)
    shown = np.einsum("qd,qkd->qk", queries, other.vectors(np.maximum(rows, 0).ravel()).reshape(*rows.shape, -1))
    np.testing.assert_allclose(np.where(rows < 0, found, shown), found, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), k=st.sampled_from([1, 10, 60]), share=st.sampled_from([None, 0.04, 0.2, 0.9]))
@pytest.mark.parametrize("kind", ["flat", "ivf-half"])
def test_a_gpu_finds_what_a_scan_by_the_processor_finds(kind: str, seed: int, k: int, share: float | None) -> None:
    vectors, rng = crowded(seed), np.random.default_rng(seed)
    index = VectorIndex.build(vectors, kind)
    among = None if share is None else index.select(rng.random(len(vectors)) < share)
    same_answers(index, index.on("gpu"), vectors[:9], k, among=among)


def test_rounding_alone_would_have_found_others() -> None:
    vectors = crowded(0)
    index = VectorIndex.build(vectors)
    halves, _ = Scan(StandIn(), [vectors], *vectors.shape).nearest(vectors[:50], 10)
    similar = np.einsum("qd,qkd->qk", vectors[:50], vectors[halves])
    assert np.abs(np.sort(similar)[:, ::-1] - index.search(vectors[:50], 10)[0]).max() > 1e-5


def test_no_row_that_was_not_asked_for_is_above_the_bound() -> None:
    vectors = crowded(1)
    rows, most = Scan(StandIn(), np.array_split(vectors, 7), *vectors.shape).nearest(vectors[:40], 20)
    similar = vectors[:40].astype(np.float64) @ vectors.T.astype(np.float64)
    np.put_along_axis(similar, rows, -2, axis=1)
    assert (similar.max(1) <= most).all()
    assert (similar.max(1) > most - 2e-3).all()


def test_what_a_gpu_cannot_settle_the_processor_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(2, 8))), 2 * MOST_NEAREST, axis=0)
    vectors = np.concatenate([vectors, unit(np.ones((1, 8)))])
    index = VectorIndex.build(vectors)
    on_gpu, asked = index.on("gpu"), []
    by_processor = on_gpu._by_processor
    monkeypatch.setattr(on_gpu, "_by_processor", lambda *a: (asked.append(len(a[0])), by_processor(*a))[1])
    queries = np.concatenate([vectors[:1], vectors[-1:]])
    same_answers(index, on_gpu, queries[1:], 1)
    assert asked == []
    same_answers(index, on_gpu, queries, 1)
    same_answers(index, on_gpu, queries, 1, among=index.select(vectors[:, 0] == vectors[0, 0]))
    same_answers(index, on_gpu, queries[:1], MOST_NEAREST + 5)
    assert asked == [1, 2, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_by_a_gpu_says_that_it_is_exact_where_it_is(kind: str) -> None:
    vectors = crowded(2)
    index = VectorIndex.build(vectors, kind).on("gpu")
    half = index.select(np.arange(len(vectors)) % 2 == 0)
    assert index.is_exact(False, None)
    assert index.is_exact(False, index.select(np.arange(len(vectors)) < 9))
    assert index.is_exact(False, half) == (kind == "flat")
    assert index.is_exact(True, half)


@pytest.mark.parametrize("kind", ["ivf", "ivf-pq4"])
def test_lists_made_by_an_engine_are_those_that_faiss_makes_itself(kind: str, tmp_path: Path) -> None:
    vectors = crowded(3)
    for device in ("cpu", "gpu"):
        VectorIndex.build(vectors, kind, device=device).save(tmp_path / f"exact-{device}", tmp_path / device)
    assert (tmp_path / "gpu").read_bytes() == (tmp_path / "cpu").read_bytes()
    assert len(VectorIndex.load(tmp_path / "exact-gpu", tmp_path / "gpu", kind).on("gpu")) == len(vectors)


def test_threads_take_turns_and_get_their_own_answers() -> None:
    vectors = crowded(4)
    index = VectorIndex.build(vectors).on("gpu")
    choices = [None, index.select(vectors[:, 0] > vectors[:, 1])]

    def search(number: int) -> list[int]:
        return index.search(vectors[number : number + 1], 10, among=choices[number % 2])[1][0].tolist()

    alone = [search(number) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(search, range(40))) == alone


def test_the_stand_in_disregards_a_selector_as_a_gpu_does() -> None:
    index = StandIn().empty(8, half=True)
    index.add(unit(np.eye(8)))
    only_last = faiss.SearchParameters(sel=faiss.IDSelectorArray(np.array([7])))
    assert index.search(np.eye(1, 8, dtype=np.float32), 1, params=only_last)[1] == [[0]]


class _TooSmall(StandIn):
    def empty(self, dim: int, *, half: bool) -> faiss.Index:
        raise RuntimeError("cudaMalloc error out of memory")


@pytest.mark.parametrize("engine", [StandIn(name="a small GPU", memory=10_000), _TooSmall(name="a small GPU")])
def test_what_does_not_fit_is_refused_where_a_gpu_is_asked_for_and_searched_by_the_processor_else(
    engine: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    play_gpu(monkeypatch, engine)
    vectors = crowded(5)
    index = VectorIndex.build(vectors)
    with pytest.raises(NoGpu, match=r"3,000 vectors of 24 dimensions to fit on a small GPU.*--device cpu"):
        index.on("gpu")
    with caplog.at_level(logging.WARNING):
        same_answers(index, index.on("auto"), vectors[:3], 5)
    assert "searched by the processor" in caplog.text


@pytest.mark.parametrize(
    ("found", "sentence"),
    [(Seen(False, 0), r"got faiss-cpu; run: .*\[gpu\]"), (Seen(True, 0), "sees none here; look at nvidia-smi")],
)
def test_a_gpu_that_is_not_there_is_refused_with_a_remedy_and_auto_goes_on(
    found: Seen, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "seen", lambda: found)
    with pytest.raises(NoGpu, match=sentence):
        engine_for("gpu")
    assert engine_for("auto") is None
    index = VectorIndex.build(crowded(6), "ivf", device="auto").on("auto")
    assert not index.is_exact(False, None)
