"""What the audit log says of a call, and what it never says."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask import Flask
from flask.testing import FlaskClient
from full_disk import files_up_to
from killing import Killer
from living_world import ids_of
from service_world import (
    ANGLES,
    app_over,
    build_app,
    build_mounted,
    film,
    save_films,
    save_index,
    with_log,
    with_tokens,
)
from werkzeug.test import TestResponse

from index.errors import BackendLoading, BackendUnavailable
from index.living.collection import LivingCollection
from index.search.retriever import Retriever
from scripts.cli import precedent
from service.audit.chain import unfinished, verify
from service.audit.log import AuditLog
from service.errors import AuditError
from service.guard import access
from service.guard.tokens import create_token, revoke_token
from service.served.mounted import Mounted
from service.state import state_of

STUDY, OTHER = "patient00001/study1", "patient00002/study1"


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl")


@pytest.fixture
def app(tmp_path: Path, log: AuditLog) -> Flask:
    save_films(tmp_path / "films")
    return with_log(build_app(tmp_path / "films"), log)


def told(log: AuditLog) -> list[dict[str, Any]]:
    """Return the lines of the calls of the log, which must be whole."""
    return [line for line in lines_of(log) if line["event"] == "call"]


def lines_of(log: AuditLog) -> list[dict[str, Any]]:
    verify(log.path)
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def test_a_refused_call_fills_no_disk_with_the_names_it_sends(app: Flask, log: AuditLog) -> None:
    names = "&".join(f"study={STUDY}&" + "&".join(f"study={number:x}" for number in range(5_000)) for _ in range(2))

    assert app.test_client().get(f"/v1/map?{names}").status_code == 400

    assert told(log)[0]["studies"] == [STUDY, *["unknown"] * 7]
    assert len(log.path.read_bytes()) < 2_000


def test_a_call_is_told_with_who_what_which_study_and_result(tmp_path: Path, app: Flask, log: AuditLog) -> None:
    secret = create_token(tmp_path / "tokens.json", "alice", ["read"])
    app = with_tokens(app, tmp_path / "tokens.json")
    answer = app.test_client().get(f"/v1/studies/{STUDY}/similar?k=2", headers={"Authorization": f"Bearer {secret}"})

    (line,) = told(log)
    assert line["time"].endswith("+00:00")
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert (line["principal"], line["method"], line["status"]) == ("alice", "GET", 200)
    assert (line["route"], line["collection"]) == ("/v1/studies/{study_id}/similar", "main")
    assert line["studies"] == [STUDY]
    assert set(line) - {"line", "previous", "hash"} == {
        "time",
        "event",
        "request_id",
        "principal",
        "method",
        "route",
        "collection",
        "studies",
        "status",
    }


CALLS: dict[str, tuple[str, str, dict[str, Any], int, list[str]]] = {
    "the page": ("GET", f"/?study={STUDY}&hit={OTHER}", {}, 200, [STUDY, OTHER]),
    "a thumbnail": ("GET", f"/film/{STUDY}", {}, 200, [STUDY]),
    "a search as JSON": ("POST", "/v1/search", {"json": {"study_id": STUDY}}, 200, [STUDY]),
    "several searches": (
        "POST",
        "/v1/searches",
        {"json": {"searches": [{"study_id": STUDY}, {"study_id": "Smith"}, {"study_id": OTHER}]}},
        200,
        [STUDY, "unknown", OTHER],
    ),
    "a search by films": ("POST", "/v1/search", {"data": {"frontal": (io.BytesIO(film(9)), "Smith.png")}}, 200, []),
    "a search by a form": (
        "POST",
        "/v1/predict",
        {"data": {"study_id": OTHER}, "content_type": "multipart/form-data"},
        503,
        [OTHER],
    ),
    "two studies": ("POST", "/v1/explain", {"json": {"study_id": STUDY, "hit": OTHER}}, 503, [STUDY, OTHER]),
    "a study that is not there": ("GET", "/v1/studies/John Smith 1950-01-01", {}, 404, ["unknown"]),
    "words on the page": ("GET", "/?hit=Smith", {}, 200, ["unknown"]),
    "a wrong collection": ("GET", f"/v1/studies/{STUDY}?collection=Smith", {}, 404, ["unknown"]),
    "a wrong field": ("POST", "/v1/search", {"json": {"study_id": STUDY, "Smith": 1}}, 400, [STUDY]),
    "a number for a name": ("POST", "/v1/search", {"json": {"study_id": 5, "collection": []}}, 400, []),
    "no route": ("GET", "/Smith", {}, 404, []),
    "no method": ("SMITH", "/info", {}, 405, []),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_line_names_studies_that_are_there_and_no_other_word_of_the_caller(
    app: Flask, log: AuditLog, call: str
) -> None:
    method, path, asked, status, studies = CALLS[call]
    app.test_client().open(path, method=method, buffered=True, **asked)

    (line,) = told(log)
    assert (line["status"], line["studies"], line["principal"]) == (status, studies, None)
    assert "Smith" not in log.path.read_text()


def test_a_call_about_a_study_that_nobody_can_look_up_now_is_told_all_the_same(
    app: Flask, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise BackendUnavailable("the server does not answer")

    for name in ("stored", "__contains__"):
        monkeypatch.setattr(Retriever, name, lost)
    answer = app.test_client().get(f"/v1/studies/{STUDY}/similar")

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "backend_unavailable")
    (line,) = told(log)
    assert (line["status"], line["collection"], line["studies"]) == (503, "main", ["unknown"])


def test_an_added_and_a_deleted_study_are_told_with_who_when_and_result(tmp_path: Path, log: AuditLog) -> None:
    (tmp_path / "films").mkdir()
    living = LivingCollection(save_index(tmp_path / "index"))
    app = with_log(app_over(build_mounted(retriever=living, image_root=tmp_path / "films")), log)
    secret = create_token(tmp_path / "tokens.json", "bob", ["write"])
    app = with_tokens(app, tmp_path / "tokens.json")
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
    for path in ("/healthz", "/static/css/page.css"):
        app.test_client().get(path, buffered=True)

    assert told(log) == []


def test_a_refusal_is_told_and_a_flood_of_strangers_is_counted(tmp_path: Path, log: AuditLog) -> None:
    secret = create_token(tmp_path / "tokens.json", "alice", ["read"])
    app = with_tokens(build_app(calls_at_once=2, calls_a_second=1), tmp_path / "tokens.json")
    app = with_log(app, log)
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
    app = with_tokens(build_app(calls_at_once=2, calls_a_second=0), tokens)
    app = with_log(app, log)

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


@pytest.fixture
def living(tmp_path: Path) -> LivingCollection:
    (tmp_path / "films").mkdir()
    return LivingCollection(save_index(tmp_path / "index"))


@pytest.fixture
def changing(tmp_path: Path, living: LivingCollection, log: AuditLog) -> FlaskClient:
    """Return a client of a collection that lives, with a log that is longer than any file of the collection's."""
    log.append({"event": "filler", "filler": 2_000_000 * "x"})
    found = build_mounted(retriever=living, image_root=tmp_path / "films")
    return app_over(found, log=log, load=lambda _name, served: served).test_client()


