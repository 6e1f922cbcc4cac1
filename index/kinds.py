"""The kinds of index there are: one table of how each is built, and how it is asked.

Knows FAISS and sizes; knows nothing of files, studies or who is searching.
"""

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from index.effort import Effort, lists_of

EXACT_UP_TO = 50_000
"""Rows that `auto` still searches exactly: a scan of 50,000 x 512 takes some 15 ms on two cores."""
FP32_UP_TO = 500_000
"""Rows that `auto` keeps in single precision; a million of 512 dimensions would be 2 GB, in halves it is 1 GB."""

_HNSW_LINKS = 32
_TRAINING_ROWS_A_LIST = 64
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Wanted:
    """What one search asks of an approximate kind."""

    hits: int
    passing: int
    """Rows that pass the filter; all without one."""
    effort: Effort
    selector: faiss.IDSelector | None = None
    lists: int | None = None
    """Lists with a row that passes; None without a filter."""
    list_selector: faiss.IDSelector | None = None
    """Of those lists: where the film itself decides what passes, the lists nearest to it may hold nothing."""


@dataclass(frozen=True)
class Kind:
    """One way to search: how the vectors are kept, and the quicker second way where there is one."""

    says: str
    half: bool = False
    build: Callable[[faiss.Index], faiss.Index] | None = None
    parameters: Callable[[faiss.Index, Wanted], faiss.SearchParameters] | None = None
    refined: bool = True
    """Whether the second way gives candidates, to be compared again by their vectors."""


def _build_hnsw(store: faiss.Index) -> faiss.Index:
    graph = faiss.IndexHNSWFlat(store.d, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 80
    graph.add(store.reconstruct_n(0, store.ntotal))
    return graph


def _hnsw_parameters(graph: faiss.Index, wanted: Wanted) -> faiss.SearchParameters:
    beam = wanted.effort.beam_for(wanted.hits, wanted.selector is not None)
    return faiss.SearchParametersHNSW(efSearch=beam, sel=wanted.selector)


def _build_lists(store: faiss.Index) -> faiss.Index:
    """Return one-bit codes (RaBitQ, Gao and Long, SIGMOD 2024) in an inverted file.

    The rotation spreads each direction over all bits; without it, embeddings with a few strong axes lose recall.
    """
    lists = lists_of(store.ntotal)
    codes = faiss.index_factory(store.d, f"RR{store.d},IVF{lists},RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    clustering = faiss.extract_index_ivf(codes).cp
    clustering.niter, clustering.min_points_per_centroid = 10, 1
    sample = np.linspace(0, store.ntotal - 1, min(store.ntotal, lists * _TRAINING_ROWS_A_LIST)).astype(np.int64)
    codes.train(store.reconstruct_batch(sample))
    for start in range(0, store.ntotal, _BLOCK):
        codes.add(store.reconstruct_n(start, min(_BLOCK, store.ntotal - start)))
    return codes


def _some_lists(codes: faiss.Index, wanted: Wanted) -> faiss.SearchParameters:
    lists = faiss.extract_index_ivf(codes).nlist if wanted.lists is None else wanted.lists
    filtered = wanted.selector is not None
    return _refined(wanted, wanted.effort.probes_for(wanted.hits, wanted.passing, lists, filtered))


def _every_list(codes: faiss.Index, wanted: Wanted) -> faiss.SearchParameters:
    return _refined(wanted, faiss.extract_index_ivf(codes).nlist)


def _refined(wanted: Wanted, probes: int) -> faiss.SearchParameters:
    among = None if wanted.list_selector is None else faiss.SearchParameters(sel=wanted.list_selector)
    lists = faiss.SearchParametersIVF(nprobe=probes, sel=wanted.selector, quantizer_params=among)
    return faiss.IndexRefineSearchParameters(
        k_factor=wanted.effort.shortlist_for(wanted.hits) / wanted.hits,
        base_index_params=faiss.SearchParametersPreTransform(index_params=lists),
    )


KINDS = {
    "flat": Kind("every vector compared"),
    "ivf": Kind("one-bit codes in lists, the best compared again by their vectors", False, _build_lists, _some_lists),
    "ivf-half": Kind("as ivf, vectors kept in half precision", True, _build_lists, _some_lists),
    "codes": Kind("as ivf, but every code is read", False, _build_lists, _every_list),
    "hnsw": Kind("a graph of neighbours", False, _build_hnsw, _hnsw_parameters, refined=False),
}
"""Every way to search there is; `resolve_kind` picks one by size."""


def resolve_kind(kind: str, rows: int) -> str:
    """Return the kind that `auto` stands for at this size; any other stays itself."""
    if kind != "auto":
        return kind
    if rows <= EXACT_UP_TO:
        return "flat"
    return "ivf" if rows <= FP32_UP_TO else "ivf-half"


def empty_store(kind: str, dim: int, room: int = 0) -> faiss.Index:
    """Return an index of no vectors yet, in the precision of the kind, with room for so many."""
    store: faiss.Index = faiss.IndexFlatIP(dim)
    if KINDS[kind].half:
        store = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    store.codes.resize(room * store.code_size)  # without it the vectors are copied as they grow, at twice the memory
    store.codes.resize(0)
    return store


def lists_by_row(codes: faiss.Index | None) -> tuple[npt.NDArray[np.int32], int] | None:
    """Return the list that each row lies in and the number of lists; None where there are no lists."""
    if codes is None or (inverted := faiss.try_extract_index_ivf(codes)) is None:
        return None
    found = np.empty(codes.ntotal, dtype=np.int32)
    for number in range(inverted.nlist):
        size = inverted.invlists.list_size(number)
        if size:
            found[faiss.rev_swig_ptr(inverted.invlists.get_ids(number), size)] = number
    return found, inverted.nlist
