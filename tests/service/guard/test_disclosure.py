"""What a token of the scope `read` is told of how alike studies are, how often, and how far that tells a vector."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flask import g
from flask.testing import FlaskClient
from flask_openapi3 import OpenAPI
from service_world import FINGERPRINT, FakeEmbedder, app_over, build_app, film, study_row, with_tokens
from werkzeug.test import TestResponse

from index.built.collection import Collection
from index.built.vector_index import VectorIndex
from index.search.retriever import Retriever
from index.table.studies import as_studies, studies_schema
from scripts.benches.drawn import Drawn
from service.context import Call
from service.guard.disclosure import DAY, READ_HITS, Budget, coordinate, floor_of, rounded
from service.guard.tokens import create_token
from service.limits import Limits
from service.served.mounted import MountedCollection

STUDY, OTHER = "patient00001/study1", "patient00002/study1"
"""20 degrees apart: a cosine of 0.939693."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


class Holder:
    """A client with a token of its own."""

    def __init__(self, client: FlaskClient, path: Path, *scopes: str) -> None:
        self._client, self._own = client, {"Authorization": f"Bearer {create_token(path, '-'.join(scopes), scopes)}"}

    def get(self, address: str, **query: Any) -> TestResponse:
        """Ask with a query, a filter as JSON."""
        return self._client.get(address, query_string=query, headers=self._own)

    def post(self, address: str, **asked: Any) -> TestResponse:
        """Ask with a JSON body."""
        return self._client.post(address, json=asked, headers=self._own)

    def upload(self, content: bytes) -> TestResponse:
        """Search by a film."""
        form = {"frontal": (BytesIO(content), "f.png")}
        return self._client.post("/v1/search", data=form, headers=self._own)


def holders(path: Path, **limits: Any) -> tuple[Holder, Holder]:
    """Return who reads, and who reads vectors too, of the four studies."""
    create_token(path, "nobody", ["metrics"])
    client = with_tokens(build_app(**limits), path).test_client()
    return Holder(client, path, "read"), Holder(client, path, "read", "vectors")


def similarity(answer: TestResponse, of: str = OTHER) -> float:
    return float({hit["study_id"]: hit["similarity"] for hit in answer.get_json()["hits"]}[of])


def test_a_reader_is_told_two_decimals_and_who_holds_vectors_all(path: Path) -> None:
    reader, whole = holders(path)
    for ask in (
        lambda one: one.get(f"/v1/studies/{STUDY}/similar"),
        lambda one: one.post("/v1/search", study_id=STUDY),
    ):
        assert (similarity(ask(reader)), similarity(ask(whole))) == (0.94, 0.939693)
    assert similarity(reader.upload(film(0))) == round(similarity(whole.upload(film(0))), 2)
    assert similarity(build_app().test_client().get(f"/v1/studies/{STUDY}/similar")) == 0.939693


def test_the_page_tells_a_reader_no_more(path: Path) -> None:
    reader, whole = holders(path)

    assert 'data-similarity="0.94"' in reader.get("/", study=STUDY).text
    assert "0.939" not in reader.get("/", study=STUDY).text
    assert 'data-similarity="0.939693"' in whole.get("/", study=STUDY).text


@pytest.mark.parametrize(
    ("bound", "found"), [(0.93, True), (0.9396, True), (0.94, True), (0.9401, False), (0.95, False)]
)
def test_a_bound_on_similarities_tells_a_reader_no_more_than_they_do(path: Path, bound: float, found: bool) -> None:
    reader, _ = holders(path)
    answer = reader.get(f"/v1/studies/{STUDY}/similar", min_similarity=bound)

    assert (OTHER in {hit["study_id"] for hit in answer.get_json()["hits"]}) == found


def test_a_reader_may_have_a_hundred_hits_at_once(path: Path) -> None:
    reader, whole = holders(path)
    for ask, expected in ((reader, 403), (whole, 200)):
        assert ask.get(f"/v1/studies/{STUDY}/similar", k=READ_HITS).status_code == 200
        assert ask.get(f"/v1/studies/{STUDY}/similar", k=READ_HITS + 1).status_code == expected
        assert ask.post("/v1/search", study_id=STUDY, k=1000).status_code == expected
    assert reader.post("/v1/predict", study_id=STUDY, k=READ_HITS + 1).status_code == 403
    assert [one.get("/info").get_json()["limits"]["k"] for one in (reader, whole)] == [READ_HITS, 1000]


def test_a_reader_may_ask_about_so_many_studies_and_films_a_day(path: Path) -> None:
    reader, whole = holders(path, queries_a_day=2)
    assert reader.upload(film(0)).status_code == reader.get("/", study=STUDY).status_code == 200
    beyond = [reader.upload(film(9)), reader.post("/v1/search", study_id=OTHER), reader.get("/", study=OTHER)]

    assert [answer.status_code for answer in beyond] == [429] * 3
    assert 86_000 < int(beyond[0].headers["Retry-After"]) <= DAY
    assert reader.get(f"/v1/studies/{STUDY}/similar", k=3).status_code == 200  # about which was asked before
    assert reader.get(f"/v1/studies/{OTHER}").status_code == 200  # which says nothing of a likeness
    assert whole.get("/", study=OTHER).status_code == 200


