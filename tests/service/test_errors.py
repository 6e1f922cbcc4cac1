"""Every refusal is the one body, with a sentence that helps and nothing of the server in it."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from failing_server import FAILURES, THREADS
from flask.testing import FlaskClient
from folders import WORLDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_world import FakeEmbedder, app_over, build_client, build_mounted, film

from index.errors import ArtefactError
from service.errors import Busy, NotReady

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}
"""Of Chromium and Firefox, for an address that a person has typed or followed."""


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return build_client(body_bytes=100_000, form_bytes=2_000)


def refused(response: Any, status: int, code: str) -> str:
    assert (response.status_code, response.mimetype) == (status, "application/json"), response.data
    body = response.get_json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"code", "message", "request_id"}
    assert body["error"]["code"] == code
    assert body["error"]["request_id"] == response.headers["X-Request-Id"] != ""
    return str(body["error"]["message"])


BODIES = {
    "no json": ("{", 400, "bad_request", "expected a JSON object"),
    "a list": ("[]", 400, "bad_request", "expected a JSON object, got list of length 0"),
    "nothing asked": ("{}", 400, "bad_request", "exactly one query"),
    "two queries": ('{"study_id": "a", "embedding": [1, 0]}', 400, "bad_request", "got 2"),
    "vector of truths": ('{"embedding": [true, false]}', 400, "bad_request", "valid number"),
    "vector of texts": ('{"embedding": ["1", "0"]}', 400, "bad_request", "valid number"),
    "k too large": (
        '{"study_id": "a", "k": 5000}',
        400,
        "bad_request",
        "k: expected less than or equal to 1000",
    ),
    "k a word": ('{"study_id": "a", "k": "ten"}', 400, "bad_request", "got 'ten'"),
    "unknown field": ('{"study_id": "a", "url": "http://x"}', 400, "bad_request", "url: expected a field"),
    "not a number": ('{"embedding": [NaN, 1]}', 400, "bad_request", "NaN is not JSON"),
    "half a surrogate": ('{"study_id": "\\ud800"}', 400, "bad_request", "study_id"),
    "deep nesting": ("[" * 30_000, 400, "bad_request", "deeply"),
    "long body": ("[" * 200_000, 413, "request_entity_too_large", ""),
    "nested filter": (
        '{"study_id": "a", "filter": ' + "[" * 9000 + "]" * 9000 + "}",
        400,
        "bad_request",
        "deeply",
    ),
    "values without end": ('{"embedding": [' + '"",' * 32_000 + "1]}", 400, "bad_request", "more than 32,000 values"),
    "a filter in text without end": (
        json.dumps({"study_id": "a", "filter": '{"must": [' + "{}," * 16_001 + "{}]}"}),
        400,
        "bad_request",
        "more than 32,000 values",
    ),
    "conditions without end": (
        json.dumps({"embedding": [1, 0], "filter": {"must": [{}] * 65}}),
        400,
        "bad_filter",
        "at most 64 conditions",
    ),
    "wrong dim": ('{"embedding": [1, 0, 0]}', 422, "embedding_not_usable", "another encoder"),
    "wrong norm": ('{"embedding": [3, 4]}', 422, "embedding_not_usable", "unit norm"),
    "unknown column": (
        '{"embedding": [1, 0], "filter": {"must": [{"key": "wealth", "match": {"value": 1}}]}}',
        400,
        "bad_filter",
        "patient_id",
    ),
    "bad grammar": ('{"embedding": [1, 0], "filter": {"nor": []}}', 400, "bad_filter", "must_not"),
    "unknown study": ('{"study_id": "patient9/study9"}', 404, "study_not_found", "patient9/study9"),
    "bad base64": ('{"frontal": "abc"}', 400, "bad_request", "frontal"),
    "text as film": ('{"lateral": "aGVsbG8="}', 415, "not_an_image", "'lateral'"),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_bad_body_is_refused_in_one_sentence(client: FlaskClient, case: str) -> None:
    text, status, code, words = BODIES[case]
    response = client.post("/v1/search", data=text, content_type="application/json")

    assert words in refused(response, status, code)


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("search", {"TEXT": 1}),
        ("search", {"study_id": "TEXT"}),
        ("search", {"study_id": "a", "collection": "TEXT"}),
        ("search", {"study_id": "a", "filter": {"TEXT": []}}),
        ("search", {"study_id": "patient00001/study1", "filter": {"must": [{"key": "TEXT", "match": {"value": 1}}]}}),
        (
            "search",
            {"study_id": "patient00001/study1", "filter": {"must": [{"key": "age", "match": {"value": "TEXT"}}]}},
        ),
        ("search", {"study_id": "patient00001/study1", "filter": {"must": [{"key": "age", "range": {"TEXT": 1}}]}}),
        ("predict", {"study_id": "patient00001/study1", "finding": "TEXT"}),
        ("explain", {"study_id": "patient00001/study1", "finding": "TEXT"}),
        ("explain", {"study_id": "patient00001/study1", "hit": "a", "method": "TEXT"}),
        ("map", {"patient_id": "TEXT"}),
    ],
)
def test_no_refusal_quotes_all_that_was_sent(client: FlaskClient, route: str, fields: dict[str, Any]) -> None:
    body = json.dumps(fields).replace("TEXT", "'/x; " * 18_000)
    response = client.post(f"/v1/{route}", data=body, content_type="application/json")

    assert response.status_code == 400
    assert len(response.get_json()["error"]["message"]) <= 4096


FORMS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no film": ({"k": "3"}, 400, "bad_request", "got neither"),
    "text for a film": ({"frontal": "abc"}, 400, "bad_request", "expected a file part"),
    "unknown part": ({"front": (io.BytesIO(b"x"), "a.png")}, 400, "bad_request", "'front'"),
    "filter not json": ({"filter": "sex=Male"}, 400, "bad_request", "expected a filter in JSON"),
    "tiny film": ({"frontal": (io.BytesIO(film(0, 8)), "a.png")}, 422, "image_not_usable", "32 pixels"),
    "empty file": ({"frontal": (io.BytesIO(b""), "a.png")}, 415, "not_an_image", "0 bytes"),
    "long field": ({"filter": "x" * 3000}, 413, "request_entity_too_large", ""),
    "long body": ({"frontal": (io.BytesIO(b"x" * 200_000), "a.png")}, 413, "request_entity_too_large", ""),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_bad_form_is_refused_in_one_sentence(client: FlaskClient, case: str) -> None:
    form, status, code, words = FORMS[case]
    response = client.post("/v1/search", data=form, content_type="multipart/form-data")

    assert words in refused(response, status, code)


def test_two_films_of_one_view_are_refused(client: FlaskClient) -> None:
    twice = [(io.BytesIO(film(0)), "a.png"), (io.BytesIO(film(9)), "b.png")]

    assert "one file" in refused(client.post("/v1/search", data={"frontal": twice}), 400, "bad_request")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1//studies", 404, "not_found"),
        ("DELETE", "/v1/search", 405, "method_not_allowed"),
        ("POST", "/v1/search", 415, "unsupported_media_type"),
        ("GET", "/v1/studies/none", 404, "study_not_found"),
        ("GET", "/v1/studies/none/similar?k=0", 400, "bad_request"),
        ("GET", "/v1/studies/none/similar?q=1", 400, "bad_request"),
        ("GET", "/v1/studies/none/image?view=top", 400, "bad_request"),
    ],
)
def test_a_wrong_address_is_refused(client: FlaskClient, method: str, path: str, status: int, code: str) -> None:
    refused(client.open(path, method=method), status, code)


def test_a_wrong_method_is_told_the_right_one(client: FlaskClient) -> None:
    assert "POST" in client.get("/v1/search").headers["Allow"]


@pytest.mark.parametrize("path", ["/info", "/", "/login", "/static/css/page.css", "/metrics", "/nothing"])
@pytest.mark.parametrize("host", ["evil.example", "10.89.0.2:8080", "localhost.evil.example", "a b", ""])
def test_a_foreign_host_name_is_refused(client: FlaskClient, path: str, host: str) -> None:
    assert "--public-name" in refused(client.get(path, headers={"Host": host}), 400, "bad_request")
    page = client.get(path, headers={"Host": host, "Accept": "text/html"})
    assert (page.status_code, page.mimetype) == (400, "text/html")
    assert "--public-name" in page.text


@pytest.mark.parametrize("host", ["10.89.0.2:8080", "precedent.internal"])
def test_whether_the_process_lives_is_told_by_any_name(client: FlaskClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


class _Broken(FakeEmbedder):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def embed_study(self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None) -> Any:
        if frontal or lateral:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ZeroDivisionError("in /srv/secret/weights"), 500, "internal_error"),
        (OSError(28, "No space left on device", "/srv/secret/films"), 503, "not_ready"),
        (ArtefactError("/srv/secret/index has changed"), 503, "not_ready"),
    ],
)
def test_a_fault_is_logged_and_its_words_do_not_leave(
    error: Exception, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = app_over(build_mounted(embedder=_Broken(error))).test_client()
    response = broken.post("/v1/embeddings", data={"frontal": (io.BytesIO(film(0)), "a.png")})

    assert "secret" not in refused(response, status, code)
    assert "secret" in caplog.text
    assert response.headers["X-Request-Id"] in caplog.text


def test_readiness_says_when_the_work_cannot_be_done(caplog: pytest.LogCaptureFixture) -> None:
    embedder = _Broken(RuntimeError("/srv/secret out of memory"))
    broken = app_over(build_mounted(embedder=embedder)).test_client()

    assert "secret" not in refused(broken.get("/readyz"), 503, "not_ready")
    assert broken.get("/healthz").status_code == 200
    assert "out of memory" in caplog.text


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["k", "filter", "study_id", "embedding", "frontal", "group_by", "exact", "patient_id", "x"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(names, values, max_size=4))
def test_any_json_is_answered_or_refused_in_the_one_shape(client: FlaskClient, body: dict[str, Any]) -> None:
    response = client.post("/v1/search", data=json.dumps(body), content_type="application/json")

    assert response.status_code < 500
    if response.status_code != 200:
        assert refused(response, response.status_code, response.get_json()["error"]["code"])


def test_no_refusal_names_a_path_of_the_server(tmp_path: Path) -> None:
    client = build_client(tmp_path)
    asked = [f"/v1/studies/{name}/image" for name in ("patient00003/study1", "../../etc/passwd", "%2e%2e%2fetc")]

    for response in map(client.get, asked):
        assert str(tmp_path) not in refused(response, 404, response.get_json()["error"]["code"])


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Yield address and log of a real server of two threads that fails as its path says."""
    folder = tmp_path_factory.mktemp("failing")
    command = [sys.executable, "-u", str(WORLDS / "failing_server.py"), str(folder / "audit.jsonl")]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1], folder / "log"
        finally:
            process.kill()


