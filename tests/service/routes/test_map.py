"""The route of the map: its columns, its labels, what is thinned and what is not, and its refusals."""

import io

import numpy as np
import pyarrow as pa
import pytest
from flask.testing import FlaskClient
from service_world import ANGLES, FINGERPRINT, app_over, build_client, build_mounted, film

from index.built.map import CollectionMap, Plane
from service.routes import map as maps

IDS = list(ANGLES)


def build_points(ids: list[str]) -> CollectionMap:
    """Return a map with the studies on a line, of which each second has an edema."""
    places = np.arange(len(ids), dtype=np.float32)
    points = pa.table({"study_id": ids, "x": places, "y": -places, "Edema": pa.array(places % 2, pa.int8())})
    return CollectionMap(points, Plane(np.zeros(2), np.eye(2), (0.75, 0.25)), FINGERPRINT)


@pytest.fixture
def client() -> FlaskClient:
    return app_over(build_mounted("main", map=build_points(IDS)), build_mounted("bare")).test_client()


def test_a_map_is_answered_as_columns_with_its_plane(client: FlaskClient) -> None:
    answer = client.get("/v1/map").get_json()

    assert (answer["study_ids"], answer["x"], answer["y"]) == (IDS, [0, 1, 2, 3], [0, -1, -2, -3])
    assert (answer["labels"], answer["findings"], answer["rows"]) == ([], ["Edema"], 4)
    assert answer["shares"] == [0.75, 0.25]
    assert not {"mean", "axes"} & set(answer)  # with them and enough places, vectors would have left
    assert answer["fingerprint"] == FINGERPRINT


def test_films_and_a_study_have_a_place_and_their_vector_stays(client: FlaskClient) -> None:
    black = client.post("/v1/map", data={"frontal": (io.BytesIO(film(0)), "a.png"), "patient_id": "p"}).get_json()
    stored = client.post("/v1/map", json={"study_id": IDS[3]}).get_json()

    assert black["x"] == pytest.approx(1, abs=0.01)
    assert stored == {"x": 0, "y": 1, "fingerprint": FINGERPRINT}
    assert client.post("/v1/map", json={"study_id": "nobody"}).status_code == 404
    assert client.post("/v1/map", json={"study_id": IDS[0], "collection": "bare"}).status_code == 404


def test_a_finding_colours_the_points(client: FlaskClient) -> None:
    assert client.get("/v1/map?finding=Edema").get_json()["labels"] == [0, 1, 0, 1]


def test_a_large_map_is_thinned_evenly_but_keeps_the_studies_asked_for(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "MAX_POINTS", 2)

    assert client.get("/v1/map").get_json()["study_ids"] == [IDS[0], IDS[2]]
    kept = client.get("/v1/map", query_string={"study": [IDS[3], IDS[0]]}).get_json()
    assert (kept["study_ids"], kept["rows"]) == ([IDS[0], IDS[2], IDS[3]], 4)


def test_an_unknown_finding_is_refused_with_those_there_are(client: FlaskClient) -> None:
    response = client.get("/v1/map?finding=wealth")

    assert (response.status_code, response.get_json()["error"]["code"]) == (400, "bad_filter")
    assert "Edema" in response.get_json()["error"]["message"]


@pytest.mark.parametrize("query", ["", "?collection=bare"])
def test_a_collection_without_a_map_names_the_remedy(client: FlaskClient, query: str) -> None:
    response = (client if query else build_client()).get(f"/v1/map{query}")

    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "map_missing")
    assert "precedent map" in response.get_json()["error"]["message"]
