"""Thirty studies in PostgreSQL, for tests that change them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from milvus_world import COUNT, hostile_studies, tied_vectors
from postgres_world import Postgres, postgres_of

from index.postgres.address import PostgresAddress
from index.postgres.collection import PostgresCollection
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
def place(postgres: Postgres, request: pytest.FixtureRequest) -> PostgresAddress:
    """Return the address of a test's own collection."""
    return postgres.address(f"c{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}")


@pytest.fixture
def collection(
    tmp_path: Path, place: PostgresAddress, studies: pa.Table, vectors: Embeddings
) -> Iterator[PostgresCollection]:
    """Yield a collection of its own for a test that changes it."""
    found = postgres_of(place, tmp_path, studies, vectors)
    yield found
    found.close()
