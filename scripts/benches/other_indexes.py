"""Other indexes of the same vectors, as their users set them up: ScaNN, SVS, and FAISS on a GPU.

Each is asked with the least effort that finds enough, so that speeds are compared at equal recall.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import product
from time import perf_counter

import numpy as np

from index.built import gpu
from index.built.effort import Effort
from index.built.vector_index import VectorIndex
from index.vectors import Embeddings, Rows
from scripts.benches.drawn import share_found

ENOUGH = 0.995
"""Recall@10 that each has to reach."""
_OUR_EFFORTS = tuple(
    Effort(probes, times * probes) for probes in (32, 40, 48, 64, 96, 128, 192, 256) for times in (2, 4)
)
_LEAVES_READ = (10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500)
_REORDERED = (100, 200, 400)
_WINDOWS = (10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500)
Search = Callable[[Embeddings, int], Rows]


@dataclass(frozen=True)
class Way:
    """An index that was built: how one query and how many are asked."""

    name: str
    build_seconds: float
    search_one: Search
    search_batch: Search
    recall: float = 0.0


def ways_of(
    ours: VectorIndex, vectors: Embeddings, queries: Embeddings, truth: Rows, threads: int
) -> tuple[list[Way], dict[str, str]]:
    """Return the ways that this machine has, and why the others are absent.

    Each has the least effort that finds ENOUGH, or its most.

    Args:
        ours: an index of the vectors. queries: (Q, D). truth: (Q, k) rows to be found.
    """
    absent: dict[str, str] = {}
    measured = [_enough(_our_ways(ours), queries, truth)]
    for name, build in (("ScaNN", _scann_ways), ("SVS", _svs_ways)):
        try:
            measured.append(_enough(build(vectors, truth.shape[1], threads), queries, truth))
        except ModuleNotFoundError as error:
            absent[name] = f"{error.name} is not installed"
    if gpu.seen().gpus:
        measured.append(_enough(_gpu_ways(ours), queries, truth))
    else:
        absent["FAISS on a GPU"] = "FAISS sees none"
    return measured, absent


def _enough(ways: Iterable[Way], queries: Embeddings, truth: Rows) -> Way:
    for way in ways:
        measured = replace(way, recall=share_found(truth, way.search_batch(queries, truth.shape[1])))
        if measured.recall >= ENOUGH:
            break
    return measured


def _our_ways(index: VectorIndex) -> Iterator[Way]:
    for effort in _OUR_EFFORTS:
        search = _search_of(index.with_effort(effort))
        yield Way(f"Precedent, {index.kind}", 0.0, search, search)


def _gpu_ways(index: VectorIndex) -> Iterator[Way]:
    start, seen = perf_counter(), gpu.seen()
    search = _search_of(index.on("gpu"))
    yield Way(f"Precedent on {seen.name}, {datetime.now(UTC):%Y-%m-%d}", perf_counter() - start, search, search)


def _search_of(index: VectorIndex) -> Search:
    return lambda queries, k: index.search(queries, k)[1]


def _scann_ways(vectors: Embeddings, k: int, threads: int) -> Iterator[Way]:
    """Yield a tree of 1,000 leaves with codes of two dimensions each, as ScaNN's own guide advises."""
    import scann

    start = perf_counter()
    builder = scann.scann_ops_pybind.builder(vectors, k, "dot_product")
    leaves = min(1000, max(len(vectors) // 200, 1))
    tree = builder.tree(num_leaves=leaves, num_leaves_to_search=leaves, training_sample_size=min(len(vectors), 250_000))
    index = tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(_REORDERED[-1]).build()
    index.set_num_threads(threads)
    seconds = perf_counter() - start

    def search_one(queries: Embeddings, k: int, *, read: int, reordered: int) -> Rows:
        rows: Rows = index.search(queries[0], k, pre_reorder_num_neighbors=reordered, leaves_to_search=read)[0]
        return rows[None]

    def search_batch(queries: Embeddings, k: int, *, read: int, reordered: int) -> Rows:
        rows: Rows = index.search_batched_parallel(
            queries, k, pre_reorder_num_neighbors=reordered, leaves_to_search=read
        )[0]
        return rows

    for read, reordered in product((min(read, leaves) for read in _LEAVES_READ), _REORDERED):
        yield Way(
            f"ScaNN, {read} of {leaves} leaves, {reordered} reordered",
            seconds,
            partial(search_one, read=read, reordered=reordered),
            partial(search_batch, read=read, reordered=reordered),
        )


def _svs_ways(vectors: Embeddings, _k: int, threads: int) -> Iterator[Way]:
    """Yield a graph of 32-bit vectors."""
    import svs

    start = perf_counter()
    how = svs.VamanaBuildParameters(graph_max_degree=64, window_size=128, alpha=0.95)
    index = svs.Vamana.build(how, vectors, svs.DistanceType.MIP, num_threads=threads)
    seconds = perf_counter() - start

    def search(queries: Embeddings, k: int, *, window: int, among: int) -> Rows:
        if (index.search_window_size, index.num_threads) != (window, among):
            index.search_window_size, index.num_threads = window, among
        return np.asarray(index.search(queries, k)[0], dtype=np.int64)

    for window in _WINDOWS:
        search_one, search_batch = (partial(search, window=window, among=among) for among in (1, threads))
        yield Way(f"SVS Vamana, window {window}", seconds, search_one, search_batch)
