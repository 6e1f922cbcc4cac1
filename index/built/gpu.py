"""A GPU as FAISS uses it: every row compared in half precision, and lists made.

`GpuIndexFlat` disregards an IDSelector without a word, so nothing here is given a filter. Who asks gets rows and what
no other row exceeds, chooses among them by vectors of their own, and sees whether more are to be asked for.
"""

import ctypes
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from index.errors import NoGpu
from index.vectors import Embeddings, Rows

Similar = npt.NDArray[np.floating[Any]]

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "gpu")
MOST_NEAREST = 2048
"""Rows that FAISS's selection on a GPU can return for a query."""
_SPARE = 32
"""Rows asked for beyond those wanted: what differs by rounding alone seldom takes a second look."""
_WORK_BYTES = 1 << 28
"""Of a GPU's memory that FAISS computes in, for each collection."""
_SHARE = 0.75
"""Of a GPU's memory that a collection may take, so that an encoder has some too."""
_CELLS = 1 << 25
"""Numbers of vectors that are compared again at a time: 128 MB."""


class Engine(Protocol):
    """What keeps vectors where they are compared fast; `tests/worlds` has one without a GPU."""

    @property
    def name(self) -> str:
        """What it is called in a refusal."""

    @property
    def memory(self) -> int:
        """Bytes; 0 where they are not known."""

    def empty(self, dim: int, *, half: bool) -> faiss.Index:
        """Return an index of inner products with no vector yet, kept in 16 or 32 bits."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU that FAISS sees."""

    name: str
    memory: int
    resources: Any

    def empty(self, dim: int, *, half: bool) -> faiss.Index:
        """Return an index on the GPU; sums are of 32 bits either way."""
        config = faiss.GpuIndexFlatConfig()
        config.useFloat16 = half
        return faiss.GpuIndexFlatIP(self.resources, dim, config)


class Seen(NamedTuple):
    """What FAISS has of GPUs: whether it is built for them, how many it sees, and the first one's name and bytes."""

    built: bool
    gpus: int
    name: str = ""
    memory: int = 0


def seen() -> Seen:
    """Return what the installed FAISS can do with a GPU, and which it sees."""
    if not hasattr(faiss, "StandardGpuResources"):
        return Seen(False, 0)
    count = faiss.get_num_gpus()
    return Seen(True, count, *_first_gpu()) if count else Seen(True, 0)


def engine_for(device: str) -> Engine | None:
    """Return the GPU to use, None for the processor.

    Args:
        device: of DEVICES; auto is a GPU where FAISS sees one.

    Raises:
        NoGpu: one is asked for, and FAISS is not built for it or sees none.
    """
    if device == "cpu":
        return None
    faiss_gpus = seen()
    if faiss_gpus.gpus:
        return _gpu_of(faiss_gpus)
    if device == "auto":
        return None
    if faiss_gpus.built:
        raise NoGpu("expected a GPU, FAISS sees none here; look at nvidia-smi for its driver, or take --device cpu")
    raise NoGpu(
        "expected a FAISS that uses a GPU, got faiss-cpu; run: pip uninstall faiss-cpu, then pip install '.[gpu]', or "
        "take --device cpu"
    )


def _gpu_of(faiss_gpus: Seen) -> Engine:
    resources = faiss.StandardGpuResources()  # of one index alone, for it is not safe under threads
    resources.setTempMemory(_WORK_BYTES)
    return Gpu(faiss_gpus.name, faiss_gpus.memory, resources)


