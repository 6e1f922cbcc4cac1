"""Stored studies over HTTP: their facts, their films, and nothing outside the image root."""

import io
import json
import re
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from film_files import RAMP, dicom
from flask.testing import FlaskClient
from service_world import ANGLES, build_client, film, save_films

from encoder.films.viewing import CHUNK

FIRST = "patient00001/study1"
FRONTAL = f"{FIRST}/view1_frontal.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_films(tmp_path / "films")
    return tmp_path / "films"


@pytest.fixture
def client(root: Path) -> FlaskClient:
    return build_client(root)


@pytest.mark.parametrize("written", [FIRST, FIRST.replace("/", "%2F")])
@pytest.mark.parametrize("tail", ["", "/similar", "/image"])
def test_the_slash_of_a_study_id_may_be_written_either_way(client: FlaskClient, written: str, tail: str) -> None:
    response = client.get(f"/v1/studies/{written}{tail}", buffered=True)

    assert response.status_code == 200
    if not tail:
        assert response.get_json()["study_id"] == FIRST


def test_similar_cases_of_a_study_come_in_order(client: FlaskClient) -> None:
    answer = client.get(f"/v1/studies/{FIRST}/similar?k=1").get_json()

    assert [hit["study_id"] for hit in answer["hits"]] == ["patient00002/study1"]
    assert answer["hits"][0]["similarity"] == pytest.approx(np.cos(np.radians(20)), abs=1e-6)


def test_an_8_bit_film_is_served_as_it_is_stored(client: FlaskClient, root: Path) -> None:
    response = client.get(f"/v1/studies/{FIRST}/image?view=frontal", buffered=True)

    assert response.data == (root / FRONTAL).read_bytes()
    assert response.mimetype == "image/png"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", [f"/v1/studies/{FIRST}/image", f"/film/{FIRST}?view=frontal"])
def test_no_cache_keeps_a_film_and_no_header_tells_of_its_file(client: FlaskClient, path: str) -> None:
    asked = {"If-None-Match": "*", "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT", "Range": "bytes=0-1"}
    response = client.get(path, buffered=True, headers=asked)

    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    assert not {"ETag", "Last-Modified", "Content-Disposition", "Accept-Ranges"} & set(response.headers.keys())


def test_what_is_no_file_of_the_page_itself_is_kept_by_no_cache(client: FlaskClient) -> None:
    for path in ("/", f"/?study={FIRST}", "/info", f"/v1/studies/{FIRST}", "/openapi.json", "/docs", "/nowhere"):
        assert client.get(path).headers["Cache-Control"] == "no-store", path
    assert "no-store" not in client.get("/static/css/page.css", buffered=True).headers["Cache-Control"]


def test_a_film_a_browser_cannot_show_is_served_as_8_bit_png(client: FlaskClient, root: Path) -> None:
    ramp = np.tile(np.linspace(0, 4095, 64, dtype=np.uint16), (64, 1))
    (root / FRONTAL).write_bytes(cv2.imencode(".png", ramp)[1].tobytes())
    response = client.get(f"/v1/studies/{FIRST}/image", buffered=True)

    shown = cv2.imdecode(np.frombuffer(response.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (shown.dtype, shown.shape, shown.max()) == (np.uint8, (64, 64), 255)


def test_a_dicom_film_is_served_as_png(client: FlaskClient, root: Path, shared_data: Path) -> None:
    source = shared_data / "dicom/chest/nih_DX_ImplicitLE_mono2_8bit_1024.dcm"
    (root / FRONTAL).write_bytes(source.read_bytes())
    response = client.get(f"/v1/studies/{FIRST}/image", buffered=True)

    assert response.mimetype == "image/png"
    assert cv2.imdecode(np.frombuffer(response.data, np.uint8), cv2.IMREAD_UNCHANGED).ndim == 2


def test_a_film_is_served_at_its_own_depth_with_how_it_is_shown(client: FlaskClient, root: Path) -> None:
    header = {"WindowCenter": 2000, "WindowWidth": 3000, "PatientName": "DOE^JANE", "PatientID": "4711"}
    (root / FRONTAL).write_bytes(dicom(BitsStored=12, HighBit=11, ImagerPixelSpacing=[0.2, 0.2], **header))
    response = client.get(f"/v1/studies/{FIRST}/image?depth=own", buffered=True)

    assert (response.mimetype, response.headers["Cache-Control"]) == ("image/png", "no-store")
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(response.data, np.uint8), cv2.IMREAD_UNCHANGED), RAMP)
    chunk = response.data[response.data.index(CHUNK) + 4 :]
    described = json.loads(zlib.decompressobj().decompress(chunk))
    assert described["presets"][0]["center"] == 2000
    assert described["spacing"] == {"across": 0.2, "down": 0.2, "place": "detector"}
    assert not any(word in json.dumps(described) for word in ("DOE", "4711"))
    assert client.get(f"/v1/studies/{FIRST}/image?depth=16").status_code == 400


