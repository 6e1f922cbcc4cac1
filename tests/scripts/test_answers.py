"""One question, asked by the command line, over HTTP and in Python, alone and among others, is answered alike."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import json_of, refusal
from flask.testing import FlaskClient
from served_world import save_world

from encoder.embedder import Embedder
from index.opening import open_collection
from index.search.answer import Query, Subject
from scripts.cli import precedent
from service.api.answers import PredictAnswer, SearchAnswer
from service.loader import load
from service.served.mounts import parse_mounts

STUDY = "patient00003/study1"
FILES = {"frontal_path", "lateral_path", "other_paths"}
"""What the command line tells beside, and HTTP never does."""
FEMALE = {"must": [{"key": "sex", "match": {"value": "Female"}}]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_embedder: Embedder) -> Path:
    return save_world(tmp_path_factory.mktemp("answers"), tiny_embedder)


@pytest.fixture(scope="module")
def client(world: Path) -> FlaskClient:
    mounts = parse_mounts([str(world / "index")], [str(world)])
    return load(mounts, world / "encoder.safetensors", probe_dir=world / "probe").test_client()


def printed(*words: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(precedent, [*map(str, words), "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def posted(client: FlaskClient, path: str, world: Path, **fields: Any) -> Any:
    """Return the answer about a stored study, or else about a film."""
    if "study_id" in fields:
        return client.post(path, json=fields).get_json()
    with (world / "3.png").open("rb") as film:
        return client.post(path, data={**fields, "frontal": (film, "3.png")}).get_json()


def compared(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without the time it took, the files of hits, and what only who knows the encoder warns of."""
    hits = [{name: value for name, value in hit.items() if name not in FILES} for hit in answer["hits"]]
    kept = {name: value for name, value in answer.items() if name not in ("took_ms", "warning", "familiarity")}
    return kept | {"hits": hits}


def test_a_stored_study_has_one_answer(world: Path, client: FlaskClient) -> None:
    told = printed("search", world / "index", "--study", STUDY, "-k", "4", "--where", "sex=Female")
    answered = posted(client, "/v1/search", world, study_id=STUDY, k=4, filter=FEMALE)
    query = Query(subject=Subject(study_id=STUDY), k=4, where=FEMALE)
    asked = SearchAnswer.of(open_collection(world / "index").answer(query))

    assert set(told) == set(answered) == set(asked) == set(SearchAnswer.model_fields)
    assert compared(told) == compared(answered) == compared(asked) | {"summary": told["summary"]}
    assert "of other patients" in told["summary"]
    assert set(told["hits"][0]) >= FILES
    assert len(told["hits"]) == 4


def test_a_film_has_one_answer(world: Path, client: FlaskClient) -> None:
    words = ["--frontal", world / "3.png", "--encoder", world / "encoder.safetensors", "--patient", "patient00001"]
    told = printed("search", world / "index", *words)
    answered = posted(client, "/v1/search", world, patient_id="patient00001")

    assert set(told) == set(answered)
    assert [hit["study_id"] for hit in told["hits"]] == [hit["study_id"] for hit in answered["hits"]]
    assert set(told["hits"][0]) - FILES == set(answered["hits"][0])
    assert told["familiarity"] == pytest.approx(answered["familiarity"], abs=1e-4)
    assert (told["warning"], told["fingerprint"]) == (answered["warning"], answered["fingerprint"])


def test_a_film_has_one_reading(world: Path, client: FlaskClient) -> None:
    words = ["--encoder", world / "encoder.safetensors", "--probe", world / "probe", "--frontal", world / "3.png"]
    told = printed("predict", world / "index", *words, "--contrast", "Edema", "-k", "9")
    answered = posted(client, "/v1/predict", world, finding="Edema", k="9")

    assert set(told) == set(answered) == set(PredictAnswer.model_fields)
    assert keys_of(told) == keys_of(answered)
    assert told["labels"] == answered["labels"]
    pairs = zip(told["predictions"], answered["predictions"], strict=True)
    for one, other in pairs:
        assert (one["finding"], one["call"], one["no_call"]) == (other["finding"], other["call"], other["no_call"])
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
        assert one["vote"] == pytest.approx(other["vote"], abs=1e-4)
    assert told["contrast"]["present"]["study"] == answered["contrast"]["present"]["study"]


def keys_of(value: Any) -> Any:
    """Return the keys of an answer, nested as they are in it."""
    if isinstance(value, dict):
        return {name: keys_of(inner) for name, inner in value.items()}
    return [keys_of(inner) for inner in value] if isinstance(value, list) else None


def test_what_a_film_is_read_as_without_a_collection_has_the_same_keys(world: Path) -> None:
    words = ["--encoder", world / "encoder.safetensors", "--probe", world / "probe", "--frontal", world / "3.png"]
    told = printed("predict", *words)

    assert set(told) == set(PredictAnswer.model_fields)
    assert (told["labels"], told["familiarity"], told["contrast"]) == (None, None, None)
    assert {one["vote"] for one in told["predictions"]} == {None}


def lines_of(world: Path, lines: list[Any], *words: str | Path, code: int = 0) -> list[dict[str, Any]]:
    """Return what the command line prints for queries that are given on stdin."""
    given = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    command = ["search", str(world / "index"), "--queries", "-", *map(str, words)]
    result = CliRunner().invoke(precedent, command, input=given)
    assert result.exit_code == code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ("took_ms", "query")}


def test_several_queries_are_answered_as_each_alone(world: Path) -> None:
    options = ("-k", "3", "--where", "sex=Female")
    encoder = ("--encoder", world / "encoder.safetensors")
    film = ("--frontal", world / "3.png", "--patient", "patient00001", *encoder)
    asked = [STUDY, "", {"study": "patient00001/study1"}, {"frontal": "3.png", "patient": "patient00001"}]
    words = [("--study", STUDY), ("--study", "patient00001/study1"), film]
    alone = [json_of("search", world / "index", *one, *options) for one in words]
    found = lines_of(world, asked, *options, *encoder, "--images", world)

    assert [one["query"] for one in found] == [one for one in asked if one]
    assert list(map(without_time, found)) == list(map(without_time, alone))


def test_a_query_without_an_answer_keeps_no_other_from_its(world: Path, tmp_path: Path) -> None:
    shutil.copy(world / "index" / "manifest.json", tmp_path / "no-film.png")
    shutil.copy(world / "3.png", tmp_path / "film.png")
    refused = {
        "nobody/study1": "no study",
        '{"frontal": "../film.png"}': "below the image root",
        '{"frontal": "no-film.png"}': "no-film.png",
        '{"study": 3}': "expected texts",
        '{"study": "a", "patient": "b"}': "either a study",
        '{"patient": "b"}': "either a study",
        "{": "JSON",
    }
    words = ("--encoder", world / "encoder.safetensors", "--images", tmp_path)
    *said, last = lines_of(world, [*refused, {"frontal": "film.png"}], *words, code=3)

    assert [one["query"] for one in said] == list(refused)
    for one, word in zip(said, refused.values(), strict=True):
        assert word in one["error"]["message"]
    assert last["hits"]


def test_queries_that_mean_nothing_are_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text(70_000 * "x")
    words = ("search", world / "index", "--queries", tmp_path / "queries.txt")

    assert "a line each" in refusal(*words)
    for more in (["--study", STUDY], ["--patient", "p"]):
        assert CliRunner().invoke(precedent, [*map(str, words), *more]).exit_code == 2
