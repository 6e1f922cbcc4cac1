"""A collection in a file of Milvus Lite: how it is changed and verified, and what is refused."""

import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pymilvus
import pytest
from export_files import save_export
from living_world import addition, unit
from milvus_world import COUNT, EXTRA, address_in, collection_of
from pymilvus.client.types import LoadState
from pymilvus.exceptions import DataNotMatchException, ParamError
from unit_vectors_world import DIM, retriever_of

from index.engines.availability import AT_ONCE
from index.engines.verification import verify_on_server
from index.errors import (
    ArtefactError,
    BackendLoading,
    BackendUnavailable,
    BeyondBackend,
    CollectionError,
    FingerprintMismatch,
    StudiesError,
    StudyExists,
    StudyNotFound,
)
from index.living.additions import Addition
from index.milvus.address import MilvusAddress, parse_milvus
from index.milvus.building import build_on_milvus
from index.milvus.client import MilvusServer
from index.milvus.collection import MilvusCollection
from index.milvus.manifest import consistency_of
from index.opening import open_collection
from index.vectors import Embeddings


def test_added_studies_are_found_at_once_and_by_others(
    tmp_path: Path, collection: MilvusCollection, rng: np.random.Generator
) -> None:
    given = _addition("patient00009/study1", rng)
    other = MilvusCollection(collection.address)

    assert collection.add([given]) == [True]
    assert collection.add([given]) == [False]

    assert other.search(given.embedding, 1).hits[0].study == given.study
    assert len(other) == other.search(given.embedding).matched_total == COUNT + 1
    assert verify_on_server(other).faults == []


def test_other_content_replaces_a_study_only_where_it_is_asked_to(
    collection: MilvusCollection, rng: np.random.Generator
) -> None:
    first, second = (_addition("patient00009/study1", rng) for _ in range(2))
    collection.add([first])

    with pytest.raises(StudyExists, match="with other content"):
        collection.add([second])
    np.testing.assert_array_equal(collection.embedding("patient00009/study1"), first.embedding)

    assert collection.add([second], replace=True) == [True]
    np.testing.assert_array_equal(collection.embedding("patient00009/study1"), second.embedding)
    assert len(collection) == COUNT + 1


def test_deleted_studies_are_found_no_more_and_all_or_none_are_deleted(
    collection: MilvusCollection, studies: pa.Table, vectors: Embeddings
) -> None:
    ids = studies["study_id"].to_pylist()
    with pytest.raises(StudyNotFound):
        collection.delete([ids[0], "nobody"])

    collection.delete(ids[:8])

    left = retriever_of(studies.slice(8), vectors[8:])
    assert collection.search(vectors[0], COUNT) == left.search(vectors[0], COUNT)
    with pytest.raises(StudyNotFound):
        collection.study(ids[0])


def test_films_that_were_added_leave_with_their_study(
    tmp_path: Path, collection: MilvusCollection, rng: np.random.Generator
) -> None:
    paths = [collection.film_path(content, ".png") for content in (b"one", b"two")]
    for number, path in enumerate([paths[0], paths[0], paths[1]]):
        given = _addition(f"patient00009/study{number}", rng, frontal_path=path)
        collection.add([given], films={path: [b"one", b"two"][path == paths[1]]}, image_root=tmp_path)
    assert verify_on_server(collection, tmp_path).faults == []

    collection.delete(["patient00009/study0", "patient00009/study2"], tmp_path)

    assert [(tmp_path / path).exists() for path in paths] == [True, False]
    (tmp_path / paths[0]).write_bytes(b"damaged")
    assert verify_on_server(collection, tmp_path).faults == [f"{paths[0]}: the film is missing or has changed"]


def test_verify_names_a_row_that_was_changed_and_studies_that_are_gone(
    tmp_path: Path, collection: MilvusCollection
) -> None:
    server, study_id = MilvusServer(collection.address), _first(collection)
    entity = collection._entity(study_id)
    server.call("upsert", collection._name, [entity | {"embedding": np.eye(DIM)[0].tolist()}])

    assert verify_on_server(collection).faults == [f"{study_id!r} is not what was written; delete it and add it again"]
    server.call("delete", collection._name, filter='study_id != ""')
    assert verify_on_server(collection).faults == ["expected 30 studies, found 0; index the export anew"]


