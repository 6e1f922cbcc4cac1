"""Requests made from the API's own description, sent to a real server: each answer is one that the document tells."""

import base64
import json
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served_world import save_world, serving
from service_world import build_client

from encoder.embedder import Embedder
from scripts.benches.clients import Server

KEPT = [
    (f"/v1/queries/{{query_id}}{rest}", method)
    for rest, method in (("", "get"), ("", "delete"), ("/image", "get"), ("/mend", "post"))
]
"""The operations of a query that is kept."""
LET_OUT = {"GET /v1/remote", "POST /v1/remote/search"}
"""What is refused where nothing is let out to other hospitals."""
SHORT, LONG = 2, 200
"""Examples an operation, beside those that cover the bounds of every parameter."""
CONFIG = """
[checks.positive_data_acceptance]
# No schema says what a film is, nor what holds between two fields: those refusals are told by 400, 415 and 422.
expected-statuses = ["2xx", "3xx", 400, 401, 403, 404, 409, 413, 415, 422, 429, 431, 503]
"""


def described(server: Server, root: Path) -> dict[str, Any]:
    """Return the API's own description, with films of the collection in the examples of what takes nothing else."""
    document: dict[str, Any] = json.loads(asked(f"{server.url}/openapi.json"))
    film = base64.b64encode((root / "1.png").read_bytes()).decode()
    study = {"study_id": "patient00099/study1", "patient_id": "patient00099"}
    for path, example in (("/v1/embeddings", {"frontal": film}), ("/v1/studies", {"frontal": film, "study": study})):
        [schema] = [form["schema"] for kind, form in body_of(document, path).items() if kind == "application/json"]
        schema["example"] = example
    for path, method in KEPT:
        [named] = [one for one in document["paths"][path][method]["parameters"] if one["in"] == "path"]
        named["example"] = kept(server, film)  # one for each, for one of them is deleted
    [study] = [one for one in document["paths"]["/hits"]["get"]["parameters"] if one["name"] == "study"]
    study["example"] = "patient00001/study1"
    return document


def kept(server: Server, film: str) -> str:
    """Return the id of a film that is kept."""
    body, headers = json.dumps({"frontal": film}).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/queries", body, headers)) as answer:
        return str(json.load(answer)["query"])


def body_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    content: dict[str, Any] = document["paths"][path]["post"]["requestBody"]["content"]
    return content


def asked(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        text: str = answer.read().decode()
    return text


def answered(server: Server) -> set[str]:
    """Return the operations that have done what was asked of them, by the service's own count."""
    families = text_string_to_metric_families(asked(f"{server.url}/metrics"))
    samples = [one.labels for family in families for one in family.samples if one.name == "precedent_requests_total"]
    return {f"{one['method']} {one['route']}" for one in samples if one["status"] < "400"}


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed")
@pytest.mark.parametrize(
    "examples", [pytest.param(SHORT, marks=pytest.mark.slow), pytest.param(LONG, marks=pytest.mark.long)]
)
def test_every_answer_is_as_the_api_describes_it(examples: int, tmp_path: Path, tiny_embedder: Embedder) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    root = save_world(tmp_path, tiny_embedder)
    with serving(root) as server:
        (tmp_path / "openapi.json").write_text(json.dumps(document := described(server, root)))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"]
        command += ["openapi.json", "--url", server.url, "--checks", "all", "--seed", "1"]
        command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)]
        command += ["--continue-on-failure", "--no-color"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        reached = answered(server)

    print(done.stdout)
    assert done.returncode == 0
    assert " passed" in done.stdout
    every = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert every - reached == {"POST /", *LET_OUT}  # a form: no example in JSON holds a film as it takes one


def test_a_path_that_two_rooms_serve_is_described_with_the_methods_of_both() -> None:
    document = build_client().get("/openapi.json").get_json()

    assert set(document["paths"]["/v1/studies/{study_id}"]) == {"get", "delete"}
    assert "securitySchemes" not in document["components"]


def test_a_study_is_not_deleted_by_the_address_of_its_film() -> None:
    refused = build_client().delete("/v1/studies/patient00001/study1/image")

    assert refused.status_code == 405
    assert "DELETE" not in refused.headers["Allow"]
