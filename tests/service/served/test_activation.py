"""Another index or encoder put in the place of what is served: no request fails, none sees a mixture."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from activation_world import DIM, save_folders, save_index, turn, until
from flask_openapi3 import OpenAPI
from living_world import addition, unit

from encoder.embedder import Embedder
from encoder.network.checkpoint import save_encoder
from encoder.network.model import DualEfficientNetEncoder
from index.living.collection import LivingCollection
from service.errors import Busy, NotReady
from service.loader import load
from service.served.activation import Activation
from service.served.mounted import Mounted
from service.served.mounts import parse_mounts
from service.state import state_of


@pytest.fixture
def folders(tmp_path: Path, tiny_embedder: Embedder, studies: pa.Table, rng: np.random.Generator) -> Path:
    return save_folders(tmp_path, tiny_embedder, studies, rng)


@pytest.fixture
def app(folders: Path) -> OpenAPI:
    return load(
        parse_mounts([f"main={folders / 'main'}", f"other={folders / 'second'}"]), folders / "encoder.safetensors"
    )


def activated(app: OpenAPI, name: str = "main") -> Any:
    return app.test_client().post(f"/v1/indexes/{name}/activate")


def test_under_requests_of_eight_threads_indexes_are_swapped_without_a_failed_or_mixed_answer(
    app: OpenAPI, folders: Path, studies: pa.Table
) -> None:
    ids = studies["study_id"].to_pylist()
    of_each = {40: set(ids[:40]), 60: set(ids[140:])}
    query = {"embedding": unit(np.random.default_rng(1), DIM).tolist(), "k": 60, "exclude_same_patient": False}
    stop, swaps = threading.Event(), []

    def ask() -> int:
        client, asked = app.test_client(), 0
        while not stop.is_set():
            answer = client.post("/v1/search", json=query)
            assert answer.status_code == 200
            assert {hit["study_id"] for hit in answer.get_json()["hits"]} == of_each[answer.get_json()["matched_total"]]
            asked += 1
        return asked

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        try:
            for swap in range(6):
                turn(folders / "main", ("second", "first")[swap % 2])
                swaps.append(activated(app).get_json()["studies"])
        finally:
            stop.set()
    assert swaps == [60, 40] * 3
    assert min(one.result() for one in asking) > 0


def test_while_studies_come_and_go_and_the_folder_is_compacted_no_search_fails(app: OpenAPI, folders: Path) -> None:
    living, other = LivingCollection(folders / "first"), state_of(app).served.now.collection("other")
    stop = threading.Event()

    def ask() -> None:
        rng, client = np.random.default_rng(threading.get_ident()), app.test_client()
        while not stop.is_set():
            answer = client.post("/v1/search", json={"embedding": unit(rng, DIM).tolist(), "k": 100}).get_json()
            assert len(answer["hits"]) == answer["matched_total"]

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for number in range(12):
                new = addition(f"patient{number}/new", unit(np.random.default_rng(number), DIM))
                living.add([new])
                found = app.test_client().post("/v1/search", json={"embedding": new.embedding.tolist(), "k": 1})
                assert found.get_json()["hits"][0]["study_id"] == new.study.study_id
                living.delete([f"patient{number}/new"] if number % 3 else [])
                if number % 4 == 0:
                    living.compact()
        finally:
            stop.set()
    assert [one.result() for one in asking] == [None] * 4
    assert state_of(app).served.now.collection("other") is other
    assert activated(app).get_json()["studies"] == len(living) == 44


@pytest.mark.parametrize("damage", ["gone", "torn", "encoder"])
def test_what_cannot_be_served_leaves_all_as_it_was(
    app: OpenAPI, folders: Path, studies: pa.Table, rng: np.random.Generator, damage: str
) -> None:
    turn(folders / "main", "second")
    if damage == "gone":
        (folders / "second" / "manifest.json").unlink()
    if damage == "torn":
        next((folders / "second").glob("exact*")).write_bytes(b"torn")
    if damage == "encoder":
        save_index(folders / "third", studies, "0" * 64, rng)
        turn(folders / "main", "third")
    before = state_of(app).served.now
    answer = activated(app)

    assert answer.status_code == (409 if damage == "encoder" else 503)
    assert str(folders) not in answer.text
    assert state_of(app).served.now is before
    assert app.test_client().get("/info").get_json()["collections"][0]["studies"] == 40


def test_another_encoder_comes_with_the_indexes_of_its_own(
    app: OpenAPI,
    folders: Path,
    tiny_encoder: DualEfficientNetEncoder,
    tiny_embedder: Embedder,
    studies: pa.Table,
    rng: np.random.Generator,
) -> None:
    preprocessing = type(tiny_embedder.preprocessing)(size=96)
    save_encoder(folders / "encoder.safetensors", tiny_encoder, preprocessing)
    assert activated(app).get_json()["error"]["code"] == "fingerprint_mismatch"
    other = Embedder(tiny_encoder, preprocessing, device="cpu").fingerprint
    for name in ("main", "second"):
        fresh = save_index(folders / f"of-{name}", studies, other, rng)
        for path in (folders / name).iterdir():
            path.unlink()
        for path in fresh.iterdir():
            path.rename(folders / name / path.name)

    assert activated(app).get_json()["fingerprint"] == other
    assert app.test_client().get("/info").get_json()["fingerprint"] == other
    assert [one["studies"] for one in app.test_client().get("/info").get_json()["collections"]] == [200, 200]
    assert app.test_client().get("/readyz").status_code == 200


def test_an_unknown_collection_and_a_second_activation_are_refused(app: OpenAPI) -> None:
    assert activated(app, "ghost").get_json()["error"]["code"] == "collection_not_found"
    activation: Activation = state_of(app).activation
    begun, go_on = threading.Event(), threading.Event()

    def slow(_name: str | None, served: Mounted) -> Mounted:
        begun.set()
        assert go_on.wait(10)
        return served

    activation._load = slow
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(activation.activate, "main")
        assert begun.wait(10)
        with pytest.raises(Busy):
            activation.activate("main")
        go_on.set()
        assert first.result() is state_of(app).served.now


def test_what_is_asked_for_in_the_background_while_another_is_at_work_is_done_after_it(
    app: OpenAPI, folders: Path
) -> None:
    activation: Activation = state_of(app).activation
    load, begun, go_on, loads = activation._load, threading.Event(), threading.Event(), []

    def slow(name: str | None, served: Mounted) -> Mounted:
        fresh = load(name, served)
        loads.append(name)
        begun.set()
        assert go_on.wait(10)
        return fresh

    activation._load = slow
    activation.in_background()
    assert begun.wait(10)
    turn(folders / "main", "second")
    for _ in range(20):
        activation.in_background()
    go_on.set()

    until(lambda: app.test_client().get("/info").get_json()["collections"][0]["studies"] == 60)
    with activation._lock:
        assert loads == [None, None]


def test_a_refusal_in_the_background_goes_to_the_log(app: OpenAPI, caplog: pytest.LogCaptureFixture) -> None:
    activation: Activation = state_of(app).activation

    def refuse(_name: str | None, _served: Mounted) -> Mounted:
        raise NotReady("no index today")

    activation._load = refuse
    activation.in_background()
    until(lambda: "no index today" in caplog.text)
