"""Thirty studies on Milvus, for tests that change them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from milvus_world import COUNT, collection_of, hostile_studies, tied_vectors

from index.milvus.address import MilvusAddress
from index.milvus.collection import MilvusCollection
from index.vectors import Embeddings


@pytest.fixture
def studies(rng: np.random.Generator) -> pa.Table:
    """Return 30 studies of hostile texts."""
    return hostile_studies(rng, COUNT)


@pytest.fixture
def vectors(rng: np.random.Generator) -> Embeddings:
    """Return their vectors, many of them tied."""
    return tied_vectors(rng, COUNT)


@pytest.fixture
def collection(
    tmp_path: Path, address: MilvusAddress, studies: pa.Table, vectors: Embeddings
) -> Iterator[MilvusCollection]:
    """Yield a collection of its own for a test that changes it."""
    found = collection_of(address, tmp_path, studies, vectors)
    yield found
    found.close()
