"""Nearest rows by inner product, found by FAISS."""

import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from index.built.effort import EFFORTS, Effort
from index.built.gpu import Scan, engine_for, scan_for
from index.built.kinds import KINDS, Wanted, empty_store, lists_by_row, require_sound
from index.errors import ArtefactError
from index.vectors import Embeddings, Mask, Rows

Similarities = npt.NDArray[np.float32]

EXACT_SHARE = 0.05
"""Where fewer rows than this share pass a filter, scanning just those is both exact and quicker."""
_MOST_LOOPS = 1 << 24
_READ_BYTES = _WRITTEN_BYTES = 1 << 20
_OF_VECTORS = (b"IxFI", b"IxF2", b"IxFl", b"IxSQ")
"""How files of plain vectors begin, by metric, and of those in 16 bits."""
_reading = threading.Lock()
_BLOCK = 1 << 18
"""Rows that go to a GPU at a time: 0.5 GB of 512 dimensions."""
_COPIED_ROWS = 16_384
"""Rows that a selection may hold a copy of: 17 MB of 512 dimensions in half precision."""
_OBJECTS_BYTES = 4096
"""Of a selection beside its arrays: objects, and the bits of an index's lists."""


@dataclass(frozen=True)
class Selection:
    """The rows that a filter passes, as FAISS wants them: made once, used by any number of searches."""

    mask: Mask
    passing: int
    few: bool
    """Whether so few pass that they are scanned exactly."""
    rows: Rows
    """(passing,) where few pass, else empty."""
    selector: faiss.IDSelector
    lists: int = 0
    list_selector: faiss.IDSelector | None = None
    copied: faiss.Index | None = None
    """Half-precision vectors of a few rows, side by side."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes, a little for its objects included."""
        bits = 0 if self.few else len(self.mask) // 8
        copied = 0 if self.copied is None else self.copied.ntotal * self.copied.code_size
        return self.mask.nbytes + self.rows.nbytes + bits + copied + _OBJECTS_BYTES


