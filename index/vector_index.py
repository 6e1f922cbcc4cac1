"""Nearest rows by inner product; the only place that imports FAISS.

Knows vectors and row numbers; knows nothing of studies, patients or filters' grammar.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from index.errors import ArtefactError
from index.vectors import Embeddings

Similarities = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

EXACT_UP_TO = 50_000
"""Rows that `auto` still searches exactly: a scan of 50,000 x 512 takes some 15 ms on two cores."""
EXACT_SHARE = 0.05
"""Where fewer rows than this share pass a filter, scanning just those is both exact and quicker."""
_HNSW_LINKS = 32


@dataclass(frozen=True)
class Kind:
    """One way to search beside the exact one."""

    build: Callable[[Embeddings], faiss.Index]
    parameters: Callable[[faiss.IDSelector | None, int], faiss.SearchParameters]


def _build_hnsw(embeddings: Embeddings) -> faiss.Index:
    index = faiss.IndexHNSWFlat(embeddings.shape[1], _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.add(embeddings)
    return index


def _hnsw_parameters(selector: faiss.IDSelector | None, k: int) -> faiss.SearchParameters:
    # A filter leaves gaps in the graph walk: a wider beam keeps recall up.
    beam = max(128 if selector is None else 512, 2 * k)
    return faiss.SearchParametersHNSW(efSearch=beam, sel=selector)


APPROXIMATE_KINDS = {"hnsw": Kind(_build_hnsw, _hnsw_parameters)}
KINDS = ("auto", "flat", *APPROXIMATE_KINDS)


def resolve_kind(kind: str, rows: int) -> str:
    """Return the kind that `auto` stands for at this size; any other stays itself."""
    if kind != "auto":
        return kind
    return "flat" if rows <= EXACT_UP_TO else "hnsw"


class VectorIndex:
    """Exact inner product over all rows and, for an approximate kind, a quicker second way. Immutable."""

    def __init__(self, exact: faiss.Index, approximate: faiss.Index | None = None, kind: str = "flat") -> None:
        self._exact = exact
        self._approximate = approximate
        self.kind = kind

    @classmethod
    def build(cls, embeddings: Embeddings, kind: str = "flat") -> "VectorIndex":
        """Return an index over (N, D) unit vectors; `kind` is flat or a key of APPROXIMATE_KINDS."""
        exact = faiss.IndexFlatIP(embeddings.shape[1])
        exact.add(embeddings)
        approximate = None if kind == "flat" else APPROXIMATE_KINDS[kind].build(embeddings)
        return cls(exact, approximate, kind)

    def save(self, exact: Path, approximate: Path) -> None:
        """Write the exact part and, where there is one, the approximate part."""
        faiss.write_index(self._exact, str(exact))
        if self._approximate is not None:
            faiss.write_index(self._approximate, str(approximate))

    @classmethod
    def load(cls, exact: Path, approximate: Path | None, kind: str) -> "VectorIndex":
        """Return the index of files whose SHA-256 was checked before; the exact part is memory-mapped.

        Raises:
            ArtefactError: FAISS cannot read a file.
        """
        try:
            flat = faiss.read_index(str(exact), faiss.IO_FLAG_MMAP_IFC)
            quick = None if approximate is None else faiss.read_index(str(approximate))
        except RuntimeError as error:
            raise ArtefactError(f"FAISS cannot read {str(exact.parent)!r}; run precedent index again") from error
        return cls(flat, quick, kind)

    def __len__(self) -> int:
        return int(self._exact.ntotal)

    @property
    def embedding_dim(self) -> int:
        """D of every row."""
        return int(self._exact.d)

    def vectors(self, rows: Rows) -> Embeddings:
        """Return the stored (n, D) vectors of rows."""
        return self._exact.reconstruct_batch(np.ascontiguousarray(rows, dtype=np.int64))

    def is_exact(self, exact: bool, mask: Mask | None) -> bool:
        """Return whether a search over these rows would be exact."""
        few = mask is not None and mask.sum() < EXACT_SHARE * len(self)
        return exact or self._approximate is None or few

    def search(
        self, queries: Embeddings, k: int, *, mask: Mask | None = None, exact: bool = False
    ) -> tuple[Similarities, Rows]:
        """Return the k nearest rows of each query, most similar first.

        Args:
            queries: (Q, D) unit vectors.
            k: at least 1; what is missing to k is filled with row -1.
            mask: (N,) bool, the rows that may be found; None for all.

        Returns:
            similarities: (Q, k) cosine in [-1, 1], descending; rows: (Q, k) int64.
        """
        selector = None if mask is None else faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if self.is_exact(exact, mask):
            return self._exact.search(queries, k, params=faiss.SearchParameters(sel=selector) if selector else None)
        assert self._approximate is not None  # is_exact would have said so
        parameters = APPROXIMATE_KINDS[self.kind].parameters(selector, k)
        return self._approximate.search(queries, k, params=parameters)
