"""What plays a GPU where there is none: a FAISS index on the processor that behaves as `GpuIndexFlat` does."""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import pytest

from index.built import gpu
from index.vectors import Embeddings


class FlatOfGpu(faiss.IndexFlatIP):
    """Rounds rows and queries to 16 bits where told to, gives at most 2,048 rows, and disregards a selector."""

    half = False

    def add(self, vectors: Embeddings) -> None:
        super().add(self._kept(vectors))

    def search(self, queries: Embeddings, k: int, *, params: Any = None) -> tuple[Embeddings, gpu.Rows]:
        assert k <= gpu.MOST_NEAREST
        found: tuple[Embeddings, gpu.Rows] = super().search(self._kept(queries), k)
        return found

    def _kept(self, vectors: Embeddings) -> Embeddings:
        return vectors.astype(np.float16).astype(np.float32) if self.half else vectors


@dataclass(frozen=True)
class StandIn:
    """An engine without a GPU."""

    name: str = "a stand-in"
    memory: int = 0

    def empty(self, dim: int, *, half: bool) -> faiss.Index:
        index = FlatOfGpu(dim)
        index.half = half
        return index


def play_gpu(patch: pytest.MonkeyPatch, engine: gpu.Engine | None = None) -> None:
    """Have FAISS see one GPU, which is that engine."""
    found = engine or StandIn()
    patch.setattr(gpu, "seen", lambda: gpu.Seen(True, 1, found.name, found.memory))
    patch.setattr(gpu, "_gpu_of", lambda _seen: found)
