"""What the audit log says of a call, and what it never says."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from service_world import build_app, build_finder, film, save_films
from test_service_writing import save_index

from index.living import LivingCollection
from service import doors, witness
from service.app import create_app
from service.audit import AuditLog
from service.chain import verify
from service.errors import AuditError
from service.finder import Mounted
from service.tokens import TokenFile, create_token, revoke_token

STUDY, OTHER = "patient00001/study1", "patient00002/study1"


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl")


@pytest.fixture
def app(tmp_path: Path, log: AuditLog) -> Flask:
    save_films(tmp_path / "films")
    app = build_app(tmp_path / "films")
    witness.register(app, log)
    return app


def told(log: AuditLog) -> list[dict[str, Any]]:
    """Return the lines of the log, which must be whole, without those of its start."""
    verify(log.path)
    lines = map(json.loads, log.path.read_text().splitlines())
    return [line for line in lines if line["event"] == "call"]


def test_a_call_is_told_with_who_what_which_study_and_result(tmp_path: Path, app: Flask, log: AuditLog) -> None:
    secret = create_token(tmp_path / "tokens.json", "alice", ["read"])
    doors.lock(app, TokenFile(tmp_path / "tokens.json"))
    answer = app.test_client().get(f"/v1/studies/{STUDY}/similar?k=2", headers={"Authorization": f"Bearer {secret}"})

    (line,) = told(log)
    assert line["time"].endswith("+00:00")
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert (line["principal"], line["method"], line["status"]) == ("alice", "GET", 200)
    assert (line["route"], line["collection"]) == ("/v1/studies/{study_id}/similar", "main")
    assert line["studies"] == [STUDY]
    assert set(line) - {"line", "previous", "hash"} == {
        "time", "event", "request_id", "principal", "method", "route", "collection", "studies", "status"
    }  # fmt: skip


CALLS: dict[str, tuple[str, str, dict[str, Any], int, list[str]]] = {
    "the page": ("GET", f"/?study={STUDY}&hit={OTHER}", {}, 200, [STUDY, OTHER]),
    "a thumbnail": ("GET", f"/film/{STUDY}", {}, 200, [STUDY]),
    "a search as JSON": ("POST", "/v1/search", {"json": {"study_id": STUDY}}, 200, [STUDY]),
    "a search by films": ("POST", "/v1/search", {"data": {"frontal": (io.BytesIO(film(9)), "Smith.png")}}, 200, []),
    "a search by a form": ("POST", "/v1/predict", {"data": {"study_id": OTHER}, "content_type": "multipart/form-data"}, 503, [OTHER]),
    "two studies": ("POST", "/v1/explain", {"json": {"study_id": STUDY, "hit": OTHER}}, 503, [STUDY, OTHER]),
    "a study that is not there": ("GET", "/v1/studies/John Smith 1950-01-01", {}, 404, ["unknown"]),
    "words on the page": ("GET", "/?hit=Smith", {}, 200, ["unknown"]),
    "a wrong collection": ("GET", f"/v1/studies/{STUDY}?collection=Smith", {}, 404, ["unknown"]),
    "a wrong field": ("POST", "/v1/search", {"json": {"study_id": STUDY, "Smith": 1}}, 400, [STUDY]),
    "a number for a name": ("POST", "/v1/search", {"json": {"study_id": 5, "collection": []}}, 400, []),
    "no route": ("GET", "/Smith", {}, 404, []),
    "no method": ("SMITH", "/info", {}, 405, []),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_line_names_studies_that_are_there_and_no_other_word_of_the_caller(
    app: Flask, log: AuditLog, call: str
) -> None:
    method, path, asked, status, studies = CALLS[call]
    app.test_client().open(path, method=method, buffered=True, **asked)

    (line,) = told(log)
    assert (line["status"], line["studies"], line["principal"]) == (status, studies, None)
    assert "Smith" not in log.path.read_text()


def test_an_added_and_a_deleted_study_are_told_with_who_when_and_result(tmp_path: Path, log: AuditLog) -> None:
    (tmp_path / "films").mkdir()
    living = LivingCollection(save_index(tmp_path / "index"))
    app = create_app(Mounted((build_finder(retriever=living, image_root=tmp_path / "films"),)))
    witness.register(app, log)
    secret = create_token(tmp_path / "tokens.json", "bob", ["write"])
    doors.lock(app, TokenFile(tmp_path / "tokens.json"))
    own = {"Authorization": f"Bearer {secret}"}
    new = {"study_id": "patient00009/study1", "patient_id": "patient00009"}
    for _ in range(2):  # a study that is there is no news, and is told as well
        form = {"study": json.dumps(new), "frontal": (io.BytesIO(film(9)), "Smith.png")}
        app.test_client().post("/v1/studies", data=form, headers=own)
    for _ in range(2):
        app.test_client().delete("/v1/studies/patient00009/study1", headers=own)

    asked = [(line["method"], line["route"], line["status"], line["studies"]) for line in told(log)]
    of_study = "/v1/studies/{study_id}"
    assert asked == [
        ("POST", "/v1/studies", 201, ["patient00009/study1"]),
        ("POST", "/v1/studies", 200, ["patient00009/study1"]),
        ("DELETE", of_study, 204, ["patient00009/study1"]),
        ("DELETE", of_study, 404, ["unknown"]),
    ]
    assert {(line["principal"], line["collection"], line["time"][-6:]) for line in told(log)} == {
        ("bob", "main", "+00:00")
    }
    assert secret not in log.path.read_text()


def test_a_vector_is_never_told(app: Flask, log: AuditLog) -> None:
    app.test_client().post("/v1/search", json={"embedding": [0.6, 0.8]})
    app.test_client().post("/v1/embeddings", data={"frontal": (io.BytesIO(film(9)), "a.png")})

    assert [line["status"] for line in told(log)] == [200, 200]
    assert all(set(map(type, line.values())) <= {str, int, list, type(None)} for line in told(log))


def test_what_says_nothing_of_a_study_is_not_told(app: Flask, log: AuditLog) -> None:
    for path in ("/healthz", "/static/page.css"):
        app.test_client().get(path, buffered=True)

    assert told(log) == []


def test_a_refusal_is_told_and_a_flood_of_strangers_is_counted(tmp_path: Path, log: AuditLog) -> None:
    secret = create_token(tmp_path / "tokens.json", "alice", ["read"])
    app = build_app(calls_at_once=2, calls_a_second=1)
    doors.lock(app, TokenFile(tmp_path / "tokens.json"))
    witness.register(app, log)
    for _ in range(5):
        app.test_client().get("/info")
    app.test_client().get("/info", headers={"Authorization": f"Bearer {secret}"})

    assert [(line["status"], line.get("further_refusals")) for line in told(log)] == [
        (401, None),
        (401, None),
        (200, 3),
    ]


@pytest.mark.parametrize(
    ("path", "headers", "status", "later"),
    [
        ("/info", {"Host": "evil.example"}, 400, 429),
        ("/login", {}, 200, 200),
        ("/", {"Accept": "text/html"}, 302, 302),
        ("/info", {"Authorization": "Bearer {revoked}"}, 401, 429),
    ],
)
def test_no_flood_fills_the_log(
    tmp_path: Path, log: AuditLog, path: str, headers: dict[str, str], status: int, later: int
) -> None:
    tokens = tmp_path / "tokens.json"
    revoked = create_token(tokens, "bob", ["read"])
    revoke_token(tokens, "bob")
    app = build_app(calls_at_once=2, calls_a_second=1)
    doors.lock(app, TokenFile(tokens))
    witness.register(app, log)

    given = {name: value.format(revoked=revoked) for name, value in headers.items()}
    found = [app.test_client().get(path, headers=given).status_code for _ in range(20)]

    assert found == [status] * 2 + [later] * 18
    assert [line["status"] for line in told(log)] == [status] * 2


def test_what_cannot_be_told_is_not_answered(app: Flask, log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(record: dict[str, Any]) -> None:
        raise AuditError(f"cannot write {log.path}")

    monkeypatch.setattr(log, "append", full)
    answer = app.test_client().get(f"/v1/studies/{STUDY}")

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "not_ready")
    assert STUDY not in answer.text
    assert str(log.path) not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert app.test_client().get("/healthz").status_code == 200
