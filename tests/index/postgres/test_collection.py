"""A collection in a real PostgreSQL: how it is filled, changed and verified, and what is refused."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from export_files import save_export
from living_world import addition, unit
from milvus_world import COUNT, EXTRA
from postgres_world import Postgres, postgres_of
from unit_vectors_world import DIM, retriever_of

from index.engines.verification import verify_on_server
from index.errors import (
    ArtefactError,
    BackendUnavailable,
    CollectionError,
    StudiesError,
    StudyExists,
    StudyNotFound,
)
from index.living.additions import Addition
from index.opening import address_of, open_collection
from index.postgres import search
from index.postgres.address import PostgresAddress, parse_postgres
from index.postgres.building import build_on_postgres
from index.postgres.client import Asking, PostgresServer, Statement
from index.postgres.collection import PostgresCollection
from index.vectors import Embeddings


class Killed(Exception):
    """What a kill is like to the code that it ends."""


def an_addition(study_id: str, rng: np.random.Generator, **changes: Any) -> Addition:
    given = addition(study_id, unit(rng))
    changes |= {"extra": {one.name: None for one in EXTRA}}
    return replace(given, study=replace(given.study, **changes))


def test_added_studies_are_found_at_once_by_others_and_deleted_ones_no_more(
    collection: PostgresCollection, studies: pa.Table, vectors: Embeddings, rng: np.random.Generator
) -> None:
    given, other = an_addition("patient00009/study1", rng), PostgresCollection(collection.address)

    assert [collection.add([given]), collection.add([given])] == [[True], [False]]
    assert other.search(given.embedding, 1).hits[0].study == given.study
    assert len(other) == other.search(given.embedding).matched_total == COUNT + 1

    ids = studies["study_id"].to_pylist()
    with pytest.raises(StudyNotFound):
        collection.delete([ids[0], "nobody"])
    other.delete([*ids[:8], given.study.study_id])
    assert collection.search(vectors[0], COUNT) == retriever_of(studies.slice(8), vectors[8:]).search(vectors[0], COUNT)
    assert (verify_on_server(collection).faults, len(collection), collection.changed) == ([], COUNT - 8, True)


def test_of_two_services_that_add_one_study_at_a_time_one_does_and_the_other_is_told(
    collection: PostgresCollection, rng: np.random.Generator
) -> None:
    services = [PostgresCollection(collection.address) for _ in range(4)]
    rivals = [an_addition("patient00009/study1", rng) for _ in services]

    def add(number: int) -> str:
        own = [an_addition(f"patient{number}/study{turn}", np.random.default_rng(turn)) for turn in range(5)]
        for one in own:
            assert services[number].add([one]) == [True]
        try:
            services[number].add([rivals[number]])
        except StudyExists:
            return "refused"
        return "added"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(add, range(4))) == ["added", "refused", "refused", "refused"]
    assert len(collection) == COUNT + 4 * 5 + 1
    assert verify_on_server(collection).faults == []


def test_films_that_were_added_leave_with_their_study(
    tmp_path: Path, collection: PostgresCollection, rng: np.random.Generator
) -> None:
    paths = [collection.film_path(content, ".png") for content in (b"one", b"two")]
    for number, path in enumerate([paths[0], paths[0], paths[1]]):
        given = an_addition(f"patient00009/study{number}", rng, frontal_path=path)
        collection.add([given], films={path: [b"one", b"two"][path == paths[1]]}, image_root=tmp_path)

    collection.delete(["patient00009/study0", "patient00009/study2"], tmp_path)

    assert [(tmp_path / path).exists() for path in paths] == [True, False]
    assert verify_on_server(collection, tmp_path).faults == []


@pytest.mark.parametrize("shards", [1, 2])
def test_a_build_that_was_killed_goes_on_where_it_stopped(
    shards: int, tmp_path: Path, place: PostgresAddress, studies: pa.Table, vectors: Embeddings
) -> None:
    export, steps = save_export(tmp_path / "export", studies, vectors), list[int]()

    def advance(rows: int) -> None:
        steps.append(rows)
        if len(steps) == shards:
            raise Killed

    with pytest.raises(Killed):
        build_on_postgres(export, place, advance=advance, kind="hnsw")
    with pytest.raises(
        ArtefactError, match=r"no collection .*run: precedent index EMBEDDINGS --backend postgres --uri"
    ):
        PostgresCollection(place)
    build_on_postgres(export, place, kind="hnsw")

    whole = PostgresCollection(place)
    assert whole.search(vectors[0], COUNT) == retriever_of(studies, vectors).search(vectors[0], COUNT)
    assert verify_on_server(whole).faults == []


def test_a_swap_is_seen_by_who_opens_it_anew_and_additions_are_never_replaced(
    tmp_path: Path, collection: PostgresCollection, studies: pa.Table, vectors: Embeddings, postgres: Postgres
) -> None:
    fewer = save_export(tmp_path / "fewer", studies.slice(0, 9), vectors[:9])
    build_on_postgres(fewer, collection.address)
    assert (len(collection), len(PostgresCollection(collection.address))) == (COUNT, 9)

    build_on_postgres(fewer, collection.address, drop_old=True)
    with postgres.connected() as owner:
        tables = owner.execute(
            "SELECT tablename FROM pg_tables WHERE tablename LIKE %s", (f"{collection.address.name}%",)
        )
        assert len(tables.fetchall()) == 1
    with pytest.raises(ArtefactError, match="was removed from the database; run: precedent index"):
        collection.search(vectors[0])

    now = PostgresCollection(collection.address)
    now.delete([studies["study_id"][0].as_py()])
    with pytest.raises(CollectionError, match="studies were added to or deleted from"):
        build_on_postgres(tmp_path / "export", collection.address)


def test_the_graph_is_searched_where_many_pass_and_answers_exactly_where_it_is_asked_to(
    tmp_path: Path,
    place: PostgresAddress,
    studies: pa.Table,
    vectors: Embeddings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "FEW", 0)
    found, memory = postgres_of(place, tmp_path, studies, vectors, kind="hnsw"), retriever_of(studies, vectors)

    assert not (near := found.search(vectors[0], 5)).exact
    assert [hit.similarity for hit in near.hits] == pytest.approx([hit.similarity for hit in near.hits])
    assert found.search(vectors[0], 5, exact=True) == memory.search(vectors[0], 5)
    where = {"must_not": [{"key": "sex", "match": {"value": None}}]}
    assert found.search(vectors[0], COUNT, where=where).hits == memory.search(vectors[0], COUNT, where=where).hits


def test_verify_names_a_row_that_was_changed_and_studies_that_are_gone(
    collection: PostgresCollection, postgres: Postgres, studies: pa.Table
) -> None:
    first, second = studies["study_id"].to_pylist()[:2]
    with postgres.connected() as owner:
        change = "UPDATE {0} SET {1} WHERE study_id = %s"
        owner.execute(change.format(collection._name, "patient_id = 'another'"), (first,))
        owner.execute(f"DELETE FROM {collection._name} WHERE study_id = %s", (second,))
    assert verify_on_server(collection).faults == [
        f"{first!r} is not what was written; delete it and add it again",
        "expected 30 studies, found 29; index the export anew",
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("UPDATE {0} SET embedding = embedding::vector * %s", "a vector that is none of this collection"),
        ("ALTER {0} ALTER patient_id TYPE int USING 7", "a row without a study or a patient"),
        ("ALTER {0} ALTER c7_age TYPE text", "something else than its type in column 'age'"),
        (
            "ALTER {0} ALTER c4_other_paths TYPE int[] USING '{{7}}'",
            "something else than its type in column 'other_paths'",
        ),
        ("UPDATE {0} SET c7_age = 'NaN'", "something else than its type in column 'age'"),
    ],
    ids=range(5),
)
def test_what_a_server_gives_that_is_no_study_of_the_collection_is_refused_in_a_sentence(
    collection: PostgresCollection,
    postgres: Postgres,
    vectors: Embeddings,
    studies: pa.Table,
    change: str,
    sentence: str,
) -> None:
    values = (f"[{','.join(['3'] * DIM)}]",) if "%s" in change else None
    with postgres.connected() as owner:
        owner.execute(change.format(f"TABLE {collection._name}").replace("UPDATE TABLE", "UPDATE"), values)
    for ask in (lambda: collection.search(vectors[0], 3), lambda: collection.stored(studies["study_id"][3].as_py())):
        with pytest.raises(ArtefactError, match=rf"PostgreSQL answered for .*{sentence}.*run: precedent verify"):
            ask()


@pytest.mark.parametrize(
    "change",
    ["manifest = '{'", "manifest = '[[[[[]]]]]'", "manifest = '{\"format\": 7}'", "shards = NULL", "gate = '{9}'"],
)
def test_a_catalogue_that_precedent_did_not_write_is_refused_in_a_sentence(
    collection: PostgresCollection, postgres: Postgres, change: str
) -> None:
    with postgres.connected() as owner:
        owner.execute("ALTER TABLE precedent_collections ALTER shards DROP NOT NULL")
        try:
            owner.execute(f"UPDATE precedent_collections SET {change} WHERE name = %s", (collection._name,))
            with pytest.raises(ArtefactError, match=r"no collection of Precedent|Precedent did not write"):
                PostgresCollection(collection.address)
        finally:
            owner.execute("DELETE FROM precedent_collections WHERE name = %s", (collection._name,))


def test_more_than_was_asked_for_is_not_read_to_its_end(
    collection: PostgresCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = PostgresServer(collection.address)
    for most, text in (
        (10, "SELECT generate_series(1, 1000000000)"),
        (1000, "SELECT repeat('x', 100000) FROM generate_series(1, 900)"),
    ):
        monkeypatch.setattr("index.postgres.client.MOST_BYTES", 10_000_000)
        with (
            pytest.raises(ArtefactError, match="answered with more than was asked for"),
            server.transaction() as asking,
        ):
            asking.rows(Statement(text), most)
    assert len(collection) == COUNT


def test_a_value_that_is_not_held_is_refused_by_name_before_anything_is_written(
    collection: PostgresCollection, rng: np.random.Generator, tmp_path: Path
) -> None:
    given = an_addition("patient00009/study1", rng, sex="x" * 65_536)
    with pytest.raises(StudiesError, match="column 'sex': PostgreSQL holds no text of more than 65,535 bytes"):
        collection.add([given], films={collection.film_path(b"one", ".png"): b"one"}, image_root=tmp_path)
    assert not (tmp_path / "added").exists()
    with pytest.raises(CollectionError, match="auto, flat, hnsw on PostgreSQL, got 'ivf'"):
        build_on_postgres(tmp_path / "export", collection.address, kind="ivf")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://host/cases",
        "postgresql://host/base/cases/more",
        "postgresql://host:port/base/cases",
        "postgresql://host:0/base/cases",
        "postgresql://host/base/no-name",
        "postgresql://host//cases",
        f"postgresql://host/base/{'c' * 49}",
        "postgresql://host/base%2Fmore/cases",
    ],
)
def test_what_is_no_address_is_told_what_one_is(text: str) -> None:
    with pytest.raises(CollectionError, match=r"expected an address such as postgresql://USER@HOST:5432/DATABASE/COLL"):
        parse_postgres(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://root:secret@host/base/cases",
        "postgresql://root:secret@host:port/base/cases",
        "postgresql://root:secret@host/cases",
        "postgresql://root@host/base/cases?password=secret",
        "postgresql://root@host/base/cases?options=-csecret",
        "postgres://root@host/base/cases?service=secret",
        "postgresql://root@host/base/cases#secret",
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(CollectionError) as refusal:
        parse_postgres(text)
    assert "secret" not in str(refusal.value)


def test_an_address_is_the_same_text_wherever_it_is_given() -> None:
    for text in (
        "postgresql://reader@host:5433/radiology/cases?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql:///radiology/Cases_2?host=/var/run/postgresql",
        "postgresql://a%40b@host/r%20x/cases",
    ):
        assert str(address_of(text)) == text


def test_a_wrong_password_is_told_without_it_and_a_missing_package_by_its_extra(
    collection: PostgresCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "another-secret")
    with pytest.raises(BackendUnavailable, match=r"password authentication failed.*PGPASSWORD or ~/.pgpass") as refusal:
        PostgresCollection(collection.address)
    assert "another-secret" not in f"{refusal.value!r} {refusal.value.__cause__!r}"
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in [name for name in sys.modules if name.startswith("index.postgres.") and "address" not in name]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CollectionError, match=r"pip install 'cxr-precedent\[postgres\]'"):
        open_collection(collection.address)


def test_a_filter_never_becomes_part_of_a_statement(
    collection: PostgresCollection, monkeypatch: pytest.MonkeyPatch, vectors: Embeddings
) -> None:
    texts, rows = list[str](), Asking.rows

    def noted(asking: Asking, statement: Statement, most: int, **named: Any) -> Any:
        texts.append(psycopg.sql.SQL("{}").format(statement.sql).as_string())
        return rows(asking, statement, most, **named)

    monkeypatch.setattr(Asking, "rows", noted)
    value = "x'); DROP TABLE precedent_collections; -- {x} %s"
    where = {"must": [{"key": EXTRA[1].name, "match": {"any": [value, None]}}, {"key": "dose", "range": {"lt": 7.25}}]}
    collection.search(vectors[0], 3, where=where, exclude_patient=value, exclude_study=value)

    assert any("IS NULL" in text for text in texts)
    assert not any("DROP" in text or "7.25" in text for text in texts)


def test_the_service_and_the_verbs_open_it_by_its_address(collection: PostgresCollection) -> None:
    opened = open_collection(address_of(str(collection.address)))
    assert (type(opened), len(opened)) == (PostgresCollection, COUNT)
    with pytest.raises(CollectionError, match="one on PostgreSQL, which searches it itself"):
        open_collection(collection.address, device="gpu")
