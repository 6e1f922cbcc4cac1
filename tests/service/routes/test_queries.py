"""A query is sent once and asked about by its id: searches, predictions, maps, the page, by whom, and for how long."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from flask.testing import FlaskClient
from service_world import (
    ANGLES,
    FakeEmbedder,
    app_over,
    build_app,
    build_client,
    build_mounted,
    film,
    with_log,
    with_tokens,
)

from service.audit.log import AuditLog
from service.guard.tokens import create_token
from service.served.pictures import SMALL_SIDE

FIRST, SECOND, THIRD, LAST = ANGLES


def sent(client: FlaskClient, *, as_: str | None = None, **fields: Any) -> Any:
    """Return the answer to films that are to be kept."""
    parts = {"frontal": (io.BytesIO(film(0)), "film.png")} | fields
    headers = {} if as_ is None else {"Authorization": f"Bearer {as_}"}
    answer = client.post("/v1/queries", data=parts, headers=headers)
    assert answer.status_code == 201
    return answer.get_json()


def test_films_are_sent_once_read_once_and_searched_by_their_id(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    embed = FakeEmbedder.embed_study
    monkeypatch.setattr(FakeEmbedder, "embed_study", lambda *films: reads.append(films) or embed(*films))
    client = build_client()
    query = sent(client, patient_id="patient00001")
    by_films = client.post("/v1/search", json={"query": query["query"], "k": 4}).get_json()
    women = client.post("/v1/search", json={"query": query["query"], "filter": {"must_not": []}}).get_json()
    place = client.post("/v1/searches", json={"searches": [{"query": query["query"], "k": 1}, {"query": "x"}]})

    assert query == query | {"views": ["frontal"], "study_id": None, "collection": "main", "kept_s": 3600}
    assert [hit["study_id"] for hit in by_films["hits"]] == [THIRD, LAST]  # the patient was told when they were sent
    assert women["hits"] == by_films["hits"]
    first, second = place.get_json()["answers"]
    assert (first["hits"][0]["study_id"], second["error"]["code"]) == (THIRD, "query_gone")
    assert len(reads) == 1


def test_a_stored_study_can_be_a_query_and_the_log_names_it(tmp_path: Path) -> None:
    client = with_log(build_app(), AuditLog(tmp_path / "audit.jsonl")).test_client()
    query = client.post("/v1/queries", json={"study_id": FIRST}).get_json()["query"]
    hits = client.post("/v1/search", json={"query": query}).get_json()["hits"]
    page = client.get(f"/?query={query}").text

    assert [hit["study_id"] for hit in hits] == [THIRD, LAST]
    assert f"Query: {FIRST}" in page
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert [FIRST in line for line in lines[1:]] == [True, True, True]
    assert query not in "".join(lines)


def test_the_page_goes_on_to_an_address_that_can_be_loaded_again() -> None:
    client = build_client()
    answer = client.post(
        "/?age_from=50", data={"frontal": (io.BytesIO(film(0)), "f.png"), "k": "2", "group_by": "patient"}
    )
    page = client.get(answer.location)

    assert (answer.status_code, page.status_code) == (303, 200)
    assert "2 similar cases" in page.text
    assert client.get(answer.location).text.count('class="hit"') == 2
    assert client.get(f"{answer.location}&sex=Male").text.count('class="hit"') == 1
    assert "base64" not in page.text
    assert 'name="query" value="' in page.text


@pytest.mark.parametrize("words", ["?query=nowhere", "?query=nowhere&sex=Male"])
def test_a_query_that_is_gone_is_told_on_the_page(words: str) -> None:
    answer = build_client().get("/" + words)

    assert answer.status_code == 404
    assert 'data-code="query_gone"' in answer.text
    assert "send the films again" in answer.text


def test_a_query_and_a_study_at_once_are_refused() -> None:
    client = build_client()

    assert client.get(f"/?query=x&study={FIRST}").status_code == 400
    assert client.post("/v1/search", json={"query": "x", "study_id": FIRST}).status_code == 400
    assert client.post("/v1/explain", json={"query": "x", "study_id": FIRST, "hit": LAST}).status_code == 400


def test_a_film_of_a_query_comes_whole_or_small_and_no_cache_keeps_it() -> None:
    wide = cv2.imencode(".png", np.tile(np.arange(256, dtype=np.uint8), (1024, 16)))[1].tobytes()
    client = build_client()
    query = sent(client, frontal=(io.BytesIO(wide), "wide.png"))["query"]
    answers = [
        client.get(f"/v1/queries/{query}/image?view=frontal{words}") for words in ("", "&small=true", "&depth=own")
    ]
    shapes = [cv2.imdecode(np.frombuffer(one.data, np.uint8), cv2.IMREAD_UNCHANGED).shape for one in answers]

    assert [one.mimetype for one in answers] == ["image/png", "image/jpeg", "image/png"]
    assert shapes == [(1024, 4096), (SMALL_SIDE // 4, SMALL_SIDE), (1024, 4096)]
    assert {one.headers["Cache-Control"] for one in answers} == {"no-store"}
    missing = client.get(f"/v1/queries/{query}/image?view=lateral").get_json()["error"]
    assert missing["code"] == "image_missing"


def test_a_bad_film_is_refused_when_it_is_sent_and_not_kept() -> None:
    client = build_client()
    answer = client.post("/v1/queries", data={"frontal": (io.BytesIO(b"hello"), "f.png")})

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (415, "not_an_image")
    assert len(client.application.extensions["precedent"].queries) == 0


def test_a_query_belongs_to_the_token_that_sent_it(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    alice, bob, writer = (
        create_token(tokens, name, [scope]) for name, scope in {"a": "read", "b": "read", "w": "write"}.items()
    )
    client = with_tokens(build_app(), tokens).test_client()
    query = sent(client, as_=alice)["query"]

    def status(secret: str | None, method: str = "GET", path: str = "", **body: Any) -> int:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return client.open(path or f"/v1/queries/{query}", method=method, headers=headers, **body).status_code

    asked = {"json": {"query": query}}
    assert [status(secret) for secret in (alice, bob, writer, None)] == [200, 404, 403, 401]
    for path in ("/v1/search", "/v1/predict"):
        assert status(bob, "POST", path, **asked) == 404
    assert status(bob, path=f"/v1/queries/{query}/image") == 404
    assert status(bob, "DELETE") == 404
    assert [status(alice, "DELETE"), status(alice)] == [204, 404]


def test_films_that_are_kept_count_once_among_a_tokens_queries_of_the_day(tmp_path: Path) -> None:
    secret = create_token(tmp_path / "tokens.json", "a", ["read"])
    client = with_tokens(build_app(queries_a_day=1), tmp_path / "tokens.json").test_client()
    query = sent(client, as_=secret)["query"]
    headers = {"Authorization": f"Bearer {secret}"}
    again = [client.post("/v1/search", json={"query": query, "k": k}, headers=headers) for k in (1, 2)]
    other = client.post("/v1/queries", data={"frontal": (io.BytesIO(film(9)), "f.png")}, headers=headers)

    assert [one.status_code for one in (*again, other)] == [200, 200, 429]


def test_a_query_is_asked_in_another_collection_too_where_it_is_films() -> None:
    client = app_over(build_mounted("main"), build_mounted("other")).test_client()
    films = sent(client, collection="other")["query"]
    study = client.post("/v1/queries", json={"study_id": FIRST, "collection": "other"}).get_json()["query"]

    def found(query: str, **fields: str) -> int:
        return client.post("/v1/search", json={"query": query, **fields}).status_code

    assert [found(films), found(films, collection="main"), found(study)] == [200, 200, 200]
    assert found(study, collection="main") == 404
