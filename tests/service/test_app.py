"""What every answer has in common: the OpenAPI document, headers, state; and the rooms' independence."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from flask.testing import FlaskClient
from service_world import FINGERPRINT, build_client

PAGES = ["/", "/docs", "/docs/guide", "/?study=patient00001/study1"]


@pytest.fixture
def client() -> FlaskClient:
    return build_client()


def test_every_route_is_in_the_openapi_document(client: FlaskClient) -> None:
    described = client.get("/openapi.json").get_json()["paths"]

    for rule in client.application.url_map.iter_rules():
        if not rule.endpoint.endswith("static"):
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                assert method.lower() in described[path], f"{method} {path}"


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []


def test_every_reference_of_the_openapi_document_leads_somewhere(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()

    for reference in set(_references(document)):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_a_search_is_described_as_multipart_and_as_json(client: FlaskClient) -> None:
    operation = client.get("/openapi.json").get_json()["paths"]["/v1/search"]["post"]

    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {"200", "400", "404", "413", "415", "422", "503"} <= set(operation["responses"])


def test_info_names_the_encoder_and_no_path(client: FlaskClient) -> None:
    response = client.get("/info")

    info = response.get_json()
    assert (info["fingerprint"], info["embedding_dim"]) == (FINGERPRINT, 2)
    assert info["collections"][0]["studies"] == 4
    assert "Etiology" in info["collections"][0]["columns"]
    assert "secret" not in response.text


def test_readiness_embeds_and_searches_once_in_a_while(client: FlaskClient) -> None:
    first, second = (client.get("/readyz").get_json() for _ in range(2))

    assert first["status"] == "ready"
    assert second == first


@pytest.mark.parametrize("path", [*PAGES, "/nowhere", "/healthz"])
def test_every_answer_carries_the_security_headers(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers

    assert "'unsafe-inline'" not in headers["Content-Security-Policy"]
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_nothing_from_outside_and_nothing_inline(client: FlaskClient, path: str) -> None:
    html = client.get(path).text
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"', html)

    assert all(address.startswith(("/", "#")) and not address.startswith("//") for address in addresses)
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)
    for address in addresses:
        if "static" in address:
            assert client.get(address, buffered=True).status_code == 200


def test_the_service_needs_no_torch_until_it_loads_an_encoder() -> None:
    check = "import sys, service.loader; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_no_answer_holds_what_json_has_not(client: FlaskClient) -> None:
    with client.application.test_request_context():
        answer = client.application.json.response({"rows": [float("nan"), (float("inf"), 0.5)]})
    assert json.loads(answer.data, parse_constant=pytest.fail) == {"rows": [None, [None, 0.5]]}
