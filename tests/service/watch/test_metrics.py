"""What Prometheus collects: requests by rule, stages, batches, rows; no label holds what a request carried."""

import json
import re
from io import BytesIO
from types import SimpleNamespace

import pytest
from flask.testing import FlaskClient
from folders import ROOT
from prometheus_client.parser import text_string_to_metric_families
from service_world import FINGERPRINT, FakeEmbedder, app_over, build_app, build_client, build_mounted, film

from index.search.familiarity import Familiarity
from service.served.batching import BatchingEmbedder
from service.served.mounted import Mounted
from service.state import state_of
from service.watch.metrics import STAGES, Metrics

BOARD = ROOT / "service" / "deploy" / "grafana.json"
Sample = tuple[str, frozenset[tuple[str, str]]]


def scraped(client: FlaskClient) -> dict[Sample, float]:
    """Return every sample by its name and labels."""
    answer = client.get("/metrics")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(client: FlaskClient, name: str, **labels: str) -> float:
    return scraped(client)[name, frozenset(labels.items())]


@pytest.fixture
def client() -> FlaskClient:
    """Return a client of an application whose films go through batches."""

    class Films(FakeEmbedder):
        def read_films(self, frontal: bytes | None, lateral: bytes | None) -> tuple[bytes | None, bytes | None]:
            return frontal, lateral

        def embed(self, studies: list[tuple[bytes | None, bytes | None]]) -> list:
            return [self.embed_study(*one) for one in studies]

    metrics = Metrics()
    batches = BatchingEmbedder(Films(), places=4, metrics=metrics)
    return app_over(build_mounted(embedder=batches), metrics=metrics).test_client()


def test_requests_are_counted_by_the_rule_of_their_route_and_their_status(client: FlaskClient) -> None:
    for study in ("patient00001/study1", "patient00002/study1", "patient00009/study9"):
        client.get(f"/v1/studies/{study}")
    client.get("/nowhere/patient00001")
    client.open("/info", method="MADEUP")

    route = "/v1/studies/{study_id}"
    assert value(client, "precedent_requests_total", route=route, method="GET", status="200") == 2
    assert value(client, "precedent_requests_total", route=route, method="GET", status="404") == 1
    assert value(client, "precedent_requests_total", route="unmatched", method="any", status="404") == 1
    assert value(client, "precedent_request_seconds_count", route=route) == 3
    assert "patient0" not in client.get("/metrics").text
    assert "MADEUP" not in client.get("/metrics").text


def test_a_film_passes_the_stages_of_a_search_and_leaves_the_queue_empty(client: FlaskClient) -> None:
    assert {stage: value(client, "precedent_stage_seconds_count", stage=stage) for stage in STAGES} == dict.fromkeys(
        STAGES, 0
    )
    for _ in range(3):
        assert client.post("/v1/search", data={"frontal": (BytesIO(film(0)), "f.png")}).status_code == 200

    passed = {stage: value(client, "precedent_stage_seconds_count", stage=stage) for stage in STAGES}
    assert passed == {"decode": 3, "wait": 3, "encode": 3, "search": 3, "predict": 0, "explain": 0}
    assert value(client, "precedent_batch_studies_sum") == 3
    assert [value(client, f"precedent_{name}") for name in ("queue_studies", "uploads")] == [0, 0]
    assert value(client, "precedent_requests_in_flight") == 1  # the scrape itself


def test_a_film_that_cannot_be_read_is_timed_and_leaves_the_queue_empty(client: FlaskClient) -> None:
    assert client.post("/v1/search", data={"frontal": (BytesIO(b"torn"), "f.png")}).status_code == 415

    assert value(client, "precedent_stage_seconds_count", stage="encode") >= 1
    assert [value(client, f"precedent_{name}") for name in ("queue_studies", "uploads")] == [0, 0]


def test_what_is_served_is_told_as_it_is_at_the_scrape() -> None:
    app = build_app()
    client = app.test_client()
    version = client.get("/info").get_json()["version"]

    assert value(client, "precedent_rows", collection="main") == 4
    assert value(client, "precedent_tombstones", collection="main") == 0
    assert value(client, "precedent_encoder_info", fingerprint=FINGERPRINT, version=version) == 1
    state_of(app).served.now = Mounted((build_mounted("main"), build_mounted("other")))
    assert value(client, "precedent_rows", collection="other") == 4


def test_films_asked_about_are_counted_by_how_familiar_they_are() -> None:
    class Gate:
        def judge(self, similarity: float | None, layouts: object, *, patient: str | None) -> Familiarity:
            return Familiarity(similarity, 7.0, 100, "layout")

    class Reader:
        gate = Gate()

        def look(self, frontal: bytes | None, lateral: bytes | None) -> SimpleNamespace:
            vector = FakeEmbedder().embed_study(frontal, lateral)
            return SimpleNamespace(vector=vector, layouts=(), notices=())

    client = app_over(build_mounted(reader=Reader())).test_client()
    name = "precedent_query_familiarity_percentile"
    assert value(client, f"{name}_count", collection="main") == 0
    client.post("/v1/search", data={"frontal": (BytesIO(film(0)), "f.png")})
    client.post("/v1/search", json={"study_id": "patient00001/study1"})  # of the collection: no film has come

    counted = [value(client, f"{name}_bucket", collection="main", le=bound) for bound in ("5.0", "10.0", "+Inf")]
    assert counted == [0, 1, 1]


def test_two_applications_count_apart() -> None:
    one, other = build_client(), build_client()
    one.get("/info")

    labels = {"route": "/info", "method": "GET", "status": "200"}
    assert value(one, "precedent_requests_total", **labels) == 1
    assert ("precedent_requests_total", frozenset(labels.items())) not in scraped(other)


def test_every_metric_of_the_grafana_board_is_scraped(client: FlaskClient) -> None:
    client.get("/info")  # a family without a sample is not told
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    shown += [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    shown += re.findall(r"precedent_\w+", (BOARD.parent / "alerts.yml").read_text(encoding="utf-8"))
    named = {name for expression in shown for name in re.findall(r"\b(?:precedent|process)_\w+", expression)}

    here = {name for name in named if not name.startswith(("precedent_follow_", "precedent_pacs_"))}
    assert 12 <= len(here) < len(named)  # the others are of films from a PACS: tests/scripts/pacs/test_watch.py
    assert here <= {name for name, _ in scraped(client)}
