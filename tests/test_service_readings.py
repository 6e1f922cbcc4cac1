"""POST /v1/predict and /v1/explain over a real encoder, probe and films."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import done
from flask.testing import FlaskClient
from flask_openapi3 import OpenAPI

from encoder.explain import METHODS
from service.loader import load
from service.schemas import ExplainOptions


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films, a tiny encoder, an index and a probe."""
    root = tmp_path_factory.mktemp("readings")
    done("phantom", "--patients", "16", "--seed", "4", "--out", root)
    done("import", "chexpert", root / "train.csv", "--images", root, "--out", root / "studies.parquet")
    tiny = ["--backbone", "test_efficientnet", "--dim", "256", "--weights", "none", "--size", "64", "--dropout", "0.3"]
    done("encoder", "create", *tiny, "--out", root / "encoder.safetensors")
    films = [root / "studies.parquet", "--images", root, "--encoder", root / "encoder.safetensors"]
    done("export", *films, "--runtime", "torch", "--out", root / "embeddings")
    done("index", root / "embeddings", "--out", root / "index")
    done("probe", root / "embeddings", "--cv", "2", "--findings", "Pleural Effusion,Edema", "--out", root / "probe")
    return root


@pytest.fixture(scope="module")
def app(world: Path) -> OpenAPI:
    return load(world / "index", world / "encoder.safetensors", probe_dir=world / "probe")


@pytest.fixture
def client(app: OpenAPI) -> FlaskClient:
    return app.test_client()


def upload(world: Path, **fields: str) -> dict[str, object]:
    return {"frontal": (world / "train/patient00002/study1/view1_frontal.jpg").open("rb"), **fields}


def test_a_stored_study_gets_probabilities_votes_and_its_place_in_the_collection(client: FlaskClient) -> None:
    answer = client.post("/v1/predict", json={"study_id": "patient00001/study1"}).get_json()

    assert [one["finding"] for one in answer["predictions"]] == sorted(
        ["Edema", "Pleural Effusion"], key=lambda name: -next(
            one["probability"] for one in answer["predictions"] if one["finding"] == name
        )
    )  # fmt: skip
    for one in answer["predictions"]:
        assert 0 <= one["probability"] <= 1
        assert one["spread"] is None
        assert 0 <= one["vote"]["low"] <= one["vote"]["share"] <= one["vote"]["high"] <= 1
    assert 0 <= answer["familiarity"]["percentile"] <= 100


def test_films_can_be_looked_at_five_ways_with_a_spread_and_a_contrast(client: FlaskClient, world: Path) -> None:
    fields = {"tta": "true", "dropout_passes": "4", "finding": "Edema"}

    answer = client.post("/v1/predict", data=upload(world, **fields)).get_json()

    assert all(one["spread"] >= 0 for one in answer["predictions"])
    assert answer["contrast"]["finding"] == "Edema"
    present = answer["contrast"]["present"]
    assert present["study"]["findings"]["Edema"] == 1


@pytest.mark.parametrize("aim", [{"finding": "Edema"}, {"hit": "patient00003/study1"}])
def test_maps_come_at_the_films_own_geometry(client: FlaskClient, world: Path, aim: dict[str, str]) -> None:
    answer = client.post(
        "/v1/explain", json={"study_id": "patient00001/study1", "method": "layercam", **aim}
    ).get_json()

    assert {one["side"] for one in answer["maps"]} == ({"query"} if "finding" in aim else {"query", "hit"})
    for one in answer["maps"]:
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(one["png"]), np.uint8), cv2.IMREAD_UNCHANGED)
        assert picture.shape == (one["height"], one["width"])
    film = cv2.imread(str(world / "train/patient00001/study1/view1_frontal.jpg"), cv2.IMREAD_GRAYSCALE)
    frontal = next(one for one in answer["maps"] if (one["side"], one["view"]) == ("query", "frontal"))
    assert (frontal["height"], frontal["width"]) == film.shape
    assert "random_deletion" in frontal


@pytest.mark.parametrize(
    ("route", "body", "status", "words"),
    [
        ("explain", {"finding": "Ghost"}, 400, "one of the probe (Pleural Effusion, Edema)"),
        ("explain", {"finding": "Edema", "method": "tarot"}, 400, "gradcam"),
        ("explain", {}, 400, "either a finding or a hit"),
        ("explain", {"hit": "patient99999/study1"}, 404, "patient99999/study1"),
        ("predict", {"finding": "Ghost"}, 400, "label of this collection"),
        ("predict", {"dropout_passes": 1}, 400, "at least 2"),
        ("predict", {"k": 0}, 400, "k:"),
    ],
)
def test_what_cannot_be_read_gets_one_sentence(
    client: FlaskClient, route: str, body: dict[str, object], status: int, words: str
) -> None:
    answer = client.post(f"/v1/{route}", json={"study_id": "patient00001/study1", **body})

    assert answer.status_code == status
    assert words in answer.get_json()["error"]["message"]


def test_a_stored_study_whose_film_is_gone_is_told(client: FlaskClient, world: Path) -> None:
    gone = world / "train/patient00004/study1/view1_frontal.jpg"
    content = gone.read_bytes()
    gone.unlink()
    answer = client.post("/v1/explain", json={"study_id": "patient00004/study1", "finding": "Edema"})
    gone.write_bytes(content)

    assert answer.status_code == 404
    assert answer.get_json()["error"]["code"] == "image_missing"


def test_without_a_probe_the_neighbours_vote_and_maps_of_findings_are_refused(world: Path) -> None:
    client = load(world / "index", world / "encoder.safetensors").test_client()

    voted = client.post("/v1/predict", json={"study_id": "patient00001/study1"}).get_json()
    refused = client.post("/v1/explain", json={"study_id": "patient00001/study1", "finding": "Edema"})

    assert all(one["probability"] is None for one in voted["predictions"])
    assert any(one["vote"] for one in voted["predictions"])
    assert refused.status_code == 409
    assert "--probe" in refused.get_json()["error"]["message"]


def test_requests_at_the_same_time_get_what_each_gets_alone(app: OpenAPI) -> None:
    def ask(number: int) -> tuple[object, object]:
        client, study = app.test_client(), f"patient{number:05d}/study1"
        spread = client.post("/v1/predict", json={"study_id": study, "dropout_passes": 3}).get_json()["predictions"]
        maps = client.post("/v1/explain", json={"study_id": study, "finding": "Edema", "trust": False}).get_json()
        return [round(one["spread"], 5) for one in spread], round(maps["value"], 4)

    numbers = range(1, 7)
    alone = [ask(number) for number in numbers]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, numbers)) == alone


def test_an_uploaded_film_is_told_how_familiar_it_is(client: FlaskClient, world: Path) -> None:
    answer = client.post("/v1/search", data=upload(world, k="1")).get_json()

    assert answer["familiarity"]["sentence"].startswith("its nearest study is at")
    assert client.post("/v1/search", json={"study_id": "patient00001/study1"}).get_json().get("familiarity") is None


def test_the_api_names_every_method_that_the_encoder_has() -> None:
    schema = ExplainOptions.model_json_schema()["properties"]["method"]
    assert tuple(schema["enum"]) == METHODS
