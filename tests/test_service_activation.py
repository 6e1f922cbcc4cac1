"""Another index or encoder put in the place of what is served: no request fails, none sees a mixture."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
from flask_openapi3 import OpenAPI
from living_world import addition, unit, units
from service_world import film

from encoder.checkpoint import save_encoder
from encoder.embedder import Embedder
from encoder.model import DualEfficientNetEncoder
from index.collection import save_collection
from index.living import LivingCollection
from index.vector_index import VectorIndex
from scripts.benches.clients import Asked, film_request, vector_request
from service.activation import ACTIVATION, Activation
from service.errors import Busy, NotReady
from service.finder import Mounted
from service.loader import load
from service.mounts import parse_mounts

DIM = 256


def save_index(folder: Path, studies: pa.Table, fingerprint: str, rng: np.random.Generator) -> Path:
    folder.mkdir()
    vectors = VectorIndex.build(units(rng, len(studies), DIM))
    save_collection(folder, vectors, studies, None, fingerprint=fingerprint, image_root=None)
    return folder


@pytest.fixture
def folders(tmp_path: Path, tiny_embedder: Embedder, studies: pa.Table, rng: np.random.Generator) -> Path:
    """Return a folder with an encoder, indexes of 40 and 60 studies, and `main`, a link to the first."""
    save_encoder(tmp_path / "encoder.safetensors", tiny_embedder.encoder, tiny_embedder.preprocessing)
    save_index(tmp_path / "first", studies.slice(0, 40), tiny_embedder.fingerprint, rng)
    save_index(tmp_path / "second", studies.slice(140, 60), tiny_embedder.fingerprint, rng)
    (tmp_path / "main").symlink_to("first")
    return tmp_path


@pytest.fixture
def app(folders: Path) -> OpenAPI:
    return load(
        parse_mounts([f"main={folders / 'main'}", f"other={folders / 'second'}"]), folders / "encoder.safetensors"
    )


def turn(link: Path, target: str) -> None:
    """Let a link lead elsewhere, at one moment."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    os.replace(fresh, link)


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
    living, other = LivingCollection(folders / "first"), app.extensions["precedent"].finder("other")
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
    assert app.extensions["precedent"].finder("other") is other
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
    before = app.extensions["precedent"]
    answer = activated(app)

    assert answer.status_code == (409 if damage == "encoder" else 503)
    assert str(folders) not in answer.text
    assert app.extensions["precedent"] is before
    assert app.test_client().get("/info").get_json()["collections"][0]["studies"] == 40


def test_another_encoder_comes_with_the_indexes_of_its_own(
    app: OpenAPI, folders: Path, tiny_encoder: DualEfficientNetEncoder, tiny_embedder: Embedder, studies: pa.Table,
    rng: np.random.Generator,
) -> None:  # fmt: skip
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
    activation: Activation = app.extensions[ACTIVATION]
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
        assert first.result() is app.extensions["precedent"]


def test_a_refusal_in_the_background_goes_to_the_log(app: OpenAPI, caplog: pytest.LogCaptureFixture) -> None:
    activation: Activation = app.extensions[ACTIVATION]

    def refuse(_name: str | None, _served: Mounted) -> Mounted:
        raise NotReady("no index today")

    activation._load = refuse
    activation.in_background()
    until(lambda: "no index today" in caplog.text)


RUN = """
import sys
from pathlib import Path
from scripts.serve import bind, serve
from service.loader import load
from service.mounts import parse_mounts
folder = Path(sys.argv[1])
serve(load(parse_mounts([f"main={folder / 'main'}"]), folder / "encoder.safetensors"), bind("127.0.0.1", 0))
"""


@pytest.fixture
def server(folders: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", RUN, str(folders)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[-1]
        process.kill()


@pytest.mark.slow
def test_sighup_has_a_running_server_take_up_what_lies_in_its_folders_and_fails_no_request(
    server: tuple[subprocess.Popen[str], str], folders: Path
) -> None:
    process, url = server
    ending, statuses = threading.Event(), Counter[int]()
    asked = [film_request(film(0), 3), vector_request([1.0] + [0.0] * (DIM - 1), 3)]

    def served() -> int:
        with urllib.request.urlopen(f"{url}/info", timeout=30) as answer:
            return int(json.load(answer)["collections"][0]["studies"])

    def ask(one: Asked) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        while not ending.is_set():
            connection.request("POST", "/v1/search", one.body, {"Content-Type": one.content_type})
            with connection.getresponse() as answer:
                answer.read()
                statuses[answer.status] += 1
        connection.close()

    assert served() == 40
    clients = [threading.Thread(target=ask, args=(asked[number % 2],)) for number in range(4)]
    for client in clients:
        client.start()
    for target, count in [("second", 60), ("first", 40)] * 2:
        turn(folders / "main", target)
        process.send_signal(signal.SIGHUP)
        until(lambda: served() == count)  # noqa: B023
    ending.set()
    for client in clients:
        client.join()
    assert set(statuses) == {200}
    assert statuses[200] > 8
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.slow
def test_a_supervisor_is_told_once_the_server_listens_and_a_sighup_before_does_not_end_it(folders: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, ExitStack() as closing:
        supervisor.bind(str(folders / "notify"))
        supervisor.settimeout(60)
        words = ["serve", f"main={folders / 'main'}", "--encoder", str(folders / "encoder.safetensors"), "--port", "0"]
        process = closing.enter_context(
            subprocess.Popen(
                [sys.executable, "-u", "-m", "scripts.cli", *words], stdout=subprocess.PIPE, text=True,
                cwd=Path(__file__).parents[1], env=os.environ | {"NOTIFY_SOCKET": str(folders / "notify")},
            )
        )  # fmt: skip
        closing.callback(process.kill)

        assert supervisor.recv(100) == b"EXTEND_TIMEOUT_USEC=900000000"  # it is past its imports, and loads
        process.send_signal(signal.SIGHUP)
        assert supervisor.recv(100) == b"READY=1"
        assert process.stdout is not None
        assert "40 studies of main on http://" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert supervisor.recv(100) == b"STOPPING=1"
        assert process.wait(60) == 0


def until(true: Callable[[], bool]) -> None:
    """Wait until it is true."""
    ending = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ending
        time.sleep(0.02)
