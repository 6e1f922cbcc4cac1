"""The service over a Milvus server of its own process: what is answered, and what happens when it is lost and comes back."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import grpc
import numpy as np
import pytest
from export_files import save_export
from flask.testing import FlaskClient
from served_world import save_world
from service_world import ANGLES, FINGERPRINT, app_over, build_mounted, build_retriever, film

from encoder.embedder import Embedder
from index.export.shards import load_embeddings
from index.living.collection import LivingCollection
from index.milvus.address import MilvusAddress, parse_milvus
from index.milvus.building import build_on_milvus
from index.milvus.collection import MilvusCollection
from scripts.benches.clients import running
from service.api.answers import SearchAnswer
from service.served.mounts import parse_mounts

KNOWN = "patient00001/study1"
_SERVER = "from milvus_lite.adapter.grpc.server import run_server; import sys; run_server(sys.argv[1], '127.0.0.1', int(sys.argv[2]))"
_PATIENCE = 120
_NEW = {"study_id": "patient00009/study1", "patient_id": "patient00009", "findings": {"Edema": 1}}


@contextmanager
def milvus(folder: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Milvus Lite server until it is killed, at the end at the latest."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(folder), str(port)], stdout=subprocess.DEVNULL
    ) as process:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=_PATIENCE)
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def build(root: Path, address: MilvusAddress) -> None:
    """Insert the four studies of `service_world`."""
    whole = build_retriever()
    vectors = np.stack([whole.embedding(one) for one in ANGLES])
    build_on_milvus(save_export(root / "export", whole._studies, vectors, FINGERPRINT), address)


def client_of(address: MilvusAddress, images: Path) -> FlaskClient:
    collection = build_mounted(retriever=MilvusCollection(address), image_root=images)
    return app_over(collection).test_client()


def nearest(client: FlaskClient) -> list[str]:
    return [hit["study_id"] for hit in client.get(f"/v1/studies/{KNOWN}/similar?k=3").get_json()["hits"]]


@pytest.mark.slow
def test_a_lost_milvus_is_a_503_until_it_is_back_and_nothing_acknowledged_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    address = parse_milvus(f"milvus+http://127.0.0.1:{port}/cases")
    with milvus(tmp_path / "data", port) as process:
        build(tmp_path, address)
        client = client_of(address, tmp_path)
        form = {"study": json.dumps(_NEW), "frontal": (BytesIO(film(0)), "f.png")}
        assert client.post("/v1/studies", data=form).status_code == 201
        before = nearest(client)
        assert "patient00009/study1" in before
        process.kill()
        process.wait()

        with monkeypatch.context() as patch:
            patch.setattr("index.milvus.client.CALL_SECONDS", 2.0)
            lost = client.get(f"/v1/studies/{KNOWN}/similar?k=3")
        assert (lost.status_code, lost.get_json()["error"]["code"]) == (503, "backend_unavailable")
        assert int(lost.headers["Retry-After"]) > 0
        assert str(port) not in lost.get_data(as_text=True)

    with milvus(tmp_path / "data", port):
        assert _again(client) == before
        assert client.delete("/v1/studies/patient00009/study1").status_code == 204
        assert "patient00009/study1" not in nearest(client)
        assert list((tmp_path / "added").rglob("*.png")) == []


def _again(client: FlaskClient) -> list[str]:
    """Ask until the service has found its server again, as the header tells a client to."""
    end = time.monotonic() + _PATIENCE
    while (answer := client.get(f"/v1/studies/{KNOWN}/similar?k=3")).status_code == 503 and time.monotonic() < end:
        time.sleep(0.1)
    return [hit["study_id"] for hit in answer.get_json()["hits"]]


@pytest.mark.slow
def test_precedent_serve_lives_on_while_milvus_stalls_and_is_lost_and_goes_on_when_it_is_back(
    tmp_path: Path, tiny_embedder: Embedder
) -> None:
    root, port = save_world(tmp_path, tiny_embedder), free_port()
    address = parse_milvus(f"milvus+http://127.0.0.1:{port}/cases")
    words = [str(address), "--encoder", root / "encoder.safetensors", "--audit", root / "audit.jsonl", "--port", "0"]
    with milvus(tmp_path / "data", port) as process:
        build_on_milvus(root / "export", address)
        with running([*map(str, words), "--threads", "4"]) as server:
            query = f"{server.url}/v1/studies/patient00003/study1/similar?k=3"
            before = _asked(query)["hits"]
            process.send_signal(signal.SIGSTOP)
            _require_refusals(server.url, query)
            process.kill()
            process.wait()
            _require_refusals(server.url, query)
            with milvus(tmp_path / "data", port):
                end = time.monotonic() + _PATIENCE
                while (status := _status(query)) == 503 and time.monotonic() < end:
                    time.sleep(0.5)
                assert (status, _asked(query)["hits"]) == (200, before)
    told = map(json.loads, (root / "audit.jsonl").read_text().splitlines())
    studies = [one["studies"] for one in told if one.get("status") == 503 and one["studies"]]
    assert len(studies) >= 16
    assert all(one == ["unknown"] for one in studies)


def _require_refusals(url: str, query: str) -> None:
    """Ask more often at a time than there are threads: each is refused, and life and counts are told meanwhile."""
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(_status, query) for _ in range(8)]
        assert [_status(f"{url}/{path}") for path in ("healthz", "metrics", "readyz")] == [200, 200, 503]
        assert {one.result() for one in asked} == {503}


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except HTTPError as refusal:
        with refusal:
            return refusal.code


@pytest.mark.long
def test_precedent_serve_answers_from_milvus_as_from_a_folder_and_takes_up_a_swap(
    tmp_path: Path, tiny_embedder: Embedder
) -> None:
    root, asked, port = save_world(tmp_path, tiny_embedder), "patient00003/study1", free_port()
    address = parse_milvus(f"milvus+http://127.0.0.1:{port}/cases")
    words = [str(address), "--encoder", root / "encoder.safetensors", "--images", root, "--port", "0"]
    studies, vectors = load_embeddings(root / "export")
    fewer = studies.slice(0, 9).drop_columns(["views"])
    save_export(root / "fewer", fewer, vectors[:9], tiny_embedder.fingerprint)
    with milvus(tmp_path / "data", port):
        build_on_milvus(root / "export", address)
        with running(list(map(str, words))) as server:
            expected = SearchAnswer.of(LivingCollection(root / "index").similar(asked, 5))
            answer = _asked(f"{server.url}/v1/studies/{asked}/similar?k=5")
            assert answer["hits"] == expected["hits"]
            assert answer["matched_total"] == expected["matched_total"] == 22

            build_on_milvus(root / "fewer", address)
            assert _asked(f"{server.url}/info")["collections"][0]["studies"] == 24
            assert _asked(f"{server.url}/v1/indexes/cases/activate", b"")["studies"] == 9


def _asked(url: str, body: bytes | None = None) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_an_address_on_milvus_is_mounted_under_its_collections_name() -> None:
    first, second = parse_mounts(["milvus+http://host:19530/Cases", "nih=milvus+file:///data/nih.db/cases"])

    assert (first.name, str(first.index_dir)) == ("cases", "milvus+http://host:19530/Cases")
    assert (second.name, str(second.index_dir)) == ("nih", "milvus+file:///data/nih.db/cases")