class VectorIndex:
    """All vectors and, for an approximate kind, a quicker second way to the nearest. Immutable; safe under threads."""

    def __init__(
        self,
        exact: faiss.Index,
        approximate: faiss.Index | None = None,
        kind: str = "flat",
        effort: Effort = EFFORTS[0],
        mapped: "_Mapped | None" = None,
    ) -> None:
        self._exact, self._mapped = exact, mapped
        self._approximate = approximate
        self.kind = kind
        self.effort = effort
        refined = approximate is not None and KINDS[kind].refined
        self._quick = faiss.IndexRefine(approximate, exact) if refined else approximate
        self._lists = lists_by_row(approximate)
        self._scan: Scan | None = None

    @classmethod
    def build(
        cls,
        embeddings: Embeddings | Iterable[Embeddings],
        kind: str = "flat",
        rows: int | None = None,
        device: str = "cpu",
    ) -> "VectorIndex":
        """Return an index over (N, D) unit vectors, given whole or in blocks.

        Args:
            kind: a key of KINDS.
            rows: N, where it is known; blocks are then held once, and at their peak twice where it is not.
            device: what makes its lists, of `index.built.gpu.DEVICES`.

        Raises:
            NoGpu: one is asked for and cannot be had.
        """
        engine = engine_for(device)
        blocks = [embeddings] if isinstance(embeddings, np.ndarray) else embeddings
        exact = None
        for block in blocks:
            exact = exact or empty_store(kind, block.shape[1], rows or len(block))
            exact.add(block)
        assert exact is not None  # an empty export is refused before
        build = KINDS[kind].build
        return cls(exact, None if build is None else build(exact, engine), kind)

    def as_kind(self, kind: str, device: str = "cpu") -> "VectorIndex":
        """Return the same vectors, kept as they are, with the second way of another kind.

        Raises:
            NoGpu: one is asked for and cannot be had.
        """
        build = KINDS[kind].build
        return VectorIndex(self._exact, None if build is None else build(self._exact, engine_for(device)), kind)

    def with_effort(self, effort: Effort) -> "VectorIndex":
        """Return the same vectors, searched with that effort."""
        other = copy(self)
        other.effort = effort
        return other

    def on(self, device: str) -> "VectorIndex":
        """Return the same vectors, copied to a GPU where `device` says so and there is one: see `scan_for`.

        Raises:
            NoGpu: one is asked for and cannot be had.
        """
        rows = len(self)
        blocks = (self._exact.reconstruct_n(start, min(_BLOCK, rows - start)) for start in range(0, rows, _BLOCK))
        other = copy(self)
        other._scan = scan_for(device, blocks, rows, self.embedding_dim)
        return other

    def save(self, exact: Path, approximate: Path) -> None:
        """Write the exact part and, where there is one, the approximate part."""
        _write(self._exact, exact)
        if self._approximate is not None:
            _write(self._approximate, approximate)

    @classmethod
    def load(cls, exact: Path, approximate: Path | None, kind: str, effort: Effort = EFFORTS[0]) -> "VectorIndex":
        """Return the index of files whose SHA-256 was checked before; the exact part is memory-mapped.

        Raises:
            ArtefactError: FAISS cannot read a file, or what it reads is no index of that kind.
        """
        mapped = _Mapped(exact)
        try:
            store = _read(exact, mapped=True)
            quick = None if approximate is None else _read(approximate)
            require_sound(store, quick, kind)
        except (RuntimeError, MemoryError) as error:
            raise ArtefactError(f"FAISS cannot read {str(exact.parent)!r}; run precedent index again") from error
        except ArtefactError as error:
            raise ArtefactError(f"{str(exact.parent)!r}: {error}; run precedent index again") from error
        return cls(store, quick, kind, effort, mapped)

    def _require_whole(self) -> None:
        if self._mapped is not None:
            self._mapped.require_whole()

    def __len__(self) -> int:
        return int(self._exact.ntotal)

    @property
    def embedding_dim(self) -> int:
        """D of every row."""
        return int(self._exact.d)

    @property
    def precision(self) -> str:
        """How the vectors are kept: fp32 or fp16."""
        return "fp16" if KINDS[self.kind].half else "fp32"

    def vectors(self, rows: Rows) -> Embeddings:
        """Return the stored (n, D) vectors of rows. Raises ArtefactError: their file was cut off."""
        self._require_whole()
        return self._exact.reconstruct_batch(np.ascontiguousarray(rows, dtype=np.int64))

    def select(self, mask: Mask) -> Selection:
        """Return the rows of a mask (N,) bool, ready for any number of searches. Raises ArtefactError as `vectors`."""
        self._require_whole()
        passing = int(np.count_nonzero(mask))
        if passing < EXACT_SHARE * len(self):
            rows = np.flatnonzero(mask)
            copied = self._copied(rows) if KINDS[self.kind].half and passing <= _COPIED_ROWS else None
            return Selection(mask, passing, True, rows, faiss.IDSelectorArray(rows), copied=copied)
        selection = Selection(mask, passing, False, np.empty(0, np.int64), _selector_of(mask))
        if self._lists is None:
            return selection
        list_of, count = self._lists
        held = np.bincount(list_of[mask], minlength=count) > 0
        return replace(selection, lists=int(np.count_nonzero(held)), list_selector=_selector_of(held))

    def is_exact(self, exact: bool, selection: Selection | None) -> bool:
        """Return whether a search over these rows would be exact."""
        whole = self._quick is None or (self._scan is not None and selection is None)
        return exact or whole or (selection is not None and selection.few)

    def search(
        self, queries: Embeddings, k: int, *, among: Selection | None = None, exact: bool = False
    ) -> tuple[Similarities, Rows]:
        """Return the k nearest rows of each query, most similar first.

        Args:
            queries: (Q, D) unit vectors.
            k: at least 1; what is missing to k is filled with row -1.
            among: the rows that may be found; None for all.
            exact: compare every vector, in the precision it is kept in.

        Returns:
            similarities: (Q, k) cosine in [-1, 1], descending; rows: (Q, k) int64.

        Raises:
            ArtefactError: the file of the vectors was cut off since it was opened.
        """
        self._require_whole()
        if self._scan is None or (among is not None and among.few):
            return self._by_processor(queries, k, among, exact)

        def compare(asked: Rows, rows: Rows) -> Similarities:
            similar = self._compared(queries[asked], rows)
            return similar if among is None else np.where(among.mask[rows], similar, -np.inf)

        rows, similarities, left = self._scan.first(queries, k, compare)
        if len(left):
            similarities[left], rows[left] = self._by_processor(queries[left], k, among, exact)
        return similarities.astype(np.float32), rows

    def _compared(self, queries: Embeddings, rows: Rows) -> Similarities:
        """Return the similarities (Q, n) of queries to rows (Q, n) of each, by the vectors as they are stored."""
        vectors = self._exact.reconstruct_batch(rows.ravel()).reshape(*rows.shape, -1)
        similar: Similarities = np.matmul(vectors, queries[:, :, None])[:, :, 0]
        return similar

    def _by_processor(
        self, queries: Embeddings, k: int, among: Selection | None, exact: bool
    ) -> tuple[Similarities, Rows]:
        with _alone(len(queries)):
            if self.is_exact(exact, among):
                return self._exact.search(queries, k) if among is None else self._compare_some(queries, k, among)
            return self._approach(queries, k, among)

    def _approach(self, queries: Embeddings, k: int, among: Selection | None) -> tuple[Similarities, Rows]:
        """Search the quick way."""
        parameters = KINDS[self.kind].parameters
        assert self._quick is not None  # is_exact would have said so
        assert parameters is not None
        wanted = Wanted(k, len(self), self.effort, 0 if self._lists is None else self._lists[1])
        if among is not None:
            wanted = Wanted(k, among.passing, self.effort, among.lists, among.selector, among.list_selector)
        return self._quick.search(queries, k, params=parameters(wanted))

    def _compare_some(self, queries: Embeddings, k: int, among: Selection) -> tuple[Similarities, Rows]:
        """Compare the vectors of the passing rows alone."""
        if not (among.few and KINDS[self.kind].half):
            return self._exact.search(queries, k, params=faiss.SearchParameters(sel=among.selector))
        copied = self._copied(among.rows) if among.copied is None else among.copied
        similarities, positions = copied.search(queries, k)
        return similarities, np.append(among.rows, -1)[positions]

    def _copied(self, rows: Rows) -> faiss.Index:
        """Return an index of some rows in half precision, where FAISS would look at all to filter them."""
        codes = faiss.rev_swig_ptr(self._exact.codes.data(), len(self) * self._exact.code_size)
        some = empty_store(self.kind, self.embedding_dim)
        some.add_sa_codes(codes.reshape(len(self), -1)[rows])
        return some


