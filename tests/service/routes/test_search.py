"""Searches and embeddings over HTTP, on four studies whose similarities are known by hand."""

import base64
import io
import json
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from service_world import FINGERPRINT, build_app, build_client, film, with_tokens

from service.guard.tokens import create_token
from service.limits import MAX_HITS, MAX_SEARCHES

FIRST = "patient00001/study1"


@pytest.fixture
def client() -> FlaskClient:
    return build_client()


def ids(answer: dict) -> list[str]:
    return [hit["study_id"] for hit in answer["hits"]]


def upload(**parts: object) -> dict:
    films = {name: (io.BytesIO(part), f"{name}.png") for name, part in parts.items() if isinstance(part, bytes)}
    return {"data": {**parts, **films}, "content_type": "multipart/form-data"}


def test_an_uploaded_film_finds_the_nearest_studies_first(client: FlaskClient) -> None:
    answer = client.post("/v1/search", **upload(frontal=film(0), k=2)).get_json()

    assert ids(answer) == [FIRST, "patient00001/study2"]
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2]
    assert answer["matched_total"] == 4
    assert answer["fingerprint"] == FINGERPRINT
    assert answer["exact"] is True


def test_a_hit_tells_all_that_is_known_of_its_study_but_its_paths(client: FlaskClient) -> None:
    answer = client.post("/v1/search", json={"embedding": [0.0, 1.0], "filter": {"must": []}, "k": 3}).get_json()

    last, second = answer["hits"][0], answer["hits"][1]
    assert last["similarity"] == pytest.approx(1, abs=1e-6)
    assert (last["age"], last["sex"], last["projection"]) == (None, None, None)
    assert second["views"] == ["frontal", "lateral"]
    assert (second["findings"]["Pneumonia"], second["findings"]["Edema"]) == (1, -1)
    assert second["findings"]["Cardiomegaly"] is None
    assert second["extra"]["Etiology"] == "virus"
    assert "path" not in json.dumps(answer)


def test_a_stored_study_leaves_out_its_own_patient_unless_asked(client: FlaskClient) -> None:
    other = client.post("/v1/search", json={"study_id": FIRST}).get_json()
    own = client.post("/v1/search", json={"study_id": FIRST, "exclude_same_patient": False}).get_json()

    assert ids(other) == ["patient00002/study1", "patient00003/study1"]
    assert ids(own)[0] == "patient00001/study2"


def test_films_leave_out_the_patient_they_are_said_to_be_of(client: FlaskClient) -> None:
    named = upload(frontal=film(0), patient_id="patient00001")
    kept = upload(frontal=film(0), patient_id="patient00001", exclude_same_patient="false")

    assert ids(client.post("/v1/search", **named).get_json())[0] == "patient00002/study1"
    assert ids(client.post("/v1/search", **kept).get_json())[0] == FIRST


@pytest.mark.parametrize("form", ["multipart", "json", "query"])
def test_a_filter_means_the_same_in_a_form_a_body_and_a_url(client: FlaskClient, form: str) -> None:
    men = {"must": [{"key": "sex", "match": {"value": "Male"}}]}
    if form == "multipart":
        response = client.post("/v1/search", **upload(lateral=film(0), filter=json.dumps(men)))
    elif form == "json":
        response = client.post("/v1/search", json={"embedding": [1, 0], "filter": men})
    else:
        response = client.get(f"/v1/studies/{FIRST}/similar", query_string={"filter": json.dumps(men)})

    assert ids(response.get_json()) == ["patient00002/study1"]
    assert response.get_json()["matched_total"] == 1


@pytest.mark.parametrize("column", ["frontal_path", "lateral_path", "other_paths", "embedding", "nonsense"])
def test_a_filter_cannot_guess_what_no_answer_shows(client: FlaskClient, column: str) -> None:
    path = {"key": column, "match": {"value": f"{FIRST}/view1_frontal.png"}}
    for where in (
        {"must": [path]},
        {"must_not": [{"should": path}]},
        {"must": [{"key": column, "match": {"any": []}}]},
    ):
        text = json.dumps(where)
        answers = [
            client.post("/v1/search", json={"study_id": FIRST, "filter": where}),
            client.post("/v1/search", **upload(lateral=film(0), filter=text)),
            client.get(f"/v1/studies/{FIRST}/similar", query_string={"filter": text}),
            client.get("/", query_string={"study": FIRST, "filter": text}),
            client.get("/", query_string={"study": FIRST, "finding": column}),
        ]
        assert [answer.status_code for answer in answers] == [400] * 5
        told = answers[0].get_json()["error"]
        assert told["code"] == "bad_filter"
        assert "path" not in told["message"].replace(column, "")


def test_what_a_filter_may_name_is_what_a_hit_shows(client: FlaskClient) -> None:
    hit = client.get(f"/v1/studies/{FIRST}/similar?k=1").get_json()["hits"][0]
    own = {"rank", "similarity", "place", "site", "ages", "pictures", "viewer_url", "findings", "extra"}
    shown = {*hit, *hit["findings"], *hit["extra"]} - own

    assert {*client.get("/info").get_json()["collections"][0]["columns"], "views"} == shown


