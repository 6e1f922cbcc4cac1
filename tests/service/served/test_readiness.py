"""Readiness: the test film's vector and each collection's nearest study stay what they were at start."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from service_world import FakeEmbedder, app_over, build_mounted, build_retriever

from index.search.answer import Answer
from service.errors import Busy
from service.served import readiness
from service.served.mounted import Mounted
from service.state import state_of


class Turning(FakeEmbedder):
    """An embedder whose vectors can be turned, or lost."""

    degrees = 0.0

    def embed_study(self, frontal: bytes | None, lateral: bytes | None) -> npt.NDArray[np.float32]:
        """Return the x axis, turned."""
        return np.array([np.cos(np.radians(self.degrees)), np.sin(np.radians(self.degrees))], np.float32)


@pytest.fixture(autouse=True)
def unkept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every probe try anew."""
    monkeypatch.setattr(readiness, "KEPT_SECONDS", 0.0)


def ready_gauge(client: FlaskClient) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return next(one.value for family in families for one in family.samples if one.name == "precedent_ready")


@pytest.mark.parametrize(("degrees", "status"), [(0.5, 200), (2.0, 200), (3.0, 503), (180.0, 503), (np.nan, 503)])
def test_an_encoder_that_gives_another_vector_than_at_start_is_not_ready(degrees: float, status: int) -> None:
    turning = Turning()
    client = app_over(build_mounted(embedder=turning)).test_client()
    assert client.get("/readyz").get_json()["cosine_to_start"] == 1.0
    assert ready_gauge(client) == 1

    turning.degrees = degrees
    answer = client.get("/readyz")

    assert answer.status_code == status
    assert ready_gauge(client) == (status == 200)
    if status == 503:
        assert answer.get_json()["error"]["message"] == "a test film is not embedded as at start; see the log"
        turning.degrees = 0.0
        assert client.get("/readyz").status_code == 200


def test_a_search_that_finds_another_study_than_at_start_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = build_retriever()
    client = app_over(build_mounted("a"), build_mounted("b", retriever=retriever)).test_client()
    assert client.get("/readyz").status_code == 200
    found = retriever.search(np.array([1, 0], np.float32), 2)

    def second(*_: Any, **__: Any) -> Answer:
        return Answer(found.hits[1:], 4, True)

    monkeypatch.setattr(retriever, "answer", second)

    answer = client.get("/readyz")
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "not_ready")
    assert answer.get_json()["error"]["message"] == "collection 'b' is not searched as at start; see the log"


def test_a_collection_that_was_changed_is_compared_with_what_it_then_gave() -> None:
    app = app_over(build_mounted())
    client = app.test_client()
    first = state_of(app).readiness
    assert client.get("/readyz").status_code == 200
    before = first.nearest["main"]

    state_of(app).served.now = Mounted((build_mounted(retriever=build_retriever("x")),))

    assert client.get("/readyz").status_code == 200
    assert first.nearest["main"].study_id == before.study_id + "x"


def test_a_service_that_is_busy_is_as_ready_as_it_was() -> None:
    turning = Turning()
    client = app_over(build_mounted(embedder=turning)).test_client()

    def busy(*_: Any) -> npt.NDArray[np.float32]:
        raise Busy("expected at most 35 studies at a time, got more; try again")

    whole, turning.embed_study = turning.embed_study, busy  # type: ignore[method-assign]
    assert client.get("/readyz").status_code == 429  # nothing is known yet
    turning.embed_study = whole  # type: ignore[method-assign]
    first = client.get("/readyz").get_json()
    turning.embed_study = busy  # type: ignore[method-assign]

    assert client.get("/readyz").get_json() == first
    assert ready_gauge(client) == 1