def test_what_milvus_cannot_hold_or_give_is_refused_by_name(
    tmp_path: Path, collection: MilvusCollection, studies: pa.Table, vectors: Embeddings, rng: np.random.Generator
) -> None:
    with pytest.raises(BeyondBackend, match="16,384 studies"):
        collection._fetch(vectors[0], "", 16_385, True)
    with pytest.raises(StudiesError, match="column 'sex': Milvus holds no text of more than 65,535 bytes"):
        collection.add([_addition("patient00009/study1", rng, sex="x" * 65_536)])
    with pytest.raises(CollectionError, match="auto, flat, ivf on Milvus, got 'hnsw'"):
        build_on_milvus(tmp_path / "export", collection.address, kind="hnsw")
    with pytest.raises(FingerprintMismatch, match="built with encoder f"):
        collection.require_fingerprint("a" * 64)
    assert len(collection) == COUNT


@pytest.mark.parametrize(
    "text",
    [
        "milvus+http://host",
        "milvus+http://host/a/b",
        "milvus+http://host:port/cases",
        "milvus+ftp://host/cases",
        "milvus+http://host/no-name",
        "milvus+file:///cases.txt/cases",
        "milvus+http:///cases",
        "cases.db",
    ],
)
def test_what_is_no_address_is_told_what_one_is(text: str) -> None:
    with pytest.raises(CollectionError, match=r"expected an address such as milvus\+http://HOST:19530/COLLECTION"):
        parse_milvus(text)


def test_an_address_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(CollectionError, match="MILVUS_TOKEN") as refusal:
        parse_milvus("milvus+http://root:secret@host:19530/cases")
    assert "secret" not in str(refusal.value)


def test_an_address_is_the_same_text_wherever_it_is_given(tmp_path: Path) -> None:
    for text in ("milvus+http://host:19530/cases", "milvus+https://host/cases", f"milvus+file://{tmp_path}/a.db/cases"):
        assert str(parse_milvus(text)) == text == str(parse_milvus(text.removeprefix("milvus+")))


def test_a_server_that_does_not_answer_and_a_file_that_is_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.milvus.client.CALL_SECONDS", 0.5)
    with socket.socket() as closed:  # bound and not listening: whoever connects is refused
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(BackendUnavailable, match=r"does not answer.*MILVUS_TOKEN are right, then try again"):
            open_collection(parse_milvus(f"milvus+http://127.0.0.1:{closed.getsockname()[1]}/cases"))
    with pytest.raises(ArtefactError, match=r"no file .*run: precedent index"):
        open_collection(address_in(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told_by_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(CollectionError, match=r"pip install 'cxr-precedent\[milvus\]'"):
        open_collection(address_in(tmp_path))


def _addition(study_id: str, rng: np.random.Generator, **changes: Any) -> Addition:
    given = addition(study_id, unit(rng))
    changes |= {"extra": {one.name: None for one in EXTRA}}
    return replace(given, study=replace(given.study, **changes))


def _first(collection: MilvusCollection) -> str:
    row, _, _ = next(iter(collection.entities()))
    return str(row["study_id"])


def test_who_waits_while_another_fails_to_connect_fails_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server, begun, tried, gate = (
        MilvusServer(parse_milvus("milvus+http://127.0.0.1:1/cases")),
        [],
        [],
        threading.Event(),
    )

    def clock() -> float:
        begun.append(time.monotonic())
        return begun[-1]

    def refuse(*_: Any, **__: Any) -> None:
        tried.append(threading.get_ident())
        assert gate.wait(60)
        raise pymilvus.MilvusException(2, "refused")

    monkeypatch.setattr("index.milvus.client.monotonic", clock)
    monkeypatch.setattr(pymilvus, "MilvusClient", refuse)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.describe, "cases") for _ in range(8)]
        while len(begun) < 8:
            time.sleep(0.01)
        gate.set()

    assert {type(one.exception()) for one in asked} == {BackendUnavailable}
    assert len(tried) == 1