NEW = {"study_id": "patient00009/study1", "patient_id": "patient00009"}
CHANGES: dict[str, Callable[[FlaskClient], TestResponse]] = {
    "POST /v1/studies": lambda client: client.post(
        "/v1/studies", data={"study": json.dumps(NEW), "frontal": (io.BytesIO(film(9)), "Smith.png")}
    ),
    "DELETE /v1/studies/{study_id}": lambda client: client.delete(f"/v1/studies/{STUDY}"),
    "POST /v1/indexes/{name}/activate": lambda client: client.post("/v1/indexes/main/activate"),
}


def held(living: LivingCollection, root: Path) -> tuple[list[bool], list[Path]]:
    """Return which of two studies a collection holds, and the films below its root."""
    return [name in living.now() for name in (STUDY, NEW["study_id"])], sorted(root.rglob("*.png"))


def test_every_route_that_changes_something_is_among_those_tried_here() -> None:
    assert set(CHANGES) == {route for route, scope in access.SCOPE_OF.items() if scope in ("write", "admin")}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_about_to_be_changed_is_written_down_before_and_the_result_after(
    changing: FlaskClient, log: AuditLog, change: str
) -> None:
    answer = CHANGES[change](changing)

    intent, call = lines_of(log)[-2:]
    about = ("request_id", "principal", "method", "route", "collection", "studies")
    assert (intent["event"], call["event"]) == ("intent", "call")
    assert {name: intent[name] for name in about} == {name: call[name] for name in about}
    assert ("status" in intent, call["status"]) == (False, answer.status_code)
    assert answer.status_code < 300
    assert unfinished(log.path) == []


