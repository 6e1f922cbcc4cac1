"""Films that are decoded at once: never more bytes of them than there is room for, on every route, and none twice."""

import http.client
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from film_files import dicom
from flask_openapi3 import OpenAPI
from served_world import save_world, serving
from service_world import build_app, build_client, film, save_films

from encoder.embedder import Embedder
from encoder.errors import ImageError
from encoder.films import image as reading
from encoder.films.image import ADMISSION, read_image
from service.errors import Busy
from service.limits import Limits
from service.loader import load
from service.served.decoding import Decoding
from service.served.mounts import parse_mounts
from service.served.pictures import SmallPictures
from service.state import state_of

FIRST = "patient00001/study1"
MEGAPIXEL = cv2.imencode(".png", np.tile(np.arange(1000, dtype=np.uint16), (1000, 1)))[1].tobytes()
SIZE = 10_000_000 + 2 * len(MEGAPIXEL)
"""Bytes that are set aside for it."""


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(("room", "at_once"), [(3 * SIZE, 3), (SIZE, 1), (1, 1)])
def test_no_more_films_are_open_than_there_is_room_for(room: int, at_once: int) -> None:
    decoding, inside, most = Decoding(Limits(decoding_bytes=room)), 0, 0
    counting = threading.Lock()

    def look(_: int) -> None:
        nonlocal inside, most
        with decoding.slot():
            read_image(MEGAPIXEL)
            with counting:
                inside += 1
                most = max(most, inside)
            time.sleep(0.05)
            with counting:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(look, range(12)))
    assert 1 <= most <= at_once
    assert decoding._left == room


@pytest.mark.usefixtures("many_cores")
def test_a_study_of_two_films_needs_room_for_one_and_a_refused_one_gives_it_back() -> None:
    decoding = Decoding(Limits(decoding_bytes=SIZE))
    with decoding.slot():
        read_image(MEGAPIXEL)
        read_image(MEGAPIXEL)
    blank = cv2.imencode(".png", np.zeros((500, 500), np.uint8))[1].tobytes()
    with pytest.raises(ImageError, match="contrast"), decoding.slot(5):
        read_image(blank)

    assert decoding._left == SIZE
    assert ADMISSION.get()(1) is None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_embedder: Embedder) -> Path:
    return save_world(tmp_path_factory.mktemp("world"), tiny_embedder)


@pytest.fixture(scope="module")
def app(world: Path) -> OpenAPI:
    """Return the application over a real encoder, a probe, a map and 24 films."""
    mounts = parse_mounts([str(world / "index")], [str(world)])
    return load(mounts, world / "encoder.safetensors", probe_dir=world / "probe")


STORED = "patient00000/study0"
ASKED = {
    "search": ("POST", "/v1/search", {}),
    "embeddings": ("POST", "/v1/embeddings", {}),
    "map": ("POST", "/v1/map", {}),
    "predict": ("POST", "/v1/predict", {"tta": "true", "map": "true"}),
    "explain": ("POST", "/v1/explain", {"finding": "Edema"}),
    "page": ("POST", "/", {}),
    "add": ("POST", "/v1/studies", {"study": '{"study_id": "p/new", "patient_id": "p"}'}),
    "small picture": ("GET", f"/film/{STORED}?view=frontal", None),
}


@pytest.mark.parametrize("asked", ASKED)
def test_every_route_decodes_where_there_is_room(app: OpenAPI, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    bound: list[bool] = []
    admit, free = reading._admit, ADMISSION.get()

    def seen(pixels: int, data: bytes) -> None:
        bound.append(ADMISSION.get() is not free)
        admit(pixels, data)

    monkeypatch.setattr(reading, "_admit", seen)
    method, path, fields = ASKED[asked]
    films = None if fields is None else fields | {"frontal": (BytesIO(MEGAPIXEL), "f.png")}
    answer = app.test_client().open(path, method=method, data=films)

    assert answer.status_code in (200, 201, 303), answer.text
    assert bound
    assert all(bound)
    assert state_of(app).decoding._left == Limits().decoding_bytes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_films(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", [f"/film/{FIRST}?view=frontal", f"/v1/studies/{FIRST}/image"])
def test_pictures_beyond_a_number_are_refused_while_searches_are_answered(root: Path, path: str) -> None:
    app = build_app(root, pictures=1)
    client = app.test_client()
    with state_of(app).decoding.picture():
        refused = client.get(path)
        found = client.post("/v1/search", json={"study_id": FIRST})

    assert (refused.status_code, refused.headers["Retry-After"], found.status_code) == (429, "1", 200)
    assert refused.get_json()["error"]["code"] == "busy"
    assert client.get(path).status_code == 200


def test_a_small_picture_is_made_once_until_its_film_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, path = build_client(root), f"/film/{FIRST}?view=frontal"
    first = client.get(path).data
    with monkeypatch.context() as patch:
        patch.setattr("service.served.pictures.read_image", lambda *_, **__: pytest.fail("decoded again"))
        assert client.get(path).data == first
    (root / FIRST / "view1_frontal.png").write_bytes(film(200))

    assert client.get(path).data != first


def test_small_pictures_are_kept_while_they_fit_and_the_one_longest_unasked_goes() -> None:
    kept = SmallPictures(30)
    for name in "abc":
        kept.keep(name, bytes(10))
    kept.get("a")
    kept.keep("d", bytes(10))

    assert [kept.get(name) is not None for name in "abcd"] == [True, False, True, True]
    kept.keep("a", bytes(20))
    assert [kept.get(name) is not None for name in "abcd"] == [True, False, False, True]


def test_a_stored_film_larger_than_any_is_not_read_whole(root: Path) -> None:
    with (root / FIRST / "view1_frontal.png").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    for path in (f"/film/{FIRST}?view=frontal", f"/v1/studies/{FIRST}/image"):
        refused = build_client(root).get(path)

        assert (refused.status_code, "at most 100000000 bytes" in refused.text) == (422, True)


def test_a_picture_that_finds_no_place_leaves_none_taken() -> None:
    decoding = Decoding(Limits(pictures=1))
    for _ in range(3):
        with decoding.picture(), pytest.raises(Busy, match="pictures of films"), decoding.picture():
            pass
    with decoding.picture():
        pass


@pytest.fixture
def large_films(world: Path) -> Iterator[list[str]]:
    """Put films of 40 megapixels in the place of eight studies' for a while, and yield the studies."""
    (world / "large").write_bytes(dicom(np.tile(np.arange(8000, dtype=np.uint16), (5000, 1))))
    before = {number: (world / f"{number}.png").read_bytes() for number in range(8)}
    for number in before:
        (world / f"{number}.png").unlink()
        (world / f"{number}.png").hardlink_to(world / "large")
    yield [f"patient{number // 2:05d}/study{number % 2}" for number in before]
    for number, content in before.items():
        (world / f"{number}.png").unlink()
        (world / f"{number}.png").write_bytes(content)


@pytest.mark.slow
def test_large_films_asked_for_at_once_take_the_memory_of_a_few(world: Path, large_films: list[str]) -> None:
    with serving(world) as server:

        def ask(study: str) -> int:
            connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=300)
            with closing(connection):
                connection.request("GET", f"/film/{study}?view=frontal")
                return connection.getresponse().status

        before = server.memory_bytes()
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, large_films)) == [200] * 8
        assert server.memory_bytes("VmHWM") - before < 1.4e9
