"""Many requests at once through the application: each its own answer, and a plain refusal of what is too much."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flask_openapi3 import OpenAPI
from service_world import app_over, build_app, build_mounted, film
from werkzeug.test import TestResponse

from encoder.embedder import Embedder
from encoder.films.image import READING
from encoder.network.checkpoint import save_encoder
from index.built.collection import build_collection
from index.export.shards import ExportPlan, ShardFolder
from scripts.benches.clients import film_request
from scripts.benches.films import as_jpeg
from scripts.verbs.running.serve import bind
from scripts.work.http_server import Server
from service.limits import Limits
from service.loader import load
from service.served.batching import BatchingEmbedder
from service.served.disconnect import disconnect_check
from service.served.mounts import parse_mounts
from service.state import state_of


@pytest.fixture
def films(rng: np.random.Generator) -> list[bytes]:
    """Return 16 films that an encoder with random weights tells apart by more than what a batch rounds: of squares."""
    squares = rng.integers(256, size=(16, 9, 9), dtype=np.uint8)
    return [as_jpeg(np.kron(one, np.ones((10, 10), np.uint8))) for one in squares]


@pytest.fixture
def app(tmp_path: Path, films: list[bytes], tiny_embedder: Embedder, studies: pa.Table) -> OpenAPI:
    """Return the application over a real encoder and the studies of its 16 films."""
    save_encoder(tmp_path / "encoder.safetensors", tiny_embedder.encoder, tiny_embedder.preprocessing)
    vectors = tiny_embedder.embed([tiny_embedder.read_films(one, None) for one in films])
    shards = ShardFolder(
        tmp_path / "shards", ExportPlan(tiny_embedder.fingerprint, 256, "0" * 64, 16, 16, reading=READING)
    )
    shards.save_shard(0, studies.slice(0, 16), [["frontal"]] * 16, vectors, [])
    shards.finish(image_root="")
    build_collection(tmp_path / "shards", tmp_path / "index")
    return load(parse_mounts([str(tmp_path / "index")]), tmp_path / "encoder.safetensors")


def search(app: OpenAPI, content: bytes) -> TestResponse:
    return app.test_client().post("/v1/search", data={"frontal": (BytesIO(content), "f.jpg"), "k": "1"})


def test_films_asked_for_at_once_get_each_its_own_study_and_a_torn_one_is_refused_alone(
    app: OpenAPI, films: list[bytes], studies: pa.Table
) -> None:
    torn = 5
    asked = [content[:200] if number == torn else content for number, content in enumerate(films)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda content: search(app, content), asked))

    ids = studies["study_id"].to_pylist()
    for number, answer in enumerate(answers):
        if number == torn:
            assert answer.status_code in (415, 422)
            continue
        (hit,) = answer.get_json()["hits"]
        assert hit["study_id"] == ids[number]
        assert hit["similarity"] == pytest.approx(1, abs=1e-4)


class HeldEmbedder:
    """Embeds as one study after another at a door that a test opens."""

    fingerprint, embedding_dim = "f" * 64, 2

    def __init__(self) -> None:
        self.door, self.begun, self.embedded = threading.Event(), 0, 0

    def read_films(self, frontal: bytes | None, lateral: bytes | None) -> bytes:
        """Return what was given."""
        return frontal or lateral or b""

    def embed(self, studies: Any) -> Any:
        """Return the x axis for each."""
        self.begun += 1
        assert self.door.wait(10)
        self.embedded += len(studies)
        return np.tile(np.array([1, 0], np.float32), (len(studies), 1))


@pytest.fixture
def held() -> Iterator[HeldEmbedder]:
    embedder = HeldEmbedder()
    yield embedder
    embedder.door.set()


def app_of(held: HeldEmbedder, places: int) -> OpenAPI:
    """Return an application whose studies to embed are so many at most."""
    batches = BatchingEmbedder(held, places=places, disconnect_check=disconnect_check)
    return app_over(build_mounted(embedder=batches))


def until(true: Callable[[], bool]) -> None:
    """Wait until it is true."""
    ending = time.monotonic() + 10
    while not true():
        assert time.monotonic() < ending
        time.sleep(0.01)


def places_left(held_by: Any) -> int:
    return int(held_by._places._places._value)


def test_where_all_places_are_taken_a_film_is_refused_with_when_to_ask_again(held: HeldEmbedder) -> None:
    app = app_of(held, places=1)
    batches = state_of(app).served.now.collections[0].embedder
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(search, app, film(0))
        until(lambda: places_left(batches) == 0)
        refused, ready = search(app, film(0)), app.test_client().get("/readyz")
        by_study = app.test_client().post("/v1/search", json={"study_id": "patient00001/study1"})
        held.door.set()

    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert refused.get_json()["error"]["code"] == "busy"
    assert "at most 1 studies to embed" in refused.get_json()["error"]["message"]
    assert ready.status_code == 429
    assert (by_study.status_code, first.result().status_code) == (200, 200)
    assert app.test_client().get("/readyz").status_code == 200


def test_maps_wait_for_each_other_and_beyond_some_are_refused_while_searches_are_answered() -> None:
    reader = SimpleNamespace(
        probe=None, gate=SimpleNamespace(judge=lambda *_, **__: None), require_network=lambda: None
    )
    collection = build_mounted(reader=reader)
    app = app_over(collection, limits=Limits(readings=1, readings_waiting=0))
    body = {"study_id": "patient00001/study1"}
    with state_of(app).readings:
        refused = app.test_client().post("/v1/explain", json=body | {"hit": "patient00002/study1"})
        dropout = app.test_client().post("/v1/predict", json=body | {"dropout_passes": 3})
        found = app.test_client().post("/v1/search", json=body)

    assert (refused.status_code, dropout.status_code, found.status_code) == (429, 429, 200)
    assert refused.headers["Retry-After"] == "1"
    assert "maps and predictions with dropout" in refused.get_json()["error"]["message"]


@pytest.mark.parametrize("route", ["search", "embeddings", "predict", "explain"])
def test_every_route_of_films_is_described_with_the_refusal_of_too_much(route: str) -> None:
    document = build_app().test_client().get("/openapi.json").get_json()

    assert "429" in document["paths"][f"/v1/{route}"]["post"]["responses"]


@contextmanager
def listening(app: OpenAPI) -> Iterator[tuple[str, int]]:
    """Serve an application in a thread of this process and yield its address."""
    state = state_of(app)
    with bind("127.0.0.1", 0) as listener:
        server = Server(app, listener, threads=6, body_bytes=1 << 20, closing=state.closing, sender=state.access.sender)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            state.closing.set()
            thread.join()


def test_a_client_that_hangs_up_is_not_embedded(held: HeldEmbedder) -> None:
    app = app_of(held, places=8)
    batches = state_of(app).served.now.collections[0].embedder
    asked = film_request(film(0), 1)
    head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: {asked.content_type}\r\n"
    message = f"{head}Content-Length: {len(asked.body)}\r\n\r\n".encode() + asked.body

    clients: list[socket.socket] = []
    with listening(app) as address, ExitStack() as closing:
        for _ in range(3):  # two come to the door, one waits
            clients.append(closing.enter_context(socket.create_connection(address)))
            clients[-1].sendall(message)
            until(lambda: held.begun == min(len(clients), 2) and len(batches._waiting) == len(clients) - held.begun)
        gone = batches._waiting[0].gone
        clients[-1].close()
        until(gone)
        held.door.set()
        until(lambda: places_left(batches) == 8)
        assert held.embedded == 2
        assert [client.recv(12) for client in clients[:2]] == 2 * [b"HTTP/1.1 200"]
