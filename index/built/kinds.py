"""The kinds of index there are: one table of how each is built, and how it is asked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from index.built.effort import Effort, lists_of
from index.built.gpu import Engine, middles_of
from index.errors import ArtefactError
from index.vectors import Embeddings

EXACT_UP_TO = 50_000
"""Rows that `auto` still searches exactly: a scan of 50,000 x 512 takes some 15 ms on two cores."""
FP32_UP_TO = 500_000
"""Rows that `auto` keeps in single precision; a million of 512 dimensions would be 2 GB, in halves it is 1 GB."""

_HNSW_LINKS = 32
_TRAINING_ROWS_A_LIST = 64
_FEWEST_TRAINING_ROWS = 16
"""Fewer are repeated, for a code of four bits has so many values."""
_TURNING_ROWS = 1 << 13
_CODED_DIRECTIONS = 128
"""Directions that four-bit codes keep."""
_BLOCK = 1 << 16
_MOST_LISTS = 1 << 16
_FILE_BYTES = 1 << 20
"""Of a FAISS file, beside what grows with its rows."""
_BYTES_A_ROW = 1024
"""Of links, codes and numbers, beside a vector."""
_SIZES = (
    "d",
    "metric_type",
    "code_size",
    "nlist",
    "bbs",
    "M",
    "M2",
    "ksub",
    "nbits",
    "by_residual",
    "qb",
    "centered",
    "implem",
    "qbs",
    "qbs2",
    "skip",
    "max_codes",
    "parallel_mode",
)
"""What a search reckons with, and no index of a kind has otherwise."""


@dataclass(frozen=True)
class Wanted:
    """What one search asks of an approximate kind."""

    hits: int
    passing: int
    """Rows that pass the filter; all without one."""
    effort: Effort
    lists: int
    """Lists with a row that passes; 0 where there are no lists."""
    selector: faiss.IDSelector | None = None
    list_selector: faiss.IDSelector | None = None
    """Of those lists: where the film itself decides what passes, the lists nearest to it may hold nothing."""


@dataclass(frozen=True)
class Kind:
    """One way to search: how the vectors are kept, and the quicker second way where there is one."""

    says: str
    half: bool = False
    build: Callable[[faiss.Index, Engine | None], faiss.Index] | None = None
    codes: Callable[[int, int], faiss.Index] | None = None
    """What makes an inverted file of no row yet, for dimensions and lists; None where there are no lists."""
    parameters: Callable[[Wanted], faiss.SearchParameters] | None = None
    refined: bool = True
    """Whether the second way gives candidates, to be compared again by their vectors."""


def _build_hnsw(store: faiss.Index, _engine: Engine | None) -> faiss.Index:
    graph = _empty_graph(store.d)
    graph.hnsw.efConstruction = 80
    graph.add(store.reconstruct_n(0, store.ntotal))
    return graph


def _empty_graph(dim: int) -> faiss.Index:
    return faiss.IndexHNSWFlat(dim, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)


def _hnsw_parameters(wanted: Wanted) -> faiss.SearchParameters:
    beam = wanted.effort.beam_for(wanted.hits, wanted.selector is not None)
    return faiss.SearchParametersHNSW(efSearch=beam, sel=wanted.selector)


def _build_lists(empty: Callable[[int, int], faiss.Index], store: faiss.Index, engine: Engine | None) -> faiss.Index:
    """Return codes in an inverted file, of the sort that `empty` makes for dimensions and lists."""
    lists = lists_of(store.ntotal)
    codes = empty(store.d, lists)
    faiss.downcast_index(codes.index).cp.niter = 10
    rows = np.linspace(0, store.ntotal - 1, min(store.ntotal, lists * _TRAINING_ROWS_A_LIST)).astype(np.int64)
    sample = store.reconstruct_batch(np.resize(rows, max(len(rows), _FEWEST_TRAINING_ROWS)))
    _train_turn(faiss.downcast_VectorTransform(codes.chain.at(0)), sample[:: max(len(sample) // _TURNING_ROWS, 1)])
    blocks = (store.reconstruct_n(start, min(_BLOCK, store.ntotal - start)) for start in range(0, store.ntotal, _BLOCK))
    if engine is not None:
        return _listed_on(engine, codes, sample, blocks)
    codes.train(sample)
    for block in blocks:
        codes.add(block)
    return codes


def _listed_on(engine: Engine, codes: faiss.Index, sample: Embeddings, blocks: Iterator[Embeddings]) -> faiss.Index:
    """Return codes in lists that an engine makes and fills; the codes themselves are made here.

    FAISS takes rows whose list is known into the layout from which the one for searching is made, not into that.
    """
    turn, inverted = faiss.downcast_VectorTransform(codes.chain.at(0)), faiss.downcast_index(codes.index)
    middles = middles_of(engine, turn.apply(sample), inverted.nlist, inverted.cp)
    quantizer, nearest = faiss.IndexFlatIP(inverted.d), engine.empty(inverted.d, half=False)
    quantizer.add(middles)
    nearest.add(middles)
    filled = _to_be_filled(inverted, quantizer)
    filled.train(turn.apply(sample))
    for block in blocks:
        turned = turn.apply(block)
        lists = np.ascontiguousarray(nearest.search(turned, 1)[1])
        filled.add_core(len(block), faiss.swig_ptr(turned), None, faiss.swig_ptr(lists))
    quick = type(inverted)(filled)
    if isinstance(inverted, faiss.IndexIVFRaBitQFastScan):
        quick.qb, quick.centered = inverted.qb, inverted.centered
    return faiss.clone_index(faiss.IndexPreTransform(turn, quick))  # which holds all that it is made of


def _to_be_filled(inverted: faiss.Index, quantizer: faiss.Index) -> faiss.Index:
    """Return no row yet, of the same codes in the layout that takes rows whose list is known."""
    if isinstance(inverted, faiss.IndexIVFRaBitQFastScan):
        return faiss.IndexIVFRaBitQ(quantizer, inverted.d, inverted.nlist, inverted.metric_type)
    codes = inverted.pq.M, inverted.pq.nbits
    filled = faiss.IndexIVFPQ(quantizer, inverted.d, inverted.nlist, *codes, inverted.metric_type)
    filled.pq.cp = inverted.pq.cp
    return filled


def _one_bit_codes(dim: int, lists: int) -> faiss.Index:
    """Return an inverted file, of no row yet, of one bit a dimension (RaBitQ, Gao and Long, SIGMOD 2024).

    The rotation spreads each direction over all bits; without it, embeddings with a few strong axes lose recall.
    """
    codes = faiss.index_factory(dim, f"RR{dim},IVF{lists},RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    faiss.downcast_index(codes.index).cp.min_points_per_centroid = 1
    return codes


def _four_bit_codes(dim: int, lists: int) -> faiss.Index:
    """Return an inverted file, of no row yet, of four bits for each of the directions in which vectors are longest.

    It is a product quantizer, in registers (Andre, Kermarrec and Le Scouarnec, VLDB 2015), of what the middle of a list
    leaves. FAISS never gives a row whose code is the least there can be, as where all rows are the same.
    """
    kept = min(dim, _CODED_DIRECTIONS)
    inverted = faiss.index_factory(kept, f"IVF{lists},PQ{kept}x4fsr", faiss.METRIC_INNER_PRODUCT)
    inverted.cp.min_points_per_centroid = inverted.pq.cp.min_points_per_centroid = 1
    return faiss.IndexPreTransform(faiss.LinearTransform(dim, kept, False), inverted)


def _train_turn(turn: faiss.VectorTransform, sample: Embeddings) -> None:
    """Make the matrix by which vectors are turned before they are coded.

    For four bits its first row is the mean of all: a direction in which they are long and hardly differ, which the
    others would lose in their rounding. The others are those in which vectors differ most, turned to be equally wide.
    """
    if isinstance(turn, faiss.RandomRotationMatrix):
        turn.train(sample)
        return
    mean = sample.mean(axis=0, dtype=np.float64)
    rest = sample - np.outer(sample @ mean, mean) / max(mean @ mean, 1e-12)
    widest = np.linalg.eigh(rest.T @ rest)[1][:, ::-1][:, : turn.d_out - 1]
    mixed = np.linalg.qr(np.random.default_rng(0).normal(size=(turn.d_out - 1, turn.d_out - 1)))[0]
    rows = np.linalg.qr(np.column_stack([mean, widest @ mixed]))[0].T
    faiss.copy_array_to_vector(np.ascontiguousarray(rows, dtype=np.float32).ravel(), turn.A)
    turn.is_trained = True


def _some_lists(wanted: Wanted) -> faiss.SearchParameters:
    filtered = wanted.selector is not None
    return _refined(wanted, wanted.effort.probes_for(wanted.hits, wanted.passing, wanted.lists, filtered))


def _every_list(wanted: Wanted) -> faiss.SearchParameters:
    return _refined(wanted, wanted.lists)


def _refined(wanted: Wanted, probes: int) -> faiss.SearchParameters:
    factor = wanted.effort.shortlist_for(wanted.hits) / wanted.hits
    if wanted.selector is None:
        return _among_all(factor, probes)
    return _among(factor, probes, wanted.selector, wanted.list_selector)


def _among(
    factor: float, probes: int, rows: faiss.IDSelector | None = None, lists: faiss.IDSelector | None = None
) -> faiss.SearchParameters:
    nearest_lists = None if lists is None else faiss.SearchParameters(sel=lists)
    inverted = faiss.SearchParametersIVF(nprobe=probes, sel=rows, quantizer_params=nearest_lists)
    turned = faiss.SearchParametersPreTransform(index_params=inverted)
    return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=turned)


_among_all = lru_cache(maxsize=64)(_among)  # to make them takes a tenth of a search


_LISTED = partial(Kind, build=partial(_build_lists, _one_bit_codes), codes=_one_bit_codes, parameters=_some_lists)
_FOUR_BITS = partial(_LISTED, build=partial(_build_lists, _four_bit_codes), codes=_four_bit_codes)
KINDS = {
    "flat": Kind("every vector compared"),
    "ivf": _LISTED("one-bit codes in lists, the best compared again by their vectors"),
    "ivf-half": _LISTED("as ivf, vectors kept in half precision", half=True),
    "ivf-pq4": _FOUR_BITS("as ivf, by four bits for each of 128 directions"),
    "ivf-pq4-half": _FOUR_BITS("as ivf-pq4, vectors kept in half precision", half=True),
    "codes": _LISTED("as ivf, but every code is read", parameters=_every_list),
    "hnsw": Kind("a graph of neighbours", build=_build_hnsw, parameters=_hnsw_parameters, refined=False),
}
"""Every way to search there is; `kinds_for` picks by size."""


def kinds_for(rows: int) -> tuple[str, ...]:
    """Return the kinds that `auto` stands for at this size: the one to build, and one for where it finds too little.

    Four bits are for directions in which vectors differ, and lose those that differ alike in all.
    """
    if rows <= EXACT_UP_TO:
        return ("flat",)
    return ("ivf-pq4", "ivf") if rows <= FP32_UP_TO else ("ivf-pq4-half", "ivf-half")


def resolve_kind(kind: str, rows: int) -> str:
    """Return the kind that `auto` stands for at this size; any other stays itself."""
    return kinds_for(rows)[0] if kind == "auto" else kind


def empty_store(kind: str, dim: int, room: int = 0) -> faiss.Index:
    """Return an index of no vectors yet, in the precision of the kind, with room for so many."""
    store: faiss.Index = faiss.IndexFlatIP(dim)
    if KINDS[kind].half:
        store = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    store.codes.resize(room * store.code_size)  # without it the vectors are copied as they grow, at twice the memory
    store.codes.resize(0)
    return store


def require_sound(store: faiss.Index, quick: faiss.Index | None, kind: str) -> None:
    """Raise ArtefactError unless what was read from files is an index as `kind` builds it: a search might crash else.

    Looked at are types, sizes, and every row number that a search follows.
    """
    _require_alike(store, empty_store(kind, store.d))
    if (quick is None) != (KINDS[kind].build is None):
        raise _unsound("one part alone")
    if quick is None:
        return
    if (codes := KINDS[kind].codes) is not None:
        _require_lists(quick, store, codes)
    else:
        _require_graph(quick, store)


def most_bytes(kind: str, rows: int, dim: int) -> tuple[int, int]:
    """Return the most bytes that the files of an index of that kind have: of its vectors, and of its second way."""
    vectors = (2 if KINDS[kind].half else 4) * rows * dim
    return vectors + _FILE_BYTES, rows * (4 * dim + _BYTES_A_ROW) + 4 * dim * (dim + _MOST_LISTS) + _FILE_BYTES


def _require_lists(loaded: faiss.Index, store: faiss.Index, empty: Callable[[int, int], faiss.Index]) -> None:
    codes = faiss.try_extract_index_ivf(loaded)
    if codes is None or not 1 <= codes.nlist <= _MOST_LISTS:
        raise _unsound(f"{type(loaded).__name__} as its second way")
    expected = empty(store.d, codes.nlist)
    _require_alike(loaded, expected, store.ntotal)
    _require_alike(codes, expected.index, store.ntotal)
    _require_alike(codes.quantizer, faiss.extract_index_ivf(expected).quantizer, codes.nlist)
    _require_turn(loaded, faiss.downcast_VectorTransform(expected.chain.at(0)))
    rows = np.concatenate([_ids_of(codes, number) for number in range(codes.nlist)])
    if not np.array_equal(np.sort(rows), np.arange(store.ntotal)):
        raise _unsound("lists that do not hold each row once")


def _require_turn(loaded: faiss.Index, expected: faiss.VectorTransform) -> None:
    """Raise ArtefactError unless vectors are turned, before they are coded, by one matrix of the expected sizes."""
    turn: Any = faiss.downcast_VectorTransform(loaded.chain.at(0)) if loaded.chain.size() == 1 else None
    if type(turn) is not type(expected) or (turn.d_in, turn.d_out) != (expected.d_in, expected.d_out):
        raise _unsound("another rotation")
    if turn.A.size() != turn.d_in * turn.d_out or turn.have_bias:
        raise _unsound("a rotation of other sizes")


def _require_graph(loaded: faiss.Index, store: faiss.Index) -> None:
    expected, rows = _empty_graph(store.d), store.ntotal
    _require_alike(loaded, expected, rows)
    _require_alike(loaded.storage, expected.storage, rows)
    graph = loaded.hnsw
    links, levels, starts, sums, usual = (
        faiss.vector_to_array(array).astype(np.int64)
        for array in (
            graph.neighbors,
            graph.levels,
            graph.offsets,
            graph.cum_nneighbor_per_level,
            expected.hnsw.cum_nneighbor_per_level,
        )
    )
    if len(levels) != rows or len(starts) != rows + 1 or not np.array_equal(sums, usual[: len(sums)]) or not rows:
        raise _unsound("a graph of other sizes")
    tops = levels[graph.entry_point] - 1 if 0 <= graph.entry_point < rows else -1
    if levels.min() < 1 or levels.max() >= len(sums) or not 0 <= graph.max_level <= tops:
        raise _unsound("a graph of other levels")
    if starts[0] or starts[-1] != len(links) or not np.array_equal(np.diff(starts), sums[levels]):
        raise _unsound("a graph whose rows overlap")
    if links.min() < -1 or links.max() >= rows:
        raise _unsound("a graph that leads out of it")
    for level in range(1, int(levels.max())):  # who is linked at a level is there
        upper = starts[:-1][levels > level]
        linked = links[(upper[:, None] + np.arange(sums[level], sums[level + 1])).ravel()]
        if (levels[linked[linked >= 0]] <= level).any():
            raise _unsound("a graph that leads out of a level")


def _require_alike(loaded: faiss.Index, expected: faiss.Index, rows: int | None = None) -> None:
    """Raise ArtefactError unless an index is of the type and the sizes of an empty one, with so many rows."""
    index, empty = faiss.downcast_index(loaded), faiss.downcast_index(expected)  # both live as long as what they are of
    flat = (faiss.IndexFlat, faiss.IndexFlatIP)  # the second by the name under which FAISS reads the first again
    if type(index) is not type(empty) and not (type(index) in flat and type(empty) in flat):
        raise _unsound(f"{type(index).__name__} for {type(empty).__name__}")
    differing = [name for name in _SIZES if getattr(index, name, None) != getattr(empty, name, None)]
    if differing or not index.is_trained or (rows is not None and index.ntotal != rows):
        raise _unsound(f"another {(differing or ['number of rows'])[0]}")
    if hasattr(index, "pq") and _sizes_of(index.pq) != (*_sizes_of(empty.pq)[:-1], index.d * empty.pq.ksub):
        raise _unsound("a product quantizer of other sizes")
    if hasattr(index, "codes") and index.codes.size() != index.ntotal * index.code_size:
        raise _unsound("another number of vectors")


def _sizes_of(quantizer: faiss.ProductQuantizer) -> tuple[int, ...]:
    return quantizer.d, quantizer.M, quantizer.nbits, quantizer.ksub, quantizer.dsub, quantizer.centroids.size()


def _unsound(what: str) -> ArtefactError:
    return ArtefactError(f"expected FAISS files as this version writes them, got {what}")


def _ids_of(codes: faiss.Index, number: int) -> npt.NDArray[np.int64]:
    size = codes.invlists.list_size(number)
    ids: npt.NDArray[np.int64] = faiss.rev_swig_ptr(codes.invlists.get_ids(number), size).copy()
    return ids


def lists_by_row(codes: faiss.Index | None) -> tuple[npt.NDArray[np.int32], int] | None:
    """Return the list that each row lies in and the number of lists; None where there are no lists."""
    if codes is None or (inverted := faiss.try_extract_index_ivf(codes)) is None:
        return None
    lists = np.empty(codes.ntotal, dtype=np.int32)
    for number in range(inverted.nlist):
        size = inverted.invlists.list_size(number)
        if size:
            lists[faiss.rev_swig_ptr(inverted.invlists.get_ids(number), size)] = number
    return lists, inverted.nlist
