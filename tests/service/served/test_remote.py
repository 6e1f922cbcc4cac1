"""A remote embedder over real HTTP: four shapes, what is refused at the start, and answers that cannot be trusted."""

import base64
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest
from film_files import dicom
from flask.testing import FlaskClient
from service_world import ANGLES, film, save_index

from index.errors import FingerprintMismatch
from index.importing.imported_vectors import Source
from service.errors import MountError
from service.loader import load
from service.served import remote
from service.served.mounts import parse_mounts
from service.served.remote import Address

FINGERPRINT = Source("m", "1").fingerprint(2)


@dataclass
class Stub:
    """What a server does: the answer to a question of one kind, and what it was asked."""

    kind: str
    turned: float = 0.0
    fault: Callable[[BaseHTTPRequestHandler], None] | None = None
    asked: list[bytes] = field(default_factory=list)
    model: str = "m"

    def vector(self, body: bytes) -> list[float]:
        """Return (2,), three times too long: at the angle of a picture's brightness, or upright for a text."""
        found = self.question(body)
        if isinstance(found, str):
            return [0.0, 3.0]
        picture = cv2.imdecode(np.frombuffer(found, np.uint8), cv2.IMREAD_UNCHANGED)
        assert (picture.ndim, picture.dtype) == (2, np.uint8)
        angle = math.radians(90 * picture.mean() / 255 + self.turned)
        return [3 * math.cos(angle), 3 * math.sin(angle)]

    def question(self, body: bytes) -> bytes | str:
        if self.kind == "own":
            return body if body.startswith(b"\x89PNG") else json.loads(body)["text"]
        value = json.loads(body)
        if self.kind == "tei":
            [text] = value["inputs"]
            return base64.b64decode(text.partition(",")[2]) if text.startswith("data:") else text
        if self.kind == "kserve":
            [tensor] = value["inputs"]
            return base64.b64decode(tensor["data"][0]) if tensor["name"] == "image" else tensor["data"][0]
        [instance] = value["instances"]
        return instance.get("text") or base64.b64decode(instance["image"]["bytesBase64Encoded"])

    def answer(self, body: bytes) -> Any:
        found = self.vector(body)
        return {
            "own": {"embedding": found, "model": f"{self.model}@1"},
            "tei": [found],
            "kserve": {"model_name": self.model, "model_version": "1", "outputs": [{"shape": [1, 2], "data": found}]},
            "vertex": {"predictions": [{"imageEmbedding": found}], "model": self.model, "modelVersionId": "1"},
        }[self.kind]


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Iterator[tuple[Stub, str]]:
    """Yield a server on loopback, of the kind asked for, and its address."""
    here = Stub(getattr(request, "param", "own"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply(self, json.dumps({"model_id": here.model, "model_sha": "1"}).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            here.asked.append(body)
            if here.fault is not None:
                here.fault(self)
            else:
                reply(self, json.dumps(here.answer(body)).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield here, f"http://127.0.0.1:{server.server_port}/embed"
        server.shutdown()


def reply(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an index of the stub's vectors, with the film of one study: as bright as its angle says."""
    monkeypatch.setattr("service_world.FINGERPRINT", FINGERPRINT)
    save_index(tmp_path / "index")
    (tmp_path / "films/patient00001/study2").mkdir(parents=True)
    (tmp_path / "films/patient00001/study2/view1_frontal.png").write_bytes(film(28))
    return tmp_path


def client_of(folder: Path, url: str, kind: str = "own") -> FlaskClient:
    mounts = parse_mounts([f"{folder}/index"], [f"{folder}/films"])
    return load(mounts, None, embedder=url, embedder_kind=kind).test_client()


def search(client: FlaskClient, content: bytes) -> Any:
    return client.post("/v1/search", data={"frontal": (io.BytesIO(content), "film"), "k": "1"})


@pytest.mark.parametrize("stub", ["own", "tei", "kserve", "vertex"], indirect=True)
def test_a_film_is_searched_by_the_vector_of_each_kind_of_server(stub: tuple[Stub, str], folder: Path) -> None:
    here, url = stub
    client = client_of(folder, url, here.kind)

    answer = search(client, film(250)).get_json()

    assert answer["hits"][0]["study_id"] == "patient00003/study1"
    assert answer["fingerprint"] == FINGERPRINT
    assert client.get("/readyz").get_json()["cosine_to_start"] == 1.0
    assert client.get("/info").get_json()["collections"][0]["embeds"] is True
    assert client.post("/v1/search", json={"text": "edema", "k": 1}).get_json()["hits"][0]["similarity"] == 1.0
    explained = client.post("/v1/explain", json={"study_id": "patient00001/study2", "hit": "patient00003/study1"})
    assert explained.get_json()["error"]["code"] == "no_encoder"


def test_two_films_are_one_study_in_their_mean_direction(stub: tuple[Stub, str], folder: Path) -> None:
    client = client_of(folder, stub[1])
    films = {"frontal": (io.BytesIO(film(0)), "f.png"), "lateral": (io.BytesIO(film(255)), "l.png")}

    x, y = client.post("/v1/embeddings", data=films).get_json()["embedding"]

    assert (x, y) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)), abs=1e-3)


def test_nothing_of_a_film_but_its_pixels_is_sent_and_it_is_sent_once(stub: tuple[Stub, str], folder: Path) -> None:
    here, url = stub
    client = client_of(folder, url)
    before = len(here.asked)

    assert search(client, dicom(PatientName="MARKED^NAME", PatientID="MARKED")).status_code == 200

    [body] = here.asked[before:]
    assert body.startswith(b"\x89PNG")
    assert b"MARKED" not in body
    assert {kind for kind in (b"tEXt", b"iTXt", b"zTXt", b"eXIf") if kind in body} == set()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "another"}, "the index was built with encoder"),
        ({"turned": 4.0}, r"another vector of study 'patient00001/study2' than the index holds \(cosine 0.99"),
    ],
)
def test_another_model_or_another_preparation_of_films_is_refused_at_the_start(
    stub: tuple[Stub, str], folder: Path, changes: dict[str, Any], said: str
) -> None:
    here, url = stub
    vars(here).update(changes)

    with pytest.raises(FingerprintMismatch, match=said):
        client_of(folder, url)


