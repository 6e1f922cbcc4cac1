"""What the page is made of before any script runs: filters in the URL, small pictures, links that keep the filters."""

import io
import re
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from flask.testing import FlaskClient
from service_world import ANGLES, app_over, build_client, build_mounted, build_retriever, film, save_films, study_row

from index.built.collection import Collection
from index.built.vector_index import VectorIndex
from index.search.retriever import Retriever
from index.table.studies import as_studies, studies_schema
from service.api.page_filters import PageFilters
from service.served.pictures import SMALL_SIDE

FIRST, SECOND, THIRD, LAST = ANGLES


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    save_films(tmp_path)
    return build_client(tmp_path)


def studies_of(html: str) -> list[str]:
    """Return the studies of the page's cards, in order."""
    return [part.partition('"')[0] for part in html.split('<li class="hit" data-study="')[1:]]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", [THIRD, LAST]),
        ("sex=&projection=&age_from=&age_to=", [THIRD, LAST]),
        ("sex=Male", [THIRD]),
        ("age_from=50&age_to=70", [THIRD]),
        ("projection=PA&sex=Male", [THIRD]),
        ("finding=Pneumonia", [THIRD, LAST]),
        ("finding=Edema", []),
        ("finding=Edema&label=possible&sex=Male", [THIRD]),
        ("finding=Fracture&finding=Pneumonia&label=absent", []),
        ("finding=Fracture&label=absent", [THIRD, LAST]),
    ],
)
def test_the_words_of_the_url_narrow_the_hits(client: FlaskClient, words: str, found: list[str]) -> None:
    assert studies_of(client.get(f"/?study={FIRST}&{words}").text) == found


def test_filters_and_cards_come_from_the_collections_own_labels_and_values() -> None:
    rows = [study_row(one, sex="Unknown", projection="AP SUPINE", Edema=None, Infiltration=1) for one in ANGLES]
    schema = studies_schema([pa.field("Etiology", pa.string()), pa.field("Infiltration", pa.int8())])
    studies = as_studies(pa.Table.from_pylist(rows, schema))
    vectors = np.tile(np.array([1, 0], np.float32), (4, 1))
    retriever = Retriever(Collection(build_retriever().manifest, studies, VectorIndex.build(vectors, "flat")))
    client = app_over(build_mounted(retriever=retriever)).test_client()
    html = client.get(f"/?study={FIRST}&finding=Infiltration").text

    offered = re.findall(r'name="finding" value="([^"]+)"', html)
    assert offered == ["Pneumonia", "Fracture", "Infiltration"]
    assert re.findall(r"<option>([A-Z][^<]*)</option>", html)[:2] == ["Unknown", "AP SUPINE"]
    assert len(studies_of(html)) == 2
    assert html.count("</span> Infiltration</dd>") == 3
    [told] = client.get("/info").get_json()["collections"]
    assert (told["findings"], told["sexes"], told["projections"]) == (offered, ["Unknown"], ["AP SUPINE"])


def test_words_and_a_filter_hold_together() -> None:
    where = {"must": [{"key": "split", "match": {"value": "test"}}]}

    assert PageFilters().narrowed() is None
    assert PageFilters().narrowed(where) == {"must": [where]}
    assert PageFilters(sex="Female", age_to=40.0).narrowed(where) == {
        "must": [
            {"key": "sex", "match": {"value": "Female"}},
            {"key": "age", "range": {"lte": 40.0}},
            where,
        ]
    }


def test_every_study_or_one_a_patient_is_a_choice(client: FlaskClient) -> None:
    assert studies_of(client.get(f"/?study={THIRD}").text) == ["patient00001/study2", LAST]
    every = client.get(f"/?study={THIRD}&one_a_patient=false").text
    assert studies_of(every) == ["patient00001/study2", FIRST, LAST]
    assert '<option value="false" selected>' in every


def test_more_like_this_keeps_the_filters(client: FlaskClient) -> None:
    html = client.get(f"/?study={FIRST}&finding=Pneumonia&label=possible&k=24&sex=Male").text

    assert f"/?study={THIRD}&amp;finding=Pneumonia&amp;label=possible&amp;sex=Male&amp;k=24" in html


def test_films_are_narrowed_by_the_words_of_the_address(client: FlaskClient) -> None:
    parts = {"frontal": (io.BytesIO(film(0)), "f.png")}

    assert studies_of(client.post("/?sex=Male", data=parts, follow_redirects=True).text) == [THIRD]


def test_an_unknown_finding_is_refused_in_words_beside_the_query(client: FlaskClient) -> None:
    response = client.get(f"/?study={FIRST}&finding=wealth")

    assert response.status_code == 400
    assert "no column" in response.text
    assert f"Query: {FIRST}" in response.text


@pytest.mark.parametrize("words", ["why=x&view=top", "age_from=-1", "k=0", "shape=round"])
def test_words_the_page_does_not_know_are_refused(client: FlaskClient, words: str) -> None:
    assert client.get(f"/?study={FIRST}&{words}").status_code == 400


def test_a_card_shows_a_small_picture_and_opens_the_whole_film(client: FlaskClient) -> None:
    html = client.get(f"/?study={FIRST}").text

    assert f'src="/film/{THIRD}?view=frontal"' in html
    assert f'data-whole="/v1/studies/{THIRD}/image?view=frontal"' in html


def test_a_small_picture_is_a_grey_jpeg(tmp_path: Path) -> None:
    save_films(tmp_path)
    cv2.imwrite(str(tmp_path / FIRST / "view1_frontal.png"), np.tile(np.arange(1000, dtype=np.uint8), (1500, 1)))
    client = build_client(tmp_path)
    response = client.get(f"/film/{FIRST}?view=frontal")

    picture = cv2.imdecode(np.frombuffer(response.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (response.mimetype, picture.shape) == ("image/jpeg", (SMALL_SIDE, round(1000 * SMALL_SIDE / 1500)))


def test_a_small_picture_of_a_lost_film_is_missing(client: FlaskClient) -> None:
    response = client.get(f"/film/{LAST}?view=frontal")

    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "image_missing")
