"""The service over a real PostgreSQL that is killed and started again: what it answers, and that nothing is lost."""

import json
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from postgres_world import postgres_server
from served_world import save_world
from service_world import film

from encoder.embedder import Embedder
from index.engines.verification import verify_on_server
from index.living.collection import LivingCollection
from index.postgres.building import build_on_postgres
from index.postgres.collection import PostgresCollection
from scripts.benches.clients import running
from service.api.answers import SearchAnswer
from service.served.mounts import parse_mounts

_PATIENCE = 120
_BOUNDARY = "4b1c"


@pytest.mark.slow
def test_precedent_serve_answers_as_from_a_folder_through_a_kill_and_loses_nothing(
    tmp_path: Path, tiny_embedder: Embedder
) -> None:
    root = save_world(tmp_path, tiny_embedder)
    with postgres_server() as postgres:
        address = postgres.address()
        build_on_postgres(root / "export", address)
        words = [str(address), "--encoder", root / "encoder.safetensors", "--images", root, "--port", "0"]
        with running([*map(str, words), "--threads", "4"]) as server, _alive(server.url) as lives:
            query = f"{server.url}/v1/studies/patient00003/study1/similar?k=5"
            with closing(LivingCollection(root / "index")) as folder:
                expected = SearchAnswer.of(folder.similar("patient00003/study1", 5))["hits"]
            assert _asked(query)[1]["hits"] == expected

            acknowledged = [name for name in ("one", "two") if _add(server.url, name) == 201]
            killer = threading.Timer(0.3, postgres.kill)
            killer.start()
            for number in range(1000):
                if (status := _add(server.url, f"more{number}")) != 201:
                    break
                acknowledged.append(f"more{number}")
            killer.join()
            assert status == 503
            assert _asked(query)[0] == 503

            postgres.start()
            _wait_for(query, 200)
            now = [_asked(f"{server.url}/v1/studies/{name}/study1")[0] for name in acknowledged]
            assert now == [200] * len(acknowledged)
            assert set(lives) == {200}
        with closing(PostgresCollection(address)) as collection:
            assert verify_on_server(collection).faults == []
            assert len(acknowledged) >= 2


class _alive:
    """Asks /healthz until the end and lists what it answered."""

    def __init__(self, url: str) -> None:
        self._url, self._ended, self.answers = f"{url}/healthz", threading.Event(), list[int]()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> list[int]:
        self._thread.start()
        return self.answers

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(0.2):
            self.answers.append(_asked(self._url)[0])


def _add(url: str, name: str) -> int:
    study = json.dumps({"study_id": f"{name}/study1", "patient_id": name})
    picture = film(sum(name.encode()) % 200)
    parts = [(b'name="study"', study.encode()), (b'name="frontal"; filename="f.png"', picture)]
    body = (
        b"".join(
            b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (_BOUNDARY.encode(), head, content)
            for head, content in parts
        )
        + f"--{_BOUNDARY}--\r\n".encode()
    )
    return _asked(f"{url}/v1/studies", body)[0]


def _wait_for(url: str, status: int) -> None:
    end = time.monotonic() + _PATIENCE
    while _asked(url)[0] != status and time.monotonic() < end:
        time.sleep(0.3)


def _asked(url: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, body)
    if body is not None:
        request.add_header("Content-Type", f"multipart/form-data; boundary={_BOUNDARY}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return int(answer.status), json.loads(text) if text[:1] == b"{" else {}
    except HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def test_an_address_in_postgresql_is_mounted_under_its_collections_name() -> None:
    first, second = parse_mounts(["postgresql://host/base/Cases?sslmode=require", "nih=postgresql:///base/cases"])
    assert (first.name, str(first.index_dir)) == ("cases", "postgresql://host/base/Cases?sslmode=require")
    assert (second.name, str(second.index_dir)) == ("nih", "postgresql:///base/cases")
