"""The service's log: a JSON object a line with the request at hand, and nothing of what a request carried."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service_world import FakeEmbedder, app_over, build_app, build_mounted, with_tokens

from index.errors import ArtefactError
from service.guard.tokens import create_token
from service.watch.logs import JsonLines, TextLines, _Lines

JSON = {"Content-Type": "application/json"}


class Log:
    """What was logged, line by line."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(JsonLines())

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The objects of all lines."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """Yield what is logged from INFO up."""
    kept, root = Log(), logging.getLogger()
    before = root.level
    root.addHandler(kept.handler)
    root.setLevel(logging.INFO)
    yield kept
    root.removeHandler(kept.handler)
    root.setLevel(before)


def test_a_request_is_one_line_with_its_id_its_rule_and_its_status(log: Log) -> None:
    client = build_app().test_client()
    answer = client.get("/v1/studies/patient00001/study1?collection=main")
    missing = client.get("/v1/studies/JANE-DOE")

    found, refused = (one for one in log.lines if one["logger"] == "precedent.requests")
    assert found["request_id"] == answer.headers["X-Request-Id"] != missing.headers["X-Request-Id"]
    assert (found["route"], found["method"], found["status"]) == ("/v1/studies/{study_id}", "GET", 200)
    assert (found["level"], found["message"], found["ms"] > 0) == ("info", "answered", True)
    assert found["time"].endswith("+00:00")
    assert refused["status"] == 404
    assert "patient00001" not in log.stream.getvalue()
    assert "JANE" not in log.stream.getvalue()


def test_a_request_s_line_names_whose_token_it_was_and_never_the_token(log: Log, tmp_path: Path) -> None:
    secret, app = create_token(tmp_path / "tokens.json", "alice", ["read"]), build_app()
    app = with_tokens(app, tmp_path / "tokens.json")
    for shown in (secret, f"{secret}x"):
        app.test_client().get("/info", headers={"Authorization": f"Bearer {shown}"})

    assert [(line["status"], line.get("principal")) for line in log.lines] == [(200, "alice"), (401, None)]
    assert secret not in log.stream.getvalue()


def test_machines_that_look_after_the_service_fill_no_log(log: Log) -> None:
    client = build_app().test_client()
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200

    assert log.lines == []


class Failing(FakeEmbedder):
    """Fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def embed_study(self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None) -> Any:
        """Raise, as if another library had said it."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (KeyError("DOE^JANE 19500101"), 500, "KeyError (left out"),
        (OSError(5, "Input/output error", "/films/DOE^JANE/1.dcm"), 503, "OSError: Input/output error"),
        (ArtefactError("'/films/DOE^JANE/index' has changed; restore it"), 503, "ArtefactError: [path] has changed"),
    ],
)
def test_a_traceback_is_one_field_of_calls_without_what_other_libraries_say(
    log: Log, error: Exception, status: int, told: str
) -> None:
    client = app_over(build_mounted(embedder=Failing(error))).test_client()
    answer = client.post("/v1/search", data={"frontal": (io.BytesIO(b"film"), "DOE^JANE.dcm")})

    (line,) = (one for one in log.lines if "traceback" in one)
    assert answer.status_code == status
    assert line["request_id"] == answer.get_json()["error"]["request_id"]
    assert line["traceback"].startswith(told)
    assert "  service.routes.search:" in line["traceback"]
    assert "DOE" not in log.stream.getvalue() + answer.text
    assert "/films" not in log.stream.getvalue()


def test_of_another_library_only_its_name_and_place_are_logged(log: Log) -> None:
    logging.getLogger("pydicom").warning("Invalid value for VR PN: '%s'", "DOE^JANE")

    (line,) = log.lines
    assert (line["logger"], line["level"]) == ("pydicom", "warning")
    assert "DOE" not in log.stream.getvalue()
    assert line["message"].startswith(f"(left out: words of another library) {Path(__file__).stem}:")


def test_a_person_reads_the_same_facts_on_one_line(log: Log) -> None:
    log.handler.setFormatter(TextLines())
    build_app().test_client().get("/info")

    line = log.stream.getvalue()
    assert line.count("\n") == 1
    assert " info precedent.requests: answered [request_id=" in line
    assert "route=/info method=GET status=200 ms=" in line


def test_a_log_that_nobody_can_write_to_fails_nobody_who_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    said, full = io.StringIO(), _Lines(Full())
    full.setFormatter(JsonLines())
    monkeypatch.setattr(sys, "stderr", said)
    record = logging.LogRecord("precedent.service", logging.ERROR, "", 0, "%d studies", ("no number",), None)
    full.handle(record)

    assert said.getvalue() == ""
    assert json.loads(JsonLines().format(record))["message"].startswith("(its words cannot be read)")