def test_a_link_that_leaves_the_image_root_is_not_followed(client: FlaskClient, root: Path) -> None:
    outside = root.parent / "outside.png"
    outside.write_bytes(film(3))
    (root / FRONTAL).unlink()
    (root / FRONTAL).symlink_to(outside)

    response = client.get(f"/v1/studies/{FIRST}/image", buffered=True)
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "image_missing")


def test_a_film_that_is_no_image_is_refused_by_its_view(client: FlaskClient, root: Path) -> None:
    (root / FRONTAL).write_text("hello")
    response = client.get(f"/v1/studies/{FIRST}/image", buffered=True)

    assert response.status_code == 415
    assert "'frontal'" in response.get_json()["error"]["message"]


@pytest.mark.parametrize(("study", "view"), [(list(ANGLES)[-1], "frontal"), (FIRST, "lateral")])
def test_a_film_that_is_not_there_is_missing(client: FlaskClient, study: str, view: str) -> None:
    response = client.get(f"/v1/studies/{study}/image?view={view}", buffered=True)

    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "image_missing")
    assert study in response.get_json()["error"]["message"]


def test_without_an_image_root_the_remedy_is_named() -> None:
    response = build_client(None).get(f"/v1/studies/{FIRST}/image")

    assert response.status_code == 404
    assert "--images" in response.get_json()["error"]["message"]


def test_the_page_shows_the_cases_of_a_stored_study(client: FlaskClient) -> None:
    html = client.get(f"/?study={FIRST}").text

    assert f"Query: {FIRST}" in html
    assert "patient00002/study1" in html
    assert "0.940" in html
    assert "/v1/studies/patient00002/study1/image?view=lateral" in html
    assert "patient00001/study2" not in html


def test_the_page_shows_the_query_film_and_its_cases(client: FlaskClient) -> None:
    parts = {"frontal": (io.BytesIO(film(0)), "f.png"), "k": "2"}
    response = client.post("/", data=parts, follow_redirects=True)

    assert response.status_code == 200
    assert re.search(r'src="/v1/queries/[\w-]{32}/image\?view=frontal&amp;small=true"', response.text)
    assert "2 similar cases" in response.text


@pytest.mark.parametrize("query", ["nobody", "<script>alert(1)</script>"])
def test_the_page_says_in_words_that_a_study_is_unknown(client: FlaskClient, query: str) -> None:
    response = client.get("/", query_string={"study": query})

    assert response.status_code == 404
    assert "no study" in response.text
    assert "<script>alert" not in response.text


def test_the_page_says_in_words_what_is_wrong_with_a_film(client: FlaskClient) -> None:
    response = client.post("/", data={"lateral": (io.BytesIO(b"hello"), "f.png")})

    assert (response.status_code, response.mimetype) == (415, "text/html")
    assert "expected a JPEG, PNG or DICOM file" in response.text