@pytest.mark.parametrize("change", CHANGES)
def test_where_the_log_has_no_room_nothing_is_changed(
    changing: FlaskClient, living: LivingCollection, log: AuditLog, tmp_path: Path, change: str
) -> None:
    before, activation = held(living, tmp_path / "films"), state_of(changing.application).activation
    activation._load = None  # which must not be called
    with files_up_to(log.path.stat().st_size):
        refused = CHANGES[change](changing)

    assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "not_ready")
    assert held(living, tmp_path / "films") == before
    assert lines_of(log)[-1]["event"] == "start"


@pytest.mark.parametrize("change", list(CHANGES)[:2])
def test_a_result_that_finds_no_room_is_owed_and_written_before_any_later_line(
    changing: FlaskClient, living: LivingCollection, log: AuditLog, tmp_path: Path, change: str
) -> None:
    before = held(living, tmp_path / "films")
    with files_up_to(log.path.stat().st_size + 520):  # room for one line
        refused = CHANGES[change](changing)
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "result_not_written")
        assert held(living, tmp_path / "films") != before
        assert [intent["ended"] for intent in unfinished(log.path)] == [False]
        assert changing.get("/info").status_code == 503
    assert changing.get("/info").status_code == 200

    assert [line["event"] for line in lines_of(log)[-3:]] == ["intent", "call", "call"]
    assert lines_of(log)[-2]["status"] in (201, 204)
    assert unfinished(log.path) == []


def test_a_swap_that_a_signal_asks_for_is_announced_and_told(changing: FlaskClient, log: AuditLog) -> None:
    activation = state_of(changing.application).activation
    activation._try_all()
    with files_up_to(log.path.stat().st_size):
        activation._load = None  # which must not be called
        activation._try_all()

    intent, call = lines_of(log)[-2:]
    assert (intent["event"], call["event"], call["status"]) == ("intent", "call", 200)
    assert intent["method"] == call["method"] == "SIGHUP"
    assert unfinished(log.path) == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BackendUnavailable("lost"), 503, "backend_unavailable"),
        (BackendLoading("loading"), 503, "backend_loading"),
        (KeyError("unforeseen"), 500, "internal_error"),
    ],
)
def test_a_swap_that_fails_in_whatever_way_is_told_and_leaves_all_as_it_was(
    changing: FlaskClient, log: AuditLog, error: Exception, status: int, code: str
) -> None:
    def fail(*_: object) -> Mounted:
        raise error

    served, activation = state_of(changing.application).served.now, state_of(changing.application).activation
    assert activation is not None
    activation._load = fail
    activation._try_all()
    answer = changing.post("/v1/indexes/main/activate")

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (status, code)
    assert answer.headers.get("Retry-After") == ("5" if status == 503 else None)
    assert [line["status"] for line in told(log)[-2:]] == [status, status]
    assert state_of(changing.application).served.now is served
    assert unfinished(log.path) == []