def test_milvus_lite_listens_on_loopback_alone(
    address: MilvusAddress, tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    psutil = pytest.importorskip("psutil")
    collection_of(address, tmp_path, studies.slice(0, 4), unit_vectors[:4])

    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [one for process in processes for one in process.net_connections("inet") if one.status == "LISTEN"]

    assert {one.laddr.ip.removeprefix("::ffff:") for one in found} <= {"127.0.0.1"}


class Scripted:
    """In the place of pymilvus' client: says in turn what it is told to, and counts."""

    def __init__(self, *says: Any) -> None:
        self.says, self.asked = list(says), list[str]()

    def __call__(self, *_: Any, **__: Any) -> "Scripted":
        return self

    def __getattr__(self, name: str) -> Any:
        def answer(*_: Any, **__: Any) -> Any:
            self.asked.append(name)
            said = self.says.pop(0)
            if isinstance(said, Exception):
                raise said
            return said

        return answer

    def close(self) -> None:
        pass


def scripted(monkeypatch: pytest.MonkeyPatch, *says: Any) -> tuple[MilvusServer, Scripted]:
    """Return a server that says these."""
    client = Scripted(*says)
    monkeypatch.setattr(pymilvus, "MilvusClient", client)
    return MilvusServer(parse_milvus("milvus+http://127.0.0.1:1/cases")), client


@pytest.mark.parametrize("told", ["v2.3.5-lite", "v2.4.17-gpu", "1.1"])
def test_a_server_that_is_too_old_is_refused_before_anything_is_created(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, studies: pa.Table, vectors: Embeddings, told: str
) -> None:
    server, client = scripted(monkeypatch, told)
    with pytest.raises(
        CollectionError, match=rf"expected Milvus 2.5 or later on http.*got '{told}'.*nothing was created"
    ):
        build_on_milvus(save_export(tmp_path / "export", studies, vectors), server.address)
    assert client.asked == ["get_server_version"]


@pytest.mark.parametrize("told", ["2.5.0", "v2.6.6", "3.0-dev", "milvus_lite-3.2.2", "Zilliz Cloud"])
def test_a_server_of_the_least_version_or_of_none_is_taken(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    scripted(monkeypatch, told)[0].require_version()


@pytest.mark.parametrize(
    "error",
    [
        pymilvus.MilvusException(105, "illegal collection schema"),
        pymilvus.MilvusException(65535, "field nullable is unknown", is_input_error=True),
        DataNotMatchException(message="field nullable is unknown"),
        ParamError(message="field nullable is unknown"),
    ],
)
def test_a_fault_of_the_schema_is_told_as_such_and_not_as_a_server_that_is_lost(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    server, _ = scripted(monkeypatch, error, {"properties": {}})
    with pytest.raises(CollectionError, match=r"does not take this: .*(schema|nullable)") as refusal:
        server.call("create_collection", "cases")
    assert not isinstance(refusal.value, BackendUnavailable)
    assert server.describe("cases") == {"properties": {}}


def test_while_a_collection_is_loading_it_is_said_at_once_and_once_it_is_loaded_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent, loading = pymilvus.MilvusException(101, "not loaded"), {"state": LoadState.Loading}
    partly, loaded = pymilvus.MilvusException(103, "not fully loaded"), {"state": LoadState.Loaded}
    server, client = scripted(
        monkeypatch, absent, loading, partly, absent, {"state": LoadState.NotLoad}, None, loading, loaded, ["found"]
    )
    for _ in range(2):
        with pytest.raises(BackendLoading, match=r"is still loading 'cases'.*try again in some seconds"):
            server.call("query", "cases")

    assert server.call("query", "cases") == ["found"]
    assert client.asked[-5:] == ["get_load_state", "load_collection", "get_load_state", "get_load_state", "query"]


def test_after_a_call_without_an_answer_others_are_refused_at_once_and_then_one_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silence, now = pymilvus.MilvusException(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer"), [100.0]
    server, client = scripted(monkeypatch, silence, silence, ["found"], ["found"])
    monkeypatch.setattr("index.engines.availability.monotonic", lambda: now[0])
    for passed, calls in ((0, 1), (4, 1), (5, 2), (9, 2)):
        now[0] = 100.0 + passed
        with pytest.raises(BackendUnavailable, match="does not answer"):
            server.call("query", "cases")
        assert len(client.asked) == calls

    now[0] = 110.0
    assert [server.call("query", "cases") for _ in range(2)] == [["found"], ["found"]]


def test_one_call_that_is_too_slow_for_a_server_that_answers_others_shuts_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, client = scripted(monkeypatch, ["found"])

    class Slow(Scripted):
        def slow(self, **_: Any) -> Any:
            assert server.call("query") == ["found"]
            raise pymilvus.MilvusException(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer")

    client.__class__ = Slow
    with pytest.raises(BackendUnavailable):
        server.call("slow")
    client.says = ["found again"]
    assert server.call("query") == "found again"


def test_a_server_that_stalls_keeps_no_more_threads_than_may_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = scripted(monkeypatch)
    monkeypatch.setattr("index.engines.availability._TURN_SECONDS", 0.01)
    for _ in range(AT_ONCE):
        server._availability._turns.acquire()
    with pytest.raises(BackendUnavailable, match=f"{AT_ONCE} calls wait for its answers"):
        server.call("query", "cases")


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding": [1.0]},
        {"embedding": [np.nan] * DIM},
        {"embedding": None},
        {"embedding": [9.0] * DIM},
        {"study_id": 7},
        {"study_id": ""},
        {"patient_id": None},
    ],
    ids=str,
)
def test_what_a_server_gives_that_is_no_study_of_the_collection_is_refused_in_a_sentence(
    collection: MilvusCollection, monkeypatch: pytest.MonkeyPatch, vectors: Embeddings, changes: dict[str, Any]
) -> None:
    study_id, call = _first(collection), collection._server.call

    def answer(method: str, *arguments: Any, **named: Any) -> Any:
        found = call(method, *arguments, **named)
        if method == "search":
            return [[{"entity": dict(hit["entity"]) | changes, "distance": 1.0} for hit in hits] for hits in found]
        return [dict(one) | changes for one in found] if named["output_fields"] == ["*"] else found

    monkeypatch.setattr(collection._server, "call", answer)
    for ask in (lambda: collection.search(vectors[0], 3), lambda: collection.embedding(study_id)):
        with pytest.raises(ArtefactError, match=r"Milvus answered for .*run: precedent verify"):
            ask()


@pytest.mark.parametrize(
    "answer", [[], [{}], [{"count(*)": "many"}], [{"count(*)": -1}], [{"count(*)": 1}] * 2], ids=str
)
def test_a_count_that_is_none_is_refused_in_a_sentence(
    collection: MilvusCollection, monkeypatch: pytest.MonkeyPatch, answer: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(collection._server, "call", lambda *_, **__: answer)
    with pytest.raises(ArtefactError, match="with no count"):
        len(collection)


def test_answers_of_another_number_than_was_asked_for_are_refused(
    collection: MilvusCollection, monkeypatch: pytest.MonkeyPatch, vectors: Embeddings
) -> None:
    answers: list[Any] = [[], [[{}], [{}]], [[{"entity": {}}] * 4]]
    for answer in answers:
        monkeypatch.setattr(collection._server, "call", lambda *_, answer=answer, **__: answer)
        with pytest.raises(ArtefactError, match="run: precedent verify"):
            collection._hits([vectors[0]], "", 3)


def test_a_search_waits_for_others_changes_only_where_the_collection_is_strong_and_a_change_always_does(
    collection: MilvusCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    levels, call = list[tuple[str, str]](), MilvusServer.call

    def noted(self: MilvusServer, method: str, *arguments: Any, **named: Any) -> Any:
        levels.append((method, named.get("consistency_level", "")))
        return call(self, method, *arguments, **named)

    monkeypatch.setattr(MilvusServer, "call", noted)
    collection.search(np.eye(DIM, dtype=np.float32)[0], 3)
    assert {level for method, level in levels if method in ("search", "query")} == {"Session"}
    levels.clear()
    collection.add([_addition("patient00009/study1", rng)])
    assert {level for method, level in levels if method == "query"} == {"Strong"}


def test_a_collection_takes_another_consistency_without_being_filled_anew(
    collection: MilvusCollection, tmp_path: Path
) -> None:
    advanced: list[int] = []
    assert collection.consistency == "session"
    manifest = build_on_milvus(tmp_path / "export", collection.address, consistency="strong", advance=advanced.append)
    with closing(MilvusCollection(collection.address)) as found:
        assert (found.consistency, found.manifest, advanced) == ("strong", manifest, [])
    with pytest.raises(CollectionError, match="expected a consistency of session, strong, got 'eventually'"):
        build_on_milvus(tmp_path / "export", collection.address, consistency="eventually")
    assert consistency_of({}) == "strong"
