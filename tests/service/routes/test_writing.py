"""Studies added and deleted over HTTP: what is answered, what lies on the disk, and what the next search finds."""

import base64
import hashlib
import http.client
import json
import re
from contextlib import closing
from dataclasses import replace
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient
from served_world import save_world, serving
from service_world import FakeEmbedder, app_over, build_client, build_mounted, film, save_index
from werkzeug.test import TestResponse

from encoder.embedder import Embedder
from index.errors import StudyExists
from index.living.additions import Addition, joined
from index.living.collection import LivingCollection
from service.served.mounted import Mounted, MountedCollection
from service.state import state_of

NEW = {"study_id": "patient00009/study1", "patient_id": "patient00009", "sex": "Male", "findings": {"Edema": 1}}
KNOWN = "patient00001/study1"


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    """Return a client of a collection that lives, with an empty image root."""
    (tmp_path / "films").mkdir()
    living = LivingCollection(save_index(tmp_path / "index"))
    return app_over(build_mounted(retriever=living, image_root=tmp_path / "films")).test_client()


def added(client: FlaskClient, study: Any = NEW, content: bytes = film(0), **fields: str) -> TestResponse:
    form = {"study": json.dumps(study), "frontal": (BytesIO(content), "f.png"), **fields}
    return client.post("/v1/studies", data=form)


IDS = [
    "[/evil]",
    "a%2Fb",
    "what?",
    "#1/&x=1",
    "p 1/s+1",
    "..p/s..",
    "é漢/🫁",
    "-x",
    "a;b\\c",
    "<i>/\"'",
    "image/similar/x",
    "%",
    "p" * 512,
]