@pytest.mark.parametrize("kind", [kind for kind in FAILURES if not kind.startswith("stream")])
def test_no_error_however_formed_takes_a_thread_down_or_leaves_its_client_waiting(
    failing: tuple[str, Path], kind: str
) -> None:
    url, log = failing
    before = len(log.read_text().splitlines())
    for _ in range(THREADS + 1):
        with pytest.raises(HTTPError) as refusal:
            urlopen(f"{url}/fail/{kind}", timeout=20)
        answer, head = json.load(refusal.value), refusal.value.headers
        refusal.value.close()
        assert refusal.value.code == (503 if answer["error"]["code"] in ("not_ready", "backend_unavailable") else 500)
        assert answer["error"]["request_id"] == head["X-Request-Id"] != ""
        assert (head["X-Content-Type-Options"], head["Content-Type"]) == ("nosniff", "application/json")

    with pytest.raises(HTTPError) as page:
        urlopen(Request(f"{url}/fail/{kind}", headers=BROWSER), timeout=20)
    assert page.value.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b'<a href="/">' in page.value.read()
    page.value.close()

    with urlopen(f"{url}/healthz", timeout=20) as alive:
        assert alive.status == 200
    told = [json.loads(line) for line in log.read_text().splitlines()[before:]]
    faults = [line for line in told if "traceback" in line]
    assert len(faults) == THREADS + 2
    assert all("__main__:" in line["traceback"] for line in faults)
    assert all(len(line["traceback"]) < 100_000 and line["logger"] == "precedent.service" for line in faults)


