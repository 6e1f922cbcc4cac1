"""Several collections under names: each route asks the one that is named, the first where none is."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flask.testing import FlaskClient
from service_world import (
    ANGLES,
    FINGERPRINT,
    FakeEmbedder,
    app_over,
    build_client,
    build_mounted,
    build_retriever,
    film,
    save_films,
)

from index.built.map import CollectionMap, Plane
from service.served.mounted import Mounted
from service.state import state_of

MAIN, NIH = "patient00001/study1", "patient00001/study1n"
"""The same patient's study, as each of the two collections calls it."""


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    """Return a client of two collections, of which the second alone has films and a map."""
    save_films(tmp_path / "films", ending="n")
    points = pa.table({"study_id": [f"{one}n" for one in ANGLES], "x": [0.0] * 4, "y": [0.0] * 4})
    plane = Plane(np.zeros(2), np.eye(2), (1.0, 0.0))
    second = {"retriever": build_retriever("n"), "image_root": tmp_path / "films"}
    nih = build_mounted(
        "nih", **second, map=CollectionMap(points, plane, FINGERPRINT), built_at="2024-06-07T00:00:00+00:00"
    )
    return app_over(build_mounted("main"), nih).test_client()


def asked(client: FlaskClient, route: str, study: str, collection: str | None) -> Any:
    """Return the answer of a route about a study of a collection."""
    words = {"collection": collection} if collection else {}
    if route == "search":
        return client.post("/v1/search", json={"study_id": study, **words})
    if route == "films":
        return client.post("/v1/search", data={"frontal": (io.BytesIO(film(0)), "f.png"), **words})
    if route == "page":
        return client.get("/", query_string={"study": study, **words})
    return client.get(route.format(study), query_string=words, buffered=True)


OF_A_STUDY = ["search", "page", "/v1/studies/{}", "/v1/studies/{}/similar"]
OF_FILMS = ["/v1/studies/{}/image", "/film/{}"]


@pytest.mark.parametrize("route", OF_A_STUDY)
def test_a_study_is_looked_for_in_the_collection_asked(client: FlaskClient, route: str) -> None:
    found = {
        (study, name): asked(client, route, study, name).status_code
        for study in (MAIN, NIH)
        for name in (None, "main", "nih")
    }

    assert found == {
        (MAIN, None): 200,
        (MAIN, "main"): 200,
        (MAIN, "nih"): 404,
        (NIH, None): 404,
        (NIH, "main"): 404,
        (NIH, "nih"): 200,
    }


@pytest.mark.parametrize("route", OF_FILMS)
def test_a_collection_without_an_image_root_is_served_beside_one_that_has_it(client: FlaskClient, route: str) -> None:
    assert asked(client, route, NIH, "nih").mimetype.startswith("image/")
    missing = asked(client, route, MAIN, "main")

    assert (missing.status_code, missing.get_json()["error"]["code"]) == (404, "image_missing")
    for name, study in (("main", MAIN), ("nih", NIH)):
        assert [asked(client, other, study, name).status_code for other in OF_A_STUDY] == [200] * len(OF_A_STUDY)


def test_films_are_searched_for_in_the_collection_asked(client: FlaskClient) -> None:
    first, second = (asked(client, "films", "", name).get_json()["hits"][0]["study_id"] for name in ("main", "nih"))

    assert (first, second) == (MAIN, NIH)


def test_each_collection_has_its_own_map(client: FlaskClient) -> None:
    assert client.get("/v1/map?collection=nih").get_json()["study_ids"][0] == NIH
    assert client.get("/v1/map").get_json()["error"]["code"] == "map_missing"


@pytest.mark.parametrize("route", [*OF_A_STUDY, *OF_FILMS, "films", "/v1/map"])
def test_an_unknown_collection_is_refused_with_those_there_are(client: FlaskClient, route: str) -> None:
    response = asked(client, route, MAIN, "ghost")

    assert response.status_code == 404
    if route == "page":
        assert "no collection &#39;ghost&#39; is served; there are: main, nih" in response.text
    else:
        message = "no collection 'ghost' is served; there are: main, nih"
        assert (response.get_json()["error"]["code"], response.get_json()["error"]["message"]) == (
            "collection_not_found",
            message,
        )