def test_one_hit_a_patient_and_a_least_similarity_are_kept(client: FlaskClient) -> None:
    body = {"embedding": [1, 0], "group_by": "patient", "min_similarity": 0.5}

    assert ids(client.post("/v1/search", json=body).get_json()) == [FIRST, "patient00002/study1"]


def test_base64_and_multipart_give_the_same_embedding(client: FlaskClient) -> None:
    parts = client.post("/v1/embeddings", **upload(frontal=film(40))).get_json()
    body = {"frontal": base64.b64encode(film(40)).decode()}

    assert client.post("/v1/embeddings", json=body).get_json() == parts
    assert parts["embedding_dim"] == len(parts["embedding"]) == 2
    assert parts["fingerprint"] == FINGERPRINT


def test_an_embedding_searches_as_its_film_does(client: FlaskClient) -> None:
    vector = client.post("/v1/embeddings", **upload(frontal=film(60))).get_json()["embedding"]
    by_vector = client.post("/v1/search", json={"embedding": vector}).get_json()
    by_film = client.post("/v1/search", **upload(frontal=film(60))).get_json()

    assert by_vector["hits"] == by_film["hits"]


def test_a_file_input_left_empty_counts_as_no_film(client: FlaskClient) -> None:
    parts = {"frontal": (io.BytesIO(film(0)), "f.png"), "lateral": (io.BytesIO(b""), ""), "patient_id": ""}
    response = client.post("/v1/search", data=parts)

    assert response.status_code == 200
    assert ids(response.get_json())[0] == FIRST


SEVERAL = [
    {"study_id": FIRST, "k": 2},
    {"study_id": "nobody/study1"},
    {"embedding": [0.0, 1.0], "filter": {"must": [{"key": "sex", "match": {"value": "Female"}}]}},
    {"frontal": base64.b64encode(film(0)).decode(), "patient_id": "patient00001", "group_by": "patient"},
    {"lateral": base64.b64encode(b"no picture").decode()},
    {"study_id": FIRST, "filter": {"must": [{"key": "frontal_path", "match": {"value": "x"}}]}},
]


def without_time(answer: dict) -> dict:
    """Return an answer or a refusal without what differs between two requests."""
    if "error" in answer:
        return {name: value for name, value in answer["error"].items() if name != "request_id"}
    return answer | {"took_ms": None}


def test_several_searches_are_answered_as_each_alone(client: FlaskClient) -> None:
    several = client.post("/v1/searches", json={"searches": SEVERAL})
    alone = [client.post("/v1/search", json=one).get_json() for one in SEVERAL]

    assert several.status_code == 200
    assert list(map(without_time, several.get_json()["answers"])) == list(map(without_time, alone))
    codes = [one["error"]["code"] if "error" in one else None for one in alone]
    assert codes == [None, "study_not_found", None, None, "not_an_image", "bad_filter"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"searches": []}, 400, "at least 1"),
        ({"searches": [{"study_id": FIRST, "k": 1}] * (MAX_SEARCHES + 1)}, 400, f"at most {MAX_SEARCHES}"),
        ({"searches": [{"study_id": FIRST, "k": MAX_HITS // 2}] * 3}, 400, "in sum"),
        ({"searches": [{"study_id": FIRST, "collection": "main"}]}, 400, "beside 'searches'"),
        ({"searches": [{"study_id": FIRST}, {}]}, 400, "searches.1: expected exactly one query"),
        ({"searches": [{"study_id": FIRST}], "collection": "other"}, 404, "no collection"),
        ({"study_id": FIRST}, 400, "searches"),
    ],
    ids=["none", "too-many", "too-many-hits", "collection-inside", "empty-search", "unknown-collection", "one-search"],
)
def test_searches_that_cannot_be_asked_are_refused_together(
    client: FlaskClient, body: dict, status: int, said: str
) -> None:
    refused = client.post("/v1/searches", json=body)

    assert refused.status_code == status
    assert said in refused.get_json()["error"]["message"]
    assert client.post("/v1/searches", data={"frontal": (io.BytesIO(film(0)), "f.png")}).status_code == 415


def test_several_searches_cost_a_token_what_each_alone_does(tmp_path: Path) -> None:
    secret = create_token(tmp_path / "tokens.json", "a", ["read"])
    app = with_tokens(build_app(calls_a_second=1, calls_at_once=4, queries_a_day=2), tmp_path / "tokens.json")
    client, held = app.test_client(), {"Authorization": f"Bearer {secret}"}
    three = {"searches": [{"study_id": one} for one in (FIRST, "patient00001/study2", "patient00002/study1")]}
    vector = {"searches": [{"embedding": [0.0, 1.0]}]}

    found = client.post("/v1/searches", json=three, headers=held).get_json()["answers"]
    assert [one.get("error", {}).get("code") for one in found] == [None, None, "too_many_requests"]
    assert {str(hit["similarity"])[:4] for hit in found[0]["hits"]} == {
        str(hit["similarity"]) for hit in found[0]["hits"]
    }
    assert client.post("/v1/searches", json=vector, headers=held).status_code == 403
    assert client.post("/v1/searches", json=three, headers=held).status_code == 429