def _first_gpu() -> tuple[str, int]:
    """Return name and bytes of the first GPU, as its driver tells them."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "a GPU", 0
    device, size, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return name.value.decode(errors="replace"), size.value


class Scan:
    """Every row of a collection, compared in half precision. Safe under threads: one search at a time."""

    def __init__(self, engine: Engine, blocks: Iterable[Embeddings], rows: int, dim: int) -> None:
        """Copy (n, D) vectors to the engine, block by block.

        Raises:
            NoGpu: they do not fit.
        """
        if engine.memory and 4 * rows * dim > _SHARE * engine.memory:  # FAISS copies them as they grow
            raise _too_large(engine, rows, dim)
        self.dim, self._rows, self._alone = dim, rows, threading.Lock()
        self._off = self._longest = 0.0
        try:
            self._index = engine.empty(dim, half=True)
            for block in blocks:
                self._index.add(block)
                self._off = max(self._off, float(_rounding(block).max()))
                self._longest = max(self._longest, float(np.linalg.norm(block, axis=1).max()))
        except RuntimeError as error:  # FAISS's, of memory that cannot be had
            raise _too_large(engine, rows, dim) from error

    def nearest(self, queries: Embeddings, count: int) -> tuple[Rows, Similar]:
        """Return the rows nearest to each query in half precision, and what the similarity of no other row exceeds.

        Rounding moves a similarity by at most the norm of what it takes from one vector times the norm of the other;
        sums of D numbers in 32 bits and similarities of six decimals are on top.

        Args:
            queries: (Q, D). count: at most MOST_NEAREST and the number of rows.

        Returns:
            rows: (Q, count); most: (Q,), minus infinity where every row is among them.
        """
        with self._alone:
            similarities, rows = self._index.search(queries, count)
        if count == self._rows:
            return rows, np.full(len(queries), -np.inf)
        norms = np.linalg.norm(queries, axis=1)
        off = _rounding(queries) * (self._longest + self._off) + norms * self._off
        return rows, similarities[:, -1] + off + norms * self._longest * self.dim * 2.0**-23 + 1e-6

    def first(
        self, queries: Embeddings, k: int, compare: Callable[[Rows, Rows], Similar], ties: Rows | None = None
    ) -> tuple[Rows, Similar, Rows]:
        """Return the first k rows of each query by `compare`, as a scan of all rows by it would find them.

        Args:
            queries: (Q, D).
            compare: gives, for numbers of queries (q,) and rows of each (q, n), their similarities (q, n), of which
                minus infinity says that a row may not be found.
            ties: (N,) what orders rows of equal similarity; their own number without it.

        Returns:
            rows: (Q, k), -1 where there is none; similarities: (Q, k); left: numbers of the queries for which no count
            of rows was enough, to be asked otherwise.
        """
        rows, similarities = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
        left = np.arange(len(queries))
        for count in self._counts(k):
            size = max(_CELLS // (count * self.dim), 1)
            unsure = []
            for asked in np.split(left, range(size, len(left), size)):
                rows_near, most = self.nearest(queries[asked], count)
                similar = compare(asked, rows_near)
                order = np.lexsort((rows_near if ties is None else ties[rows_near], -similar))[:, :k]
                best = np.take_along_axis(similar, order, 1)
                kept = min(k, count)
                rows[asked, :kept] = np.where(np.isfinite(best), np.take_along_axis(rows_near, order, 1), -1)
                similarities[asked, :kept] = best
                unsure.append(asked[~(similarities[asked, -1] > most) & np.isfinite(most)])
            left = np.concatenate(unsure)
            if not len(left):
                break
        return rows, similarities, left

    def _counts(self, k: int) -> Iterator[int]:
        """Yield how many rows to ask for, ever more, as long as so many can be had."""
        count = min(k + _SPARE, self._rows)
        while count <= MOST_NEAREST:
            yield count
            if count in (self._rows, MOST_NEAREST):
                return
            count = min(4 * count, self._rows, MOST_NEAREST)


def scan_for(device: str, blocks: Iterable[Embeddings], rows: int, dim: int) -> Scan | None:
    """Return vectors on the GPU; None where none is wanted, or for auto where they do not fit, which is logged.

    Raises:
        NoGpu: a GPU is asked for, and there is none or it is too small.
    """
    try:
        engine = engine_for(device)
        return None if engine is None else Scan(engine, blocks, rows, dim)
    except NoGpu as refusal:
        if device == "gpu":
            raise
        log.warning("searched by the processor: %s", refusal)
        return None


def middles_of(engine: Engine, sample: Embeddings, lists: int, how: faiss.ClusteringParameters) -> Embeddings:
    """Return the (lists, D) middles of k-means over a sample."""
    clustering = faiss.Clustering(sample.shape[1], lists, how)
    clustering.train(sample, engine.empty(sample.shape[1], half=False))
    middles: Embeddings = faiss.vector_to_array(clustering.centroids).reshape(lists, -1)
    return middles


def _rounding(vectors: Embeddings) -> Similar:
    """Return the norms (n,) of what half precision takes from vectors."""
    norms: Similar = np.linalg.norm(vectors - vectors.astype(np.float16).astype(np.float32), axis=1)
    return norms


def _too_large(engine: Engine, rows: int, dim: int) -> NoGpu:
    return NoGpu(
        f"expected {rows:,} vectors of {dim} dimensions to fit on {engine.name}, they do not; take --device cpu"
    )
