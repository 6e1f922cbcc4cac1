"""A service without an encoder: what it answers of stored studies and vectors, and what it refuses."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from service_world import FINGERPRINT, film, save_films, save_index

from index.errors import FingerprintMismatch
from index.search.texts import Texts
from service.errors import MountError
from service.loader import from_env, load
from service.served.mounts import parse_mounts

STUDY = "patient00001/study1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("no_encoder")
    save_index(root / "index")
    save_films(root / "films")
    return root


@pytest.fixture(scope="module")
def client(folder: Path) -> FlaskClient:
    return load(parse_mounts([f"{folder}/index"], [f"{folder}/films"]), None).test_client()


def test_stored_studies_vectors_and_filters_are_answered(client: FlaskClient) -> None:
    by_study = client.post("/v1/search", json={"study_id": STUDY}).get_json()
    male = {"must": [{"key": "sex", "match": {"value": "Male"}}]}
    by_vector = client.post("/v1/search", json={"embedding": [0.0, 1.0], "filter": male}).get_json()
    read = client.post("/v1/predict", json={"study_id": STUDY, "finding": "Pneumonia"}).get_json()

    assert [hit["study_id"] for hit in by_study["hits"]] == ["patient00002/study1", "patient00003/study1"]
    assert by_study["familiarity"]["measure"] == "embedding"
    assert [hit["study_id"] for hit in by_vector["hits"]] == ["patient00002/study1"]
    assert {one["finding"]: one["vote"]["share"] for one in read["predictions"]}["Pneumonia"] == 1.0
    assert read["contrast"]["present"] is not None
    assert client.get(f"/v1/studies/{STUDY}/image").status_code == 200


def test_readiness_searches_a_stored_vector(client: FlaskClient) -> None:
    ready, info = client.get("/readyz").get_json(), client.get("/info").get_json()

    assert ready["status"] == "ready"
    assert (ready["embed_ms"], ready["cosine_to_start"]) == (None, None)
    assert list(ready["search_ms"]) == ["index"]
    assert [one["embeds"] for one in info["collections"]] == [False]
    assert info["fingerprint"] == FINGERPRINT


def test_a_text_is_searched_by_where_its_vector_was_given(folder: Path, client: FlaskClient) -> None:
    vectors = np.array([[0, 1], [1, 0]], np.float32)
    Texts.of(FINGERPRINT, ["edema", "no finding"], vectors).save(folder / "texts.parquet")
    texts = load(parse_mounts([f"{folder}/index"]), None, texts=folder / "texts.parquet").test_client()

    found = texts.post("/v1/search", json={"text": "edema", "k": 1}).get_json()

    assert [hit["study_id"] for hit in found["hits"]] == ["patient00003/study1"]
    assert found["warning"] == "Text and film are matched by a model that was not tested here."
    assert found["familiarity"] is None
    assert texts.get("/info").get_json()["collections"][0]["texts"] == ["edema", "no finding"]
    refused = [one.post("/v1/search", json={"text": "fracture"}) for one in (texts, client)]
    assert [one.get_json()["error"]["code"] for one in refused] == ["text_not_found", "no_texts"]
    Texts.of("e" * 64, ["edema"], vectors[:1]).save(folder / "others.parquet")
    with pytest.raises(FingerprintMismatch):
        load(parse_mounts([f"{folder}/index"]), None, texts=folder / "others.parquet")


FILM = {"study": f'{{"study_id": "{STUDY}x", "patient_id": "p"}}'}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/search", {}),
        ("/v1/embeddings", {}),
        ("/v1/predict", {}),
        ("/v1/explain", {"hit": STUDY}),
        ("/v1/studies", FILM),
    ],
)
def test_a_film_is_refused_with_what_can_be_asked_instead(
    client: FlaskClient, path: str, fields: dict[str, Any]
) -> None:
    answer = client.post(path, data={"frontal": (io.BytesIO(film(90)), "film.png"), **fields})

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (409, "no_encoder")
    assert answer.get_json()["error"]["message"].startswith("this service was started without ")


def test_what_needs_the_network_is_refused_of_a_stored_study_too(client: FlaskClient) -> None:
    asked = [("/v1/explain", {"hit": "patient00002/study1"}), ("/v1/predict", {"tta": True})]

    answers = [client.post(path, json={"study_id": STUDY, **fields}) for path, fields in asked]

    assert [one.get_json()["error"]["code"] for one in answers] == ["no_encoder", "no_encoder"]


def test_the_page_takes_no_films_and_shows_stored_studies(client: FlaskClient) -> None:
    empty, shown = client.get("/").text, client.get(f"/?study={STUDY}").text
    sent = client.post("/", data={"frontal": (io.BytesIO(film(90)), "film.png")})

    assert "This service has no encoder, so it takes no films." in empty
    assert '<details class="ask" id="ask" open hidden>' in empty
    assert "patient00002/study1" in shown
    assert 'id="why" hidden' in shown
    assert sent.status_code == 409
    assert "started without an encoder" in sent.text


def test_collections_of_two_encoders_are_not_served_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_world.FINGERPRINT", "e" * 64)
    save_index(folder / "other", "/2")

    with pytest.raises(FingerprintMismatch, match=r"'other' holds vectors of encoder eeee.* serve each by itself"):
        load(parse_mounts([f"{folder}/index", f"{folder}/other"]), None)


def test_gunicorn_serves_without_an_encoder_where_that_is_said(folder: Path) -> None:
    found = {"PRECEDENT_INDEX": f"{folder}/index", "PRECEDENT_ENCODER": "none"}

    assert from_env(found).test_client().get("/readyz").status_code == 200
    with pytest.raises(MountError, match="expected PRECEDENT_ENCODER in the environment"):
        from_env({"PRECEDENT_INDEX": f"{folder}/index"})