def test_a_day_later_there_is_room_again() -> None:
    clock = [0.0]
    budget = Budget(2, lambda: clock[0])

    assert [budget.wait("a", query) for query in (b"1", b"1", b"2", b"3")] == [0, 0, 0, DAY]
    assert budget.wait("b", b"3") == 0
    clock[0] = DAY - 1
    assert [budget.wait("a", b"2"), budget.wait("a", b"3")] == [0, 1]
    clock[0] = DAY
    assert [budget.wait("a", b"3"), budget.wait("a", b"4") > 0] == [0, False]


def test_figures_are_rounded_wherever_they_stand_and_what_is_known_of_a_study_is_not(path: Path) -> None:
    app = build_app()
    answer = {
        "predictions": [
            {"probability": 0.12345, "vote": {"share": 0.777, "effective": 7.77}, "thresholds": {"youden": 0.333}}
        ],
        "familiarity": {"percentile": 37.388},
        "value": -0.98765,
        "contrast": {"present": {"study": {"age": 60.25, "extra": {"value": 0.12345}}, "similarity": 0.9396}},
    }
    told = json.loads(json.dumps(answer).replace('0.12345, "vote', '0.12, "vote').replace("0.777", "0.78"))
    told["predictions"][0]["vote"]["effective"] = 7.8
    told |= {"familiarity": {"percentile": 37.4}, "value": -0.99}
    told["contrast"]["present"]["similarity"] = 0.94
    with app.test_request_context():
        g.call = Call(exact=True)
        assert rounded(answer) == answer
        g.call = Call(scopes=("read",))
        assert rounded(answer) == told
        assert (coordinate(0.123456), floor_of(0.5)) == (0.123, pytest.approx(0.49))
    assert floor_of(0.5) == 0.5


DIM, KNOWN, ASKED = 512, 3_000, 20
SCATTER = 1e-4 / 12
"""Variance of what rounding to two decimals takes away."""


def served(vectors: np.ndarray, **limits: Any) -> OpenAPI:
    """Return the service over them; the unknown ones are men's, so that a filter finds them."""
    names = [f"patient{number:05d}/study1" for number in range(len(vectors))]
    rows = [study_row(name, sex="Female" if number < KNOWN else "Male") for number, name in enumerate(names)]
    studies = as_studies(pa.Table.from_pylist(rows, studies_schema([pa.field("Etiology", pa.string())])))
    manifest = {"fingerprint": FINGERPRINT, "kind": "flat", "recall_at_10": 1.0}
    retriever = Retriever(Collection(manifest, studies, VectorIndex.build(vectors, "flat")))
    return app_over(MountedCollection("main", retriever, FakeEmbedder()), limits=Limits(calls_at_once=10**6, **limits))


def reconstructed(vectors: np.ndarray, holder: Holder, queries: int) -> tuple[float, int]:
    """Return the mean cosine of an attacker's guesses to unknown vectors, and how many queries were answered.

    The attacker has the encoder's file, and so the vectors of 3,000 films and how such vectors scatter, and asks for
    the similarity of each unknown study to as many of them as may be. The guess is the mean of a Gaussian under these.
    """
    known, unknown = vectors[:KNOWN].astype(np.float64), vectors[KNOWN:].astype(np.float64)
    men = json.dumps({"must": [{"key": "sex", "match": {"value": "Male"}}]})
    seen: list[list[float]] = []
    for number in range(queries):
        answer = holder.get(f"/v1/studies/patient{number:05d}/study1/similar", k=ASKED, filter=men)
        if answer.status_code == 429:
            break
        told = {hit["study_id"]: hit["similarity"] for hit in answer.get_json()["hits"]}
        seen.append([told[name] for name in sorted(told)])
    asked, mean, scatter = known[: len(seen)], known.mean(axis=0), np.cov(known.T)
    noise = (SCATTER if max(map(len, map(str, seen[0]))) < 6 else 1e-13) * np.eye(len(seen))
    weights = np.linalg.solve(asked @ scatter @ asked.T + noise, asked @ scatter)
    guessed = mean + (np.array(seen).T - mean @ asked.T) @ weights
    guessed /= np.linalg.norm(guessed, axis=1, keepdims=True)
    return float((guessed * unknown).sum(axis=1).mean()), len(seen)


LEAKS = [
    ("a day of a reader", ("read",), {}, 1_000, 200, (0.96, 0.98)),
    pytest.param(
        *("five days of a reader", ("read",), {"queries_a_day": 1_000}, 1_000, 1_000, (0.985, 0.993)),
        marks=pytest.mark.long,
    ),
    ("a day, were they exact", ("read", "vectors"), {}, 200, 200, (0.975, 0.99)),
    ("exact similarities", ("read", "vectors"), {}, 600, 600, (0.999999, 1.000001)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("who", "scopes", "limits", "asked", "answered", "reached"), LEAKS)
def test_a_persistent_reader_comes_near_a_vector_and_not_to_it(
    path: Path,
    who: str,
    scopes: tuple[str, ...],
    limits: dict[str, int],
    asked: int,
    answered: int,
    reached: tuple[float, float],
) -> None:
    vectors = np.concatenate(list(Drawn(KNOWN + ASKED, DIM).blocks()))
    create_token(path, "nobody", ["metrics"])
    holder = Holder(with_tokens(served(vectors, **limits), path).test_client(), path, *scopes)
    cosine, queries = reconstructed(vectors, holder, asked)

    nearest = float((vectors[KNOWN:] @ vectors[:KNOWN].T).max(axis=1).mean())
    print(f"\n{who}: cosine {cosine:.6f} after {queries} queries; the nearest known vector is at {nearest:.3f}")
    assert queries == answered
    assert reached[0] < cosine < reached[1]