@pytest.mark.parametrize("kind", ["stream", "stream-exit"])
def test_an_answer_that_fails_midway_ends_its_connection_and_nothing_else(failing: tuple[str, Path], kind: str) -> None:
    for _ in range(THREADS + 1):
        with urlopen(f"{failing[0]}/fail/{kind}", timeout=20) as answer, pytest.raises(IncompleteRead):
            answer.read()
    with urlopen(f"{failing[0]}/healthz", timeout=20) as alive:
        assert alive.status == 200


MISTYPED: list[tuple[str, str, dict[str, str], int]] = [
    ("GET", "/stduy", {}, 404),
    ("GET", "/docs/", {}, 404),
    ("GET", "/v1/search", {}, 405),
    ("GET", "/v1/studies/<b>nobody/nothing", {}, 404),
    ("GET", "/film/nobody/nothing", {}, 404),
    ("GET", "/?k=many", {}, 400),
    ("GET", "/openapi.json?a=1", {"Host": "evil.example"}, 400),
    ("GET", "/readyz", {"X-Forwarded-For": "192.0.2.1"}, 403),
    ("POST", "/v1/search", {"Content-Type": "text/plain"}, 415),
]


@pytest.mark.parametrize(("method", "path", "headers", "status"), MISTYPED)
def test_a_person_is_told_a_refusal_as_a_page_and_a_program_as_json(
    client: FlaskClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    page = client.open(path, method=method, headers=headers | BROWSER)
    told = client.open(path, method=method, headers=headers)

    assert (page.status_code, page.mimetype) == (status, "text/html"), page.data
    assert 'href="/"' in page.text
    assert "<script" not in page.text
    assert "<b>" not in page.text
    assert page.headers["X-Request-Id"] in page.text
    assert page.headers.get("Allow") == told.headers.get("Allow")
    refused(told, status, told.get_json()["error"]["code"])
    assert told.headers["Vary"] == page.headers["Vary"] == "Accept"
    for accept in ("*/*", "application/json", "image/avif,image/webp,*/*;q=0.8", "application/json, text/html"):
        assert client.open(path, method=method, headers=headers | {"Accept": accept}).mimetype == "application/json"


def test_a_person_is_told_a_fault_as_a_page_too_and_offered_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client = build_client()
    for error, status in ((NotReady("no encoder"), 503), (KeyError("/srv/secret"), 500), (Busy("full"), 429)):
        monkeypatch.setattr("service.routes.page.current", lambda *_, error=error: (_ for _ in ()).throw(error))
        page = client.get("/", headers=BROWSER)

        assert (page.status_code, page.mimetype) == (status, "text/html")
        assert ("Try again" in page.text) == (status in (429, 503))
        assert "secret" not in page.text
    assert page.headers["Retry-After"] == "1"