@pytest.mark.parametrize("route", ["embeddings", "predict", "explain"])
def test_a_body_of_films_may_name_a_collection_that_is_there(client: FlaskClient, route: str) -> None:
    codes = []
    for name in ("nih", "ghost"):
        finding = {"finding": "Edema"} if route == "explain" else {}
        parts = {"frontal": (io.BytesIO(film(0)), "f.png"), "collection": name, **finding}
        body = client.post(f"/v1/{route}", data=parts).get_json()
        codes.append(body.get("error", {}).get("code"))

    assert codes == [None if route == "embeddings" else "not_ready", "collection_not_found"]


def test_info_lists_the_collections_in_their_order(client: FlaskClient) -> None:
    main, nih = client.get("/info").get_json()["collections"]

    assert (main["name"], main["studies"], main["embedding_dim"], main["kind"]) == ("main", 4, 2, "flat")
    assert (main["images"], main["map"], main["built_at"]) == (False, False, None)
    assert (nih["name"], nih["images"], nih["map"], nih["built_at"]) == ("nih", True, True, "2024-06-07T00:00:00+00:00")


def test_readiness_searches_every_collection(client: FlaskClient) -> None:
    assert set(client.get("/readyz").get_json()["search_ms"]) == {"main", "nih"}


def test_readiness_names_the_collection_that_cannot_be_searched(caplog: pytest.LogCaptureFixture) -> None:
    class Torn:
        def now(self) -> "Torn":
            return self

        def answer(self, *_: Any, **__: Any) -> None:
            raise OSError("/srv/secret is gone")

    answer = app_over(build_mounted("main"), build_mounted("nih", retriever=Torn())).test_client().get("/readyz")

    assert answer.status_code == 503
    assert "collection 'nih'" in answer.get_json()["error"]["message"]
    assert "secret" not in answer.text
    assert "/srv/secret is gone" in caplog.text


def test_every_address_of_the_page_keeps_to_the_collection(client: FlaskClient) -> None:
    html = client.get("/", query_string={"study": NIH, "collection": "nih"}).text
    addresses = [part.split('"')[0] for mark in ('src="', 'href="', 'data-whole="') for part in html.split(mark)[1:]]

    of_studies = [one for one in addresses if "patient0" in one]
    assert len(of_studies) > 4
    assert all("collection=nih" in one for one in of_studies)
    assert "<option selected>nih</option>" in html


def test_the_page_searches_its_films_in_the_collection_of_its_form_or_its_address(client: FlaskClient) -> None:
    for address, words in (("/", {"collection": "nih"}), ("/?collection=nih", {})):
        form = {"frontal": (io.BytesIO(film(0)), "f.png"), **words}
        html = client.post(address, data=form, follow_redirects=True).text
        assert f'data-study="{NIH}"' in html
        assert 'data-collection="nih"' in html


def test_where_one_collection_is_served_no_address_names_it() -> None:
    html = build_client().get(f"/?study={MAIN}").text

    assert html.count("collection=") == html.count('data-collection=""') == 1


def test_a_swapped_collection_is_seen_by_the_next_request_and_not_by_a_running_one(client: FlaskClient) -> None:
    served = state_of(client.application).served

    class Swapping(FakeEmbedder):
        def embed_study(self, frontal: bytes | None, lateral: bytes | None) -> Any:
            served.now = Mounted((build_mounted("main", retriever=build_retriever("n")),))
            return super().embed_study(frontal, lateral)

    served.now = Mounted((build_mounted("main", embedder=Swapping()),))
    running, following = (asked(client, "films", "", "main").get_json()["hits"][0]["study_id"] for _ in range(2))
    assert (running, following) == (MAIN, NIH)
