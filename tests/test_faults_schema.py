"""Requests made from the API's own description, sent to a real server: each answer is one that the document tells."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from served_world import save_world, serving
from service_world import build_client

from encoder.embedder import Embedder

SHORT, LONG = 5, 200
"""Examples an operation, beside those that cover the bounds of every parameter."""
CONFIG = """
[checks.positive_data_acceptance]
# No schema says what a film is, nor what holds between two fields: those refusals are told by 400, 415 and 422.
expected-statuses = ["2xx", "3xx", 400, 401, 403, 404, 409, 413, 415, 422, 429, 431, 503]
"""


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed")
@pytest.mark.parametrize(
    "examples", [pytest.param(SHORT, marks=pytest.mark.slow), pytest.param(LONG, marks=pytest.mark.long)]
)
def test_every_answer_is_as_the_api_describes_it(examples: int, tmp_path: Path, tiny_embedder: Embedder) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    root = save_world(tmp_path, tiny_embedder)
    with serving(root) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"]
        command += [f"{server.url}/openapi.json", "--checks", "all", "--seed", "1", "--max-examples", str(examples)]
        command += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    print(done.stdout)
    assert done.returncode == 0
    assert " passed" in done.stdout


def test_a_path_that_two_rooms_serve_is_described_with_the_methods_of_both() -> None:
    document = build_client().get("/openapi.json").get_json()

    assert set(document["paths"]["/v1/studies/{study_id}"]) == {"get", "delete"}
    assert "securitySchemes" not in document["components"]


def test_a_study_is_not_deleted_by_the_address_of_its_film() -> None:
    refused = build_client().delete("/v1/studies/patient00001/study1/image")

    assert refused.status_code == 405
    assert "DELETE" not in refused.headers["Allow"]
