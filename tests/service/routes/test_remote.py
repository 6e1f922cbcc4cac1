"""What another hospital that searches here is told: no more than the policy says, counted and written down."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from service_world import ANGLES, FINGERPRINT, app_over, build_mounted, film, save_films, with_log, with_tokens

from index.importing.pseudonyms import make_key
from service.audit.log import AuditLog
from service.errors import MountError
from service.guard.policy import RemotePolicy, band, patient_hash
from service.guard.tokens import create_token
from service.limits import Limits

EAST = [1.0, 0.0]
"""The vector of the first of the four studies."""


class Asker:
    """Another hospital, with a token of its own."""

    def __init__(self, client: FlaskClient, secret: str) -> None:
        self._client, self._own = client, {"Authorization": f"Bearer {secret}"}

    def search(self, status: int = 200, **asked: Any) -> dict[str, Any]:
        """Return the answer to a search, by the vector of the first study unless another is given."""
        asked = asked if "frontal" in asked else {"embedding": EAST} | asked
        answer = self._client.post("/v1/remote/search", json=asked, headers=self._own | {"X-Asked-As": "ab" * 8})
        assert answer.status_code == status, answer.text
        return dict(answer.get_json())

    def get(self, path: str) -> Any:
        """Return the answer to a GET."""
        return self._client.get(path, headers=self._own)


def askers(folder: Path, images: Path | None = None, **words: Any) -> tuple[Asker, Asker]:
    """Return two hospitals that search the four studies under a policy of these words."""
    for name in ("own.key", "shared.key"):
        if not (folder / name).exists():
            make_key(folder / name)
    limits = Limits(queries_a_day=words.pop("queries_a_day", 200))
    policy = RemotePolicy.load(written(folder, **({"least_patients": 1, "decimals": 6} | words)))
    secrets = [create_token(folder / "tokens.json", name, ["remote"]) for name in ("north", "west")]
    app = with_tokens(app_over(build_mounted(image_root=images), limits=limits, remote=policy), folder / "tokens.json")
    client = with_log(app, AuditLog(folder / "audit.jsonl")).test_client()
    return Asker(client, secrets[0]), Asker(client, secrets[1])


def written(folder: Path, **words: Any) -> Path:
    path = folder / "policy.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in words.items()))
    return path


def test_without_a_word_of_the_policy_the_least_is_let_out(tmp_path: Path) -> None:
    save_films(tmp_path)
    [first, *_] = askers(tmp_path, images=tmp_path)[0].search()["hits"]

    assert first == {
        **{"rank": 1, "similarity": 1.0, "study": None, "patient": None, "ages": None},
        **{"findings": {}, "facts": {}, "pictures": {}},
    }
    assert RemotePolicy().model_dump(include={"decimals", "least_patients", "most_hits"}) == {
        **{"decimals": 2, "least_patients": 10, "most_hits": 20},
    }


def test_ids_are_hashed_for_each_asker_and_patients_for_all_who_share_a_key(tmp_path: Path) -> None:
    north, west = askers(tmp_path, ids="hashed", key="own.key")
    ours, theirs = north.search()["hits"], west.search()["hits"]
    assert ours == north.search()["hits"]
    assert {hit["study"] for hit in ours}.isdisjoint(hit["study"] for hit in theirs)
    assert {hit["patient"] for hit in ours}.isdisjoint(hit["patient"] for hit in theirs)
    assert [hit["patient"] == ours[0]["patient"] for hit in ours] == [True, True, False, False]
    assert not any(name.split("/")[0] in json.dumps([ours, theirs]) for name in ANGLES)


def test_the_patient_of_the_query_is_left_out_where_hospitals_share_a_key(tmp_path: Path) -> None:
    north, west = askers(tmp_path, ids="hashed", key="own.key", patients_key="shared.key")
    own = patient_hash((tmp_path / "shared.key").read_bytes(), "patient00001")

    assert [hit["patient"] == own for hit in west.search()["hits"]] == [True, True, False, False]
    without = north.search(patient=own)
    assert (len(without["hits"]), without["matched"]) == (2, 2)
    assert [hit["similarity"] for hit in without["hits"]] == [0.939693, 0.0]
    assert len(north.search(group_by="patient")["hits"]) == 3


def test_columns_ages_and_pictures_are_let_out_as_the_policy_says(tmp_path: Path) -> None:
    save_films(tmp_path)
    north, _ = askers(tmp_path, images=tmp_path, columns=["sex", "Edema", "Etiology"], ages=10, pictures=True)
    hits = north.search()["hits"]

    assert (hits[0]["ages"], hits[3]["ages"]) == ([60, 70], None)
    assert (hits[2]["facts"], hits[2]["findings"]) == ({"sex": "Male", "Etiology": "virus"}, {"Edema": -1})
    assert base64.b64decode(hits[0]["pictures"]["frontal"]).startswith(b"\xff\xd8")
    assert hits[3]["pictures"] == {}  # whose film is lost
    assert [band(age, 10) for age in (69.9, 70, 89, 90, 104)] == [(60, 70), (70, 80), (80, 90), (90, None), (90, None)]


@pytest.mark.parametrize(
    ("bounds", "found"),
    [
        ({"gte": 61}, 3),
        ({"gt": 69}, 3),
        ({"lte": 60}, 3),
        ({"lt": 61, "gte": 65}, 3),
        ({"lt": 60}, 0),
        ({"gte": 70}, 0),
    ],
)
def test_a_filter_on_ages_means_whole_bands(tmp_path: Path, bounds: dict[str, int], found: int) -> None:
    north, _ = askers(tmp_path, ages=10)
    assert len(north.search(filter={"must": {"key": "age", "range": bounds}})["hits"]) == found


def test_a_filter_names_what_is_let_out_and_nothing_else(tmp_path: Path) -> None:
    north, _ = askers(tmp_path, columns=["sex"], ages=10)
    for key in ("projection", "patient_id", "frontal_path", "Edema"):
        refused = north.search(400, filter={"must": [{"key": key, "match": {"value": None}}]})
        assert f"no column '{key}'; there are: sex, age" in refused["error"]["message"]
    assert (
        "in bands" in north.search(400, filter={"must": [{"key": "age", "match": {"value": 60}}]})["error"]["message"]
    )


def test_what_too_few_patients_pass_is_answered_by_nothing_and_counts_are_rounded_down(tmp_path: Path) -> None:
    north, _ = askers(tmp_path, columns=["sex"], least_patients=2, most_hits=1)
    men = {"must": [{"key": "sex", "match": {"value": "Male"}}]}

    assert (north.search(filter=men)["hits"], north.search(filter=men)["matched"]) == ([], None)
    women = north.search(filter={"must_not": [{"key": "sex", "match": {"value": "Male"}}]})
    assert (len(women["hits"]), women["matched"]) == (1, 2)
    assert north.get("/v1/remote").get_json()["studies"] == 4


def test_a_hospital_that_embeds_itself_takes_films_and_no_vectors(tmp_path: Path) -> None:
    north, _ = askers(tmp_path, queries="films")
    [nearest, *_] = north.search(frontal=base64.b64encode(film(0)).decode())["hits"]

    assert nearest["similarity"] == pytest.approx(0.9999, abs=1e-3)
    assert "expected films to search by, got vectors" in north.search(403)["error"]["message"]


def test_each_search_is_counted_and_written_down_and_the_scope_opens_nothing_else(tmp_path: Path) -> None:
    north, west = askers(tmp_path, queries_a_day=1)
    north.search()
    north.search(k=2)  # about the same vector
    north.search(429, embedding=[0.0, 1.0])
    west.search(embedding=[0.0, 1.0])
    asked = north.get("/v1/remote").get_json()

    assert (asked["queries_today"], asked["queries_a_day"], asked["fingerprint"]) == (1, 1, FINGERPRINT)
    assert [north.get(path).status_code for path in ("/", "/info", "/v1/studies/patient00001/study1")] == [403] * 3
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()][1:]
    assert [line["principal"] for line in lines[:4]] == ["north", "north", "north", "west"]
    assert [line.get("let_out") for line in lines[:4]] == [4, 2, None, 4]
    assert lines[0]["asked_as"] == "ab" * 8


def test_a_policy_that_cannot_be_meant_is_refused_with_a_sentence(tmp_path: Path) -> None:
    make_key(tmp_path / "shared.key")
    for words, sentence in (
        ({"ids": "hashed"}, "expected a key for hashed ids"),
        ({"patients_key": "shared.key"}, "a patients_key needs ids"),
        ({"idds": "absent"}, "idds: Extra inputs"),
        ({"ages": 7}, "ages: Input should be"),
        ({"key": "missing.key"}, "expected a key in the file"),
    ):
        with pytest.raises(MountError, match=sentence):
            RemotePolicy.load(written(tmp_path, **words))
    for column in ("patient_id", "age", "frontal_path", "Oedema"):
        with pytest.raises(MountError, match=f"got '{column}'"):
            app_over(build_mounted(), remote=RemotePolicy(columns=(column,)))
