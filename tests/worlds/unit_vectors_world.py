"""Unit vectors as tests draw them, and a retriever over them that was never on disk."""

import pyarrow as pa

from index.built.collection import Collection
from index.built.vector_index import VectorIndex
from index.search.retriever import Retriever
from index.vectors import Embeddings

DIM = 16


def retriever_of(studies: pa.Table, vectors: Embeddings, kind: str = "flat") -> Retriever:
    """Return a retriever that was never on disk."""
    manifest = {"fingerprint": "f" * 64, "rows": len(vectors), "kind": kind, "image_root": None}
    return Retriever(Collection(manifest, studies, VectorIndex.build(vectors, kind)))