def test_an_embedder_that_no_stored_film_can_try_is_refused(stub: tuple[Stub, str], folder: Path) -> None:
    (folder / "films/patient00001/study2/view1_frontal.png").unlink()

    with pytest.raises(FingerprintMismatch, match="name their folder with --images"):
        client_of(folder, stub[1])


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(64):
        handler.wfile.write(b"[" * 65536)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.05)


FAULTS: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "error": lambda one: reply(one, b"{}", 500),
    "moved": lambda one: reply(one, b"{}", 302, Location="/elsewhere"),
    "endless": endless,
    "dripping": dripping,
    "silent": lambda one: one.connection.close(),
    "no JSON": lambda one: reply(one, b"<html>"),
    "NaN": lambda one: reply(one, b'{"embedding": [NaN, 1], "model": "m@1"}'),
    "zeros": lambda one: reply(one, b'{"embedding": [0, 0], "model": "m@1"}'),
    "long": lambda one: reply(one, b'{"embedding": [1, 0, 0], "model": "m@1"}'),
    "texts": lambda one: reply(one, b'{"embedding": ["1", "0"], "model": "m@1"}'),
    "large": lambda one: reply(one, b'{"embedding": [1' + b"0" * 400 + b', 0], "model": "m@1"}'),
    "another": lambda one: reply(one, b'{"embedding": [1, 0], "model": "m@2"}'),
    "nameless": lambda one: reply(one, b'{"embedding": [1, 0], "model": 7}'),
    "list": lambda one: reply(one, b"[[1, 0]]"),
}


def test_whatever_else_it_answers_is_503_and_no_film_is_sent_twice(
    stub: tuple[Stub, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, url = stub
    client = client_of(folder, url)
    monkeypatch.setattr(remote, "SECONDS", 0.5)
    found = {}
    for name, fault in FAULTS.items():
        here.fault, before = fault, len(here.asked)
        answer = search(client, film(90))
        error = answer.get_json()["error"]
        found[name] = (answer.status_code, error["code"], len(here.asked) - before)
        assert error["message"] == "the remote embedder gave no vector of this; it was asked once, see the log"

    assert found == dict.fromkeys(FAULTS, (503, "embedder_unavailable", 1))
    here.fault = None
    assert search(client, film(90)).status_code == 200


def test_a_stored_study_is_answered_while_it_is_away(stub: tuple[Stub, str], folder: Path) -> None:
    here, url = stub
    client = client_of(folder, url)
    here.fault = FAULTS["error"]

    assert client.post("/v1/search", json={"study_id": next(iter(ANGLES))}).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "http://radiology.example/embed",
        "https://a:b@host/",
        "ftp://127.0.0.1/",
        "127.0.0.1:8000",
        "https://h/?key=1",
        "http://[::1",
    ],
)
def test_an_address_that_would_leak_or_is_none_is_refused(address: str) -> None:
    with pytest.raises(MountError, match=r"expected (https|an address)"):
        Address.parse(address)
    assert Address.parse("http://[::1]:8001/e").url.port == 8001
