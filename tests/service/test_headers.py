"""What every answer carries whoever asks, what no answer carries, and that the service itself asks nobody."""

import os
import re
import subprocess
import sys

import pytest
from flask.testing import FlaskClient
from folders import ROOT, WORLDS
from service_world import build_app, build_client

from service.app import HEADERS
from service.limits import Limits

ORIGIN = {"Origin": "https://elsewhere.example"}
ASKS_NOBODY = """
import re, sys
asked = []
def hear(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen", "os.system"):
        asked.append((event, arguments))
sys.addaudithook(hear)
import io
from service_world import build_client, film
client = build_client()
for rule in client.application.url_map.iter_rules():
    path = re.sub("<[^>]+>", "patient00001/study1", rule.rule)
    for method in rule.methods - {"OPTIONS"}:
        films = {"frontal": (io.BytesIO(film(9)), "http://127.0.0.1:9/x.png")} if method == "POST" else None
        client.open(path, method=method, data=films, buffered=True)
        client.open(path, method=method, json={"study_id": "http://127.0.0.1:9/", "url": "http://127.0.0.1:9/"}, buffered=True)
sys.exit(repr(asked) if asked else 0)
"""


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return build_client()


def test_every_route_answers_with_every_security_header_and_none_for_other_origins(client: FlaskClient) -> None:
    for rule in client.application.url_map.iter_rules():
        for method in rule.methods or set():
            path = re.sub("<[^>]+>", "none", rule.rule)
            asked = ORIGIN | {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization",
            }
            headers = client.open(path, method=method, headers=asked, buffered=True).headers

            assert HEADERS.items() <= dict(headers).items(), (method, path)
            assert headers["X-Request-Id"]
            assert not [name for name, _ in headers.items() if name.startswith("Access-Control")], (method, path)


def test_no_policy_lets_a_script_or_style_stand_in_a_page_or_come_from_elsewhere() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))

    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert {policy[kind] for kind in ("script-src", "style-src", "connect-src", "form-action")} == {"'self'"}
    assert policy["img-src"] == "'self' data: blob:"


def test_the_service_asks_nobody_anything_whatever_it_is_asked() -> None:
    environment = {**os.environ, "PYTHONPATH": f"{WORLDS}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", ASKS_NOBODY], env=environment, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr[-500:] if done.returncode else "") == (0, "")


def test_limits_are_told_and_hold(client: FlaskClient) -> None:
    told = client.get("/info").get_json()["limits"]

    assert told["body_bytes"] == Limits().body_bytes == client.application.config["MAX_CONTENT_LENGTH"]
    assert told["k"] == 1000
    assert told["film_pixels"] <= 64_000_000
    small = build_app(body_bytes=1000, form_bytes=100, parts=3).test_client()
    assert small.post("/v1/search", data=b"x" * 1001, content_type="application/json").status_code == 413
    assert small.post("/v1/search", data={"k": "1" * 101}, content_type="multipart/form-data").status_code == 413
    parts = {name: "1" for name in "abcd"}
    assert small.post("/v1/search", data=parts, content_type="multipart/form-data").status_code == 413