class _Mapped:
    """A file that is mapped into memory, held open to see what becomes of it, though its name may be gone.

    To touch what was cut off it ends a process (SIGBUS), without a word.
    """

    def __init__(self, path: Path) -> None:
        """Take a file as it is. Raises FileNotFoundError."""
        self._path, self._handle = path, os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
        self._bytes = os.fstat(self._handle).st_size

    def require_whole(self) -> None:
        """Raise ArtefactError where the file is shorter than it was."""
        if os.fstat(self._handle).st_size < self._bytes:
            raise ArtefactError(
                f"{str(self._path)!r} was cut short while it was being searched; restore a snapshot, or index the "
                "export again"
            )


@contextmanager
def _alone(queries: int) -> Iterator[None]:
    """Let one query run on the thread that asks: to wake others for its millisecond takes longer where they are busy.

    OpenMP keeps this number for each thread apart, so no other search sees it.
    """
    threads = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1 if queries == 1 else threads)
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _read(path: Path, *, mapped: bool = False) -> faiss.Index:
    """Return what FAISS reads from a file; no array in it may claim more bytes than the file has.

    Lists can be said to lie in a further file, anywhere, which FAISS would open and map: it refuses them where it is
    to look in the folder of a file and is given none. An index that is mapped holds vectors alone.

    Raises:
        ArtefactError: what is to be mapped is no index of vectors. RuntimeError, MemoryError: FAISS cannot read it.
    """
    with _reading, path.open("rb") as file:
        faiss.set_deserialization_vector_byte_limit(path.stat().st_size)  # of the process, so one reads at a time
        faiss.set_deserialization_loop_limit(_MOST_LOOPS)
        if not mapped:
            return faiss.read_index(faiss.PyCallbackIOReader(file.read, _READ_BYTES), faiss.IO_FLAG_ONDISK_SAME_DIR)
        if file.read(4) not in _OF_VECTORS:
            raise ArtefactError("expected FAISS files as this version writes them, got another index than of vectors")
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def _write(index: faiss.Index, path: Path) -> None:
    """Write an index by Python's file: FAISS's own says nothing where the disk is full for its last block."""
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, _WRITTEN_BYTES))


def _selector_of(mask: Mask) -> faiss.IDSelector:
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