KILLED = """
import os, sys
from pathlib import Path
from service.audit.log import AuditLog
from service_world import app_over, build_mounted
from index.living.collection import LivingCollection
from test_trail import CHANGES

class Killed(LivingCollection):
    def add(self, *words, **options):
        super().add(*words, **options)
        os.kill(os.getpid(), 9)
    def delete(self, *words, **options):
        super().delete(*words, **options)
        os.kill(os.getpid(), 9)

folder = Path(sys.argv[1])
living = Killed(folder / "index")
app = app_over(build_mounted(retriever=living, image_root=folder / "films"), log=AuditLog(folder / "audit.jsonl"))
CHANGES[sys.argv[2]](app.test_client())
"""


@pytest.mark.parametrize(
    ("change", "studies"), [("POST /v1/studies", [NEW["study_id"]]), ("DELETE /v1/studies/{study_id}", [STUDY])]
)
def test_a_process_killed_between_a_change_and_its_line_has_left_the_intent(
    tmp_path: Path, change: str, studies: list[str]
) -> None:
    (tmp_path / "films").mkdir()
    save_index(tmp_path / "index")
    before = held(LivingCollection(tmp_path / "index"), tmp_path / "films")
    environment = os.environ | {"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])}
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), change], env=environment, check=False)

    assert child.returncode == -9
    assert held(LivingCollection(tmp_path / "index"), tmp_path / "films") != before
    (intent,) = unfinished(tmp_path / "audit.jsonl")
    assert (intent["studies"], intent["ended"]) == (studies, True)
    told = CliRunner().invoke(precedent, ["audit", "verify", str(tmp_path / "audit.jsonl")]).output
    assert f'["{studies[0]}"]: unknown: the process ended' in told
    AuditLog(tmp_path / "audit.jsonl").close()  # and goes on after it


def change_and_tell(folder: Path) -> None:
    """Add studies to the collection of a folder and delete every second of them, each told to its audit log."""
    living = LivingCollection(folder / "index")
    app = app_over(build_mounted(retriever=living, image_root=folder / "films"))
    log = AuditLog(folder / "audit.jsonl")
    app = with_log(app, log)
    client = app.test_client()
    for number in range(12):
        name = f"patient{log.head.lines:05d}/study1"
        form = {"study": json.dumps({"study_id": name, "patient_id": name}), "frontal": (io.BytesIO(film(9)), "f.png")}
        client.post("/v1/studies", data=form)
        if number % 2:
            client.delete(f"/v1/studies/{name}")


def unexplained(folder: Path) -> set[str]:
    """Return the studies that are there, or are not, other than the audit log allows."""
    allowed: dict[str, set[bool]] = {}
    for line in map(json.loads, (folder / "audit.jsonl").read_text().splitlines()):
        if line["event"] == "start":
            continue
        done, (name,) = {line["method"] == "POST"}, line["studies"]
        certain = line["event"] == "call" and line["status"] < 300
        allowed[name] = done if certain else allowed.get(name, {False}) | done
    living = LivingCollection(folder / "index")
    there = set(ids_of(living)) - set(ANGLES)
    return {name for name in there | set(allowed) if (name in there) not in allowed.get(name, {False})}


def _every_change_is_told(folder: Path, kills: int) -> None:
    (folder / "films").mkdir()
    save_index(folder / "index")
    killer, left = Killer(5), 0
    killer.run_whole(change_and_tell, folder)
    for _ in range(kills):
        killer.run(change_and_tell, folder)
        assert unexplained(folder) == set()
        left = len(unfinished(folder / "audit.jsonl"))
    AuditLog(folder / "audit.jsonl").close()
    verify(folder / "audit.jsonl")
    print(f"\n{killer.sentence()}; {left} changes announced whose result nobody knows")


@pytest.mark.slow
def test_whenever_a_process_is_killed_the_log_tells_of_every_change(tmp_path: Path) -> None:
    _every_change_is_told(tmp_path, 2)


@pytest.mark.long
def test_however_often_a_process_is_killed_the_log_tells_of_every_change(tmp_path: Path) -> None:
    _every_change_is_told(tmp_path, 300)
