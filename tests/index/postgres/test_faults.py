"""A real PostgreSQL that is killed, stopped, full, too old or begun anew: what is told, and what is there afterwards."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from export_files import save_export
from killing import Killer
from living_world import unit, units
from milvus_world import COUNT, hostile_studies, tied_vectors
from postgres_world import Postgres, postgres_of, postgres_server

from index.engines.verification import verify_on_server
from index.errors import ArtefactError, BackendUnavailable, WriteFailed
from index.postgres.address import parse_postgres
from index.postgres.building import build_on_postgres
from index.postgres.collection import PostgresCollection
from index.vectors import Embeddings


@pytest.fixture
def own() -> Iterator[Postgres]:
    """Yield a server that the test may kill."""
    with postgres_server() as server:
        yield server


@pytest.mark.slow
def test_a_server_that_is_killed_stalls_and_comes_back_loses_nothing_that_it_acknowledged(
    tmp_path: Path, own: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.postgres.client.CALL_SECONDS", 3.0)
    monkeypatch.setattr("index.engines.availability.RETRY_SECONDS", 0.0)
    rng = np.random.default_rng(5)
    studies, vectors = hostile_studies(rng, COUNT), tied_vectors(rng, COUNT)
    collection = postgres_of(own.address(), tmp_path, studies, vectors)
    query = unit(rng)
    before = collection.search(query, COUNT)

    own.signal(signal.SIGSTOP)
    with pytest.raises(BackendUnavailable, match="no answer in time"):
        collection.search(query)
    own.signal(signal.SIGCONT)
    assert collection.search(query, COUNT) == before

    own.kill()
    with pytest.raises(BackendUnavailable, match="does not answer"):
        collection.search(query)
    own.start()
    assert collection.search(query, COUNT) == before
    assert verify_on_server(collection).faults == []

    own.kill()
    own.empty()
    own.start()
    with pytest.raises(ArtefactError, match=r"no collection 'cases' on .*run: precedent index"):
        collection.search(query)
    build_on_postgres(tmp_path / "export", own.address())
    assert PostgresCollection(own.address()).search(query, COUNT) == before


def test_a_pgvector_that_is_too_old_is_refused_before_anything_is_created(
    tmp_path: Path, postgres: Postgres, studies: pa.Table, vectors: Embeddings
) -> None:
    with postgres.connected() as owner:
        owner.execute("CREATE DATABASE old")
    with postgres.connected(dbname="old") as owner:
        owner.execute("CREATE EXTENSION vector")
        owner.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
        export = save_export(tmp_path / "export", studies, vectors)
        with pytest.raises(
            ArtefactError, match=r"expected pgvector 0.8 or later on .*got '0.7.4'; nothing was created"
        ):
            build_on_postgres(export, postgres.address(database="old"))
        assert owner.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
        owner.execute("UPDATE pg_extension SET extversion = 'none of it' WHERE extname = 'vector'")
        with pytest.raises(ArtefactError, match=r"expected pgvector 0\.8 or later"):
            build_on_postgres(export, postgres.address(database="old"))


@pytest.fixture
def small() -> Iterator[Postgres]:
    """Yield a server on a disk of 90 MB."""
    with postgres_server("max_wal_size=32MB", "wal_recycle=off", disk="90m") as server:
        yield server


@pytest.mark.long
def test_a_server_that_is_full_changes_nothing_and_goes_on_once_it_has_room(small: Postgres, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    studies, vectors = hostile_studies(rng, COUNT), tied_vectors(rng, COUNT)
    collection = postgres_of(small.address(), tmp_path, studies, vectors)
    before, rest = collection.search(vectors[0], COUNT), small.folder / "data" / "rest"
    more = save_export(tmp_path / "more", hostile_studies(rng, 1000), units(rng, 1000, 1024))
    with rest.open("wb") as file:
        left = os.statvfs(small.folder / "data")
        file.write(bytes(max(left.f_bavail * left.f_frsize - (2 << 20), 0)))

    with pytest.raises(WriteFailed, match=r"has no room for this \(.*No space left on device.*nothing was changed"):
        build_on_postgres(more, small.address("more"))
    assert collection.search(vectors[0], COUNT) == before

    rest.unlink()
    build_on_postgres(more, small.address("more"))
    assert verify_on_server(PostgresCollection(small.address("more"))).faults == []


def _build(export: Path, address: str) -> None:
    build_on_postgres(export, parse_postgres(address), kind="hnsw")


@pytest.mark.long
def test_a_build_that_is_killed_at_any_moment_goes_on_with_the_same_command(own: Postgres, tmp_path: Path) -> None:
    rng, killer = np.random.default_rng(5), Killer(1)
    export = save_export(tmp_path / "export", hostile_studies(rng, 4000), units(rng, 4000, 128))
    killer.run_whole(_build, export, str(own.address("whole")))
    whole = PostgresCollection(own.address("whole"))
    for turn in range(20):
        address = own.address(f"turn{turn}")
        while not killer.run(_build, export, str(address)):
            pass
        found = PostgresCollection(address)
        assert verify_on_server(found).faults == []
        query = unit(rng, 128)
        assert found.search(query, 10, exact=True) == whole.search(query, 10, exact=True)
        found.close()
    print(killer.sentence())