def code(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, answer.get_json()["error"]["code"]


def test_an_added_study_is_answered_found_and_shown(client: FlaskClient, tmp_path: Path) -> None:
    answer = added(client)

    assert answer.status_code == 201
    assert answer.get_json() == client.get("/v1/studies/patient00009/study1").get_json()
    assert (answer.get_json()["sex"], answer.get_json()["findings"]["Edema"]) == ("Male", 1)
    hits = client.post("/v1/search", data={"frontal": (BytesIO(film(0)), "f.png")}).get_json()["hits"]
    assert {"patient00009/study1", KNOWN} == {hit["study_id"] for hit in hits[:2]}
    assert client.get("/v1/studies/patient00009/study1/image", buffered=True).data == film(0)
    (kept,) = (tmp_path / "films" / "added").rglob("*.png")
    assert kept.stem == hashlib.sha256(film(0)).hexdigest()


def test_the_same_again_is_answered_as_done_and_other_content_is_refused_unless_it_shall_replace(
    client: FlaskClient,
) -> None:
    assert [added(client).status_code for _ in range(2)] == [201, 200]
    assert code(added(client, {**NEW, "age": 61})) == (409, "study_exists")
    assert code(added(client, content=film(255))) == (409, "study_exists")
    assert added(client, {**NEW, "age": 61}, replace="true").get_json()["age"] == 61
    assert len(client.post("/v1/search", json={"embedding": [1, 0]}).get_json()["hits"]) == 5


def test_a_deleted_study_is_found_by_no_route(client: FlaskClient) -> None:
    assert client.delete(f"/v1/studies/{KNOWN}").status_code == 204
    assert code(client.delete(f"/v1/studies/{KNOWN}")) == (404, "study_not_found")
    assert code(client.get(f"/v1/studies/{KNOWN}")) == (404, "study_not_found")
    assert code(client.get(f"/v1/studies/{KNOWN}/similar")) == (404, "study_not_found")
    answer = client.post("/v1/search", json={"embedding": [1, 0]}).get_json()
    assert KNOWN not in [hit["study_id"] for hit in answer["hits"]]
    assert answer["matched_total"] == client.get("/info").get_json()["collections"][0]["studies"] == 3


@pytest.mark.parametrize(
    ("study", "status", "words"),
    [
        ({"patient_id": "p"}, 400, "study.study_id"),
        ({**NEW, "frontal_path": "/etc/passwd"}, 400, "study.frontal_path: expected a field of this request"),
        ({**NEW, "age": -1}, 400, "study.age"),
        ({**NEW, "findings": {"Edema": 2}}, 400, "study.findings.Edema"),
        ({**NEW, "findings": {"Gout": 1}}, 422, "no column 'Gout' of this collection"),
        (
            {**NEW, "extra": {"frontal_path": "other.png"}},
            422,
            "no column 'frontal_path' of this collection can be given",
        ),
        ({**NEW, "extra": {"study_id": "patient00001/study9"}}, 422, "no column 'study_id'"),
        ({**NEW, "findings": {"age": 1}}, 422, "no column 'age'"),
        ({**NEW, "extra": {"Etiology": "x" * 65_536}}, 400, "at most 65535 characters"),
        ({**NEW, "extra": {"Etiology": 3}}, 422, "types of this collection"),
        ({**NEW, "study_id": "patient00009/image"}, 422, "a study_id whose last part is not 'image'"),
        ("no object", 400, "study"),
    ],
)
def test_a_study_that_breaks_a_rule_is_refused_and_leaves_nothing(
    client: FlaskClient, tmp_path: Path, study: Any, status: int, words: str
) -> None:
    answer = added(client, study)

    assert answer.status_code == status
    assert words in answer.get_json()["error"]["message"]
    assert list((tmp_path / "films").iterdir()) == []


def test_a_body_that_is_no_json_or_has_no_film_or_none_of_a_film_is_refused(client: FlaskClient) -> None:
    assert code(client.post("/v1/studies", data={"study": "{", "frontal": (BytesIO(film(0)), "f")})) == (
        400,
        "bad_request",
    )
    assert code(client.post("/v1/studies", data={"study": json.dumps(NEW)}, content_type="multipart/form-data")) == (
        400,
        "bad_request",
    )
    assert code(client.post("/v1/studies", json={"study": NEW})) == (400, "bad_request")
    assert code(added(client, content=b"no film")) == (415, "not_an_image")


def test_a_collection_without_an_image_root_or_without_a_folder_cannot_be_changed(tmp_path: Path) -> None:
    living = LivingCollection(save_index(tmp_path / "index"))
    rootless = app_over(build_mounted(retriever=living)).test_client()

    assert code(added(rootless)) == (409, "not_writable")
    assert "--images" in added(rootless).get_json()["error"]["message"]
    assert rootless.delete(f"/v1/studies/{KNOWN}").status_code == 204
    assert code(build_client(tmp_path).delete(f"/v1/studies/{KNOWN}")) == (409, "not_writable")
    assert code(build_client(tmp_path).post("/v1/indexes/main/activate")) == (409, "not_writable")


def test_a_full_disk_is_told_and_changes_nothing(client: FlaskClient, tmp_path: Path) -> None:
    (tmp_path / "films" / "added").write_bytes(b"in the way")

    assert code(added(client)) == (503, "not_written")
    assert "films" not in added(client).get_json()["error"]["message"]
    assert client.get("/v1/studies/patient00009/study1").status_code == 404


def test_compaction_removes_the_films_of_deleted_studies_and_keeps_the_others(
    client: FlaskClient, tmp_path: Path
) -> None:
    living: LivingCollection = state_of(client.application).served.now.collection().retriever
    added(client)
    added(client, {**NEW, "study_id": "patient00009/study2"}, film(255))
    client.delete("/v1/studies/patient00009/study2")
    assert len(list((tmp_path / "films").rglob("*.png"))) == 2
    living.compact(tmp_path / "films")

    assert [path.stem for path in (tmp_path / "films").rglob("*.png")] == [hashlib.sha256(film(0)).hexdigest()]
    assert client.get("/v1/studies/patient00009/study1/image", buffered=True).data == film(0)


def test_the_document_states_the_study_of_a_form_whole(client: FlaskClient) -> None:
    media = client.get("/openapi.json").get_json()["paths"]["/v1/studies"]["post"]["requestBody"]["content"]
    for kind in ("multipart/form-data", "application/json"):
        schema = media[kind]["schema"]
        assert "study_id" in schema["properties"]["study"]["properties"]
        assert schema["required"] == ["study"]
        assert "$ref" not in json.dumps(schema)


@pytest.mark.parametrize("study_id", IDS)
def test_every_id_that_is_taken_is_found_shown_and_deleted_by_its_address(client: FlaskClient, study_id: str) -> None:
    assert added(client, NEW | {"study_id": study_id}).status_code == 201
    address = quote(study_id)

    assert client.get(f"/v1/studies/{address}").get_json()["study_id"] == study_id
    assert client.get(f"/v1/studies/{quote(study_id, safe='')}").get_json()["study_id"] == study_id
    for route in (f"/v1/studies/{address}/image", f"/v1/studies/{address}/similar", f"/film/{address}"):
        assert client.get(route).status_code == 200, route
    assert client.post("/v1/search", json={"study_id": study_id}).status_code == 200
    page = client.get("/", query_string={"study": KNOWN, "one_a_patient": "false"}).get_data(as_text=True)
    links = [unescape(link) for link in re.findall(r'(?:href|src)="([^"]+)"', page)]
    parts = [(link, urlsplit(link)) for link in links]
    films = [link for link, part in parts if unquote(part.path) == f"/film/{study_id}"]
    more = [link for link, part in parts if parse_qs(part.query).get("study") == [study_id]]
    assert (len(films), len(more)) == (1, 1), links
    assert [link for link in films + more if client.get(link).status_code != 200] == []
    assert client.delete(f"/v1/studies/{address}").status_code == 204
    assert client.get(f"/v1/studies/{address}").status_code == 404


@pytest.mark.parametrize("study_id", ["/evil", "a\nb", "a/", "a//b", "a/../b", " a", "a\u202e", "\x1b[31m"])
def test_an_id_that_no_address_finds_is_refused(client: FlaskClient, study_id: str) -> None:
    answer = added(client, NEW | {"study_id": study_id})
    assert code(answer) == (422, "study_not_usable")
    assert "expected a study_id" in answer.get_json()["error"]["message"]


@pytest.mark.slow
def test_a_real_server_finds_every_id_and_its_films_are_its_owners_alone(
    tmp_path: Path, tiny_embedder: Embedder
) -> None:
    with (
        serving(save_world(tmp_path, tiny_embedder)) as server,
        closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)) as connection,
    ):

        def asked(method: str, route: str, body: bytes | None = None) -> int:
            connection.request(method, route, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            answer.read()
            return answer.status

        for number, study_id in enumerate(IDS):
            study = {"study_id": study_id, "patient_id": study_id}
            new = {"study": study, "frontal": base64.b64encode(film(10 * number)).decode()}
            assert asked("POST", "/v1/studies", json.dumps(new).encode()) == 201
            for route in (f"/v1/studies/{quote(study_id)}", f"/film/{quote(study_id)}", f"/?study={quote(study_id)}"):
                assert asked("GET", route) == 200, route
        kept = [path.stat().st_mode & 0o777 for path in (tmp_path / "added").rglob("*")]
        assert asked("DELETE", f"/v1/studies/{quote(IDS[0])}") == 204
    assert {*kept} == {0o600, 0o700}


class _Both(FakeEmbedder):
    """Films to a unit vector by the brightness of all of them; keeps what it was given."""

    def __init__(self) -> None:
        self.embedded: list[tuple[bytes | None, bytes | None]] = []

    def embed_study(self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None) -> Any:
        self.embedded.append((frontal, lateral))
        vectors = [super(_Both, self).embed_study(one, None) for one in (frontal, lateral) if one is not None]
        return sum(vectors) / np.linalg.norm(sum(vectors))


def mounted_collection(client: FlaskClient) -> MountedCollection:
    """Return the collection that a client asks, with an embedder in which both films count."""
    (collection,) = state_of(client.application).served.now.collections
    collection = replace(collection, embedder=_Both())
    state_of(client.application).served.now = Mounted((collection,))
    return collection


def later(client: FlaskClient, study: Any = None, **films: bytes) -> TestResponse:
    """Add films of a study, of which nothing but its name and its patient is said unless given."""
    form: dict[str, Any] = {"study": json.dumps(study or {name: NEW[name] for name in ("study_id", "patient_id")})}
    return client.post("/v1/studies", data=form | {view: (BytesIO(one), "f.png") for view, one in films.items()})


def test_a_film_that_comes_later_is_embedded_with_those_that_are_there(client: FlaskClient, tmp_path: Path) -> None:
    collection = mounted_collection(client)
    added(client)
    before = collection.retriever.embedding(NEW["study_id"])
    answer = later(client, {**{name: NEW[name] for name in ("study_id", "patient_id")}, "age": 61}, lateral=film(200))

    assert answer.status_code == 201
    told = answer.get_json()
    assert (told["views"], told["sex"], told["age"], told["findings"]["Edema"]) == (
        ["frontal", "lateral"],
        "Male",
        61,
        1,
    )
    assert [both for both in collection.embedder.embedded if None not in both] == [(film(0), film(200))]
    assert float(collection.retriever.embedding(NEW["study_id"]) @ before) < 0.99
    assert len(collection.retriever) == 5
    shown = [
        client.get(f"/v1/studies/{NEW['study_id']}/image?view={view}", buffered=True).data for view in told["views"]
    ]
    assert shown == [film(0), film(200)]
    assert client.get(f"/?study={NEW['study_id']}").text.count("of the query") >= 2
    LivingCollection(tmp_path / "index").compact(tmp_path / "films")
    assert len(list((tmp_path / "films" / "added").rglob("*.png"))) == 2


def test_a_later_film_of_a_study_whose_first_is_gone_is_refused(client: FlaskClient, tmp_path: Path) -> None:
    added(client)
    (kept,) = (tmp_path / "films" / "added").rglob("*.png")
    kept.unlink()

    assert code(later(client, lateral=film(200))) == (404, "image_missing")
    assert client.get(f"/v1/studies/{NEW['study_id']}").get_json()["views"] == ["frontal"]


def test_a_later_film_sent_again_is_answered_as_done(client: FlaskClient) -> None:
    added(client)

    assert [later(client, lateral=film(200)).status_code for _ in range(2)] == [201, 200]
    assert later(client, frontal=film(0)).status_code == 200
    assert code(later(client, lateral=film(201))) == (409, "study_exists")
    assert code(later(client, {**NEW, "age": 61}, lateral=film(200))) == (409, "study_exists")


@pytest.mark.parametrize("other", [{"patient_id": "patient00008"}, {"sex": "Female"}, {"findings": {"Edema": 0}}])
def test_a_later_film_that_says_otherwise_is_refused(
    client: FlaskClient, tmp_path: Path, other: dict[str, Any]
) -> None:
    added(client)

    assert code(later(client, {**NEW, **other}, lateral=film(200))) == (409, "study_exists")
    assert len(list((tmp_path / "films" / "added").rglob("*.png"))) == 1


def test_a_later_film_takes_the_place_of_no_study_that_has_changed_meanwhile(client: FlaskClient) -> None:
    added(client)
    collection = mounted_collection(client)
    stored = collection.retriever.study(NEW["study_id"])
    vector = collection.retriever.embedding(NEW["study_id"])
    whole = joined(stored, replace(stored, frontal_path=None, lateral_path="late.png"))
    assert whole is not None
    assert added(client, {**NEW, "age": 61}, replace="true").status_code == 201

    with pytest.raises(StudyExists, match="changed since its films were read"):
        collection.living.add([Addition(whole, whole.views, vector, stored)])
    assert collection.retriever.study(NEW["study_id"]).age == 61
