"""A study added to the real server with the demo encoder, found by the next search, and found no more once deleted."""

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from command_line import done
from folders import ROOT

from scripts.benches.clients import running

pytestmark = pytest.mark.slow
ENCODER = ROOT / "scripts" / "demo_encoder.safetensors"
NEW = {"study_id": "patient90001/study1", "patient_id": "patient90001", "sex": "Male", "findings": {"Edema": 1}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an index of three simulated patients and their films, and the film of another."""
    root = tmp_path_factory.mktemp("demo")
    for name, patients, seed in (("known", 3, 5), ("other", 1, 6)):
        done("phantom", "--patients", patients, "--seed", seed, "--jobs", 1, "--out", root / name)
    known = root / "known"
    done("import", "chexpert", known / "train.csv", "--images", known, "--out", root / "studies.parquet")
    done("export", root / "studies.parquet", "--images", known, "--encoder", ENCODER, "--out", root / "embeddings")
    done("index", root / "embeddings", "--out", root / "index")
    return root


def ask(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """Return the status and the answer of a request."""
    content = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method=method)
    try:
        answer = urllib.request.urlopen(asked, timeout=60)
    except urllib.error.HTTPError as refusal:
        answer = refusal
    with answer:
        return answer.status, json.loads(answer.read() or b"null")


def test_an_added_study_is_found_by_the_next_search_and_a_deleted_one_by_none(world: Path) -> None:
    film = next((world / "other").rglob("view1_frontal.jpg")).read_bytes()
    frontal = {"frontal": base64.b64encode(film).decode()}
    with running(
        [str(world / "index"), "--encoder", str(ENCODER), "--images", str(world / "known"), "--port", "0"]
    ) as server:
        studies, search = f"{server.url}/v1/studies", f"{server.url}/v1/search"
        before = ask("POST", search, frontal)[1]["hits"][0]
        added = ask("POST", studies, {"study": NEW, **frontal})
        found = ask("POST", search, frontal)[1]["hits"][0]
        deleted = ask("DELETE", f"{studies}/{NEW['study_id']}")
        after = ask("POST", search, frontal)[1]["hits"][0]
        gone = ask("GET", f"{studies}/{NEW['study_id']}")

    assert (added[0], added[1]["sex"], added[1]["findings"]["Edema"]) == (201, "Male", 1)
    assert found["study_id"] == NEW["study_id"]
    assert found["similarity"] == pytest.approx(1, abs=1e-3)
    assert (deleted[0], gone[0], gone[1]["error"]["code"]) == (204, 404, "study_not_found")
    assert before["study_id"] == after["study_id"] != NEW["study_id"]
    assert before["similarity"] < found["similarity"]
