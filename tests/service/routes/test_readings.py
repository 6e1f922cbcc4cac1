"""POST /v1/predict and /v1/explain over a real encoder, probe and films."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import done
from film_files import dicom
from flask.testing import FlaskClient
from flask_openapi3 import OpenAPI
from pyarrow import parquet as pq
from service_world import with_tokens

from encoder.findings.predict import Predictor
from encoder.findings.probe import LinearProbe
from encoder.maps.explain import DEFAULT_METHOD, METHODS
from index.search.familiarity import NO_CALL
from index.table.labels import Labelling
from service.api.requests import MAX_PASSES, ExplainOptions
from service.guard.tokens import create_token
from service.loader import load
from service.served.disconnect import CLIENT_GONE
from service.served.mounts import parse_mounts
from service.state import state_of


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
    return load(parse_mounts([f"{world}/index"]), world / "encoder.safetensors", probe_dir=world / "probe")


@pytest.fixture
def client(app: OpenAPI) -> FlaskClient:
    return app.test_client()


def upload(world: Path, **fields: str) -> dict[str, object]:
    return {"frontal": (world / "train/patient00002/study1/view1_frontal.jpg").open("rb"), **fields}


def test_a_stored_study_gets_probabilities_votes_and_its_place_in_the_collection(client: FlaskClient) -> None:
    answer = client.post("/v1/predict", json={"study_id": "patient00001/study1"}).get_json()

    assert [one["finding"] for one in answer["predictions"]] == sorted(
        ["Edema", "Pleural Effusion"],
        key=lambda name: -next(one["probability"] for one in answer["predictions"] if one["finding"] == name),
    )
    for one in answer["predictions"]:
        assert 0 <= one["probability"] <= 1
        assert one["spread"] is None
        assert 0 <= one["vote"]["low"] <= one["vote"]["share"] <= one["vote"]["high"] <= 1
    assert 0 <= answer["familiarity"]["percentile"] <= 100


def test_the_most_probable_finding_is_mapped_where_that_is_asked_for(client: FlaskClient) -> None:
    study = {"study_id": "patient00001/study1"}

    plain, mapped = (client.post("/v1/predict", json=study | {"map": asked}).get_json() for asked in (False, True))

    first = mapped["predictions"][0]["finding"]
    explained = client.post("/v1/explain", json=study | {"finding": first, "trust": False}).get_json()
    assert plain["maps"] == []
    assert [one["png"] for one in mapped["maps"]] == [one["png"] for one in explained["maps"]] != []


def test_a_call_stands_with_its_reason_and_votes_follow_the_probe(client: FlaskClient, world: Path) -> None:
    answer = client.post("/v1/predict", json={"study_id": "patient00001/study1"}).get_json()
    probe = LinearProbe.load(world / "probe")

    assert answer["labels"] == Labelling.from_object(probe.labels).sentence()
    for one in answer["predictions"]:
        assert one["evidence"] == vars(probe.evidence[one["finding"]])
        assert (one["call"] is None, one["meaning"] is None) == (one["no_call"] is not None,) * 2


def test_nothing_is_called_on_an_unfamiliar_film(client: FlaskClient) -> None:
    stripes = np.tile(np.repeat([0, 255], 8).astype(np.uint8), (256, 16))
    film = io.BytesIO(cv2.imencode(".png", stripes)[1].tobytes())
    answer = client.post("/v1/predict", data={"frontal": (film, "f.png")}).get_json()

    assert answer["familiarity"]["unfamiliar"] is True
    assert {(one["call"], one["no_call"], one["disagrees"]) for one in answer["predictions"]} == {
        (None, NO_CALL, False)
    }


def test_films_can_be_looked_at_five_ways_with_a_spread_and_a_contrast(client: FlaskClient, world: Path) -> None:
    fields = {"tta": "true", "dropout_passes": "4", "finding": "Edema"}

    answer = client.post("/v1/predict", data=upload(world, **fields)).get_json()

    assert all(one["spread"] >= 0 for one in answer["predictions"])
    assert answer["contrast"]["finding"] == "Edema"
    present = answer["contrast"]["present"]
    assert present["study"]["findings"]["Edema"] == 1


def test_dropout_is_bounded_by_the_limit_of_the_api(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"study_id": "patient00001/study1", "tta": True}
    counted = _count_passes(monkeypatch)

    most = client.post("/v1/predict", json={**asked, "dropout_passes": MAX_PASSES})
    assert (most.status_code, counted) == (200, [(MAX_PASSES, 5)])
    for beyond in (MAX_PASSES + 1, 10**9, -1):
        refused = client.post("/v1/predict", json={**asked, "dropout_passes": beyond})
        assert refused.status_code == 400
        assert refused.get_json()["error"]["message"].startswith("dropout_passes: expected")
    assert len(counted) == 1


def test_test_time_augmentation_is_five_looks_and_no_number_of_the_callers(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"study_id": "patient00001/study1"}
    counted = _count_passes(monkeypatch)

    answer = client.post("/v1/predict", json={**asked, "tta": True}).get_json()
    assert (counted, len(answer["predictions"])) == ([(0, 5)], 2)
    for looks in (2, 1000, "many"):
        refused = client.post("/v1/predict", json={**asked, "tta": looks})
        assert refused.status_code == 400
        assert refused.get_json()["error"]["message"].startswith("tta: expected")
    assert len(counted) == 1


def _count_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the list of (dropout passes, looks) that fills with each prediction from films."""
    counted: list[tuple[int, int]] = []
    predict = Predictor.predict

    def counting(self: Predictor, films: Any, options: Any = None) -> Any:
        counted.append((options.passes, len(options.variants)))
        return predict(self, films, options)

    monkeypatch.setattr(Predictor, "predict", counting)
    return counted


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
        ("predict", {"finding": "frontal_path"}, 400, "label of this collection"),
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
    client = load(parse_mounts([f"{world}/index"]), world / "encoder.safetensors").test_client()

    voted = client.post("/v1/predict", json={"study_id": "patient00001/study1"}).get_json()
    refused = client.post("/v1/explain", json={"study_id": "patient00001/study1", "finding": "Edema"})

    assert all(one["probability"] is None for one in voted["predictions"])
    assert any(one["vote"] for one in voted["predictions"])
    assert refused.status_code == 409
    assert "--probe" in refused.get_json()["error"]["message"]


@pytest.fixture(scope="module")
def pair(world: Path) -> FlaskClient:
    """Return a client of all studies, and of the first six under another name."""
    pq.write_table(pq.read_table(world / "studies.parquet").slice(0, 6), world / "few.parquet")
    films = [world / "few.parquet", "--images", world, "--encoder", world / "encoder.safetensors"]
    done("export", *films, "--runtime", "torch", "--out", world / "few-embeddings")
    done("index", world / "few-embeddings", "--out", world / "few")
    mounts = parse_mounts([f"all={world}/index", f"few={world}/few"])
    return load(mounts, world / "encoder.safetensors", probe_dir=world / "probe").test_client()


def test_the_neighbours_that_vote_are_of_the_collection_asked(pair: FlaskClient) -> None:
    body = {"study_id": "patient00001/study1", "k": 100}
    answers = [pair.post("/v1/predict", json={**body, "collection": name}).get_json() for name in ("few", "all")]

    few, many = (max(one["vote"]["neighbours"] for one in answer["predictions"]) for answer in answers)
    assert few <= 5 < many


@pytest.mark.parametrize("route", ["predict", "explain"])
def test_a_study_of_another_collection_is_not_read(pair: FlaskClient, route: str) -> None:
    body = {"study_id": "patient00016/study1", "finding": "Edema"}

    assert pair.post(f"/v1/{route}", json=body).status_code == 200
    assert pair.post(f"/v1/{route}", json={**body, "collection": "few"}).status_code == 404


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

    assert answer["familiarity"]["sentence"].startswith("100.0 % of the collection's films look at least as unusual")


def test_a_stored_study_is_told_so_too_unless_a_filter_hides_what_is_nearest(client: FlaskClient) -> None:
    study = {"study_id": "patient00001/study1"}
    only = {"must": [{"key": "age", "range": {"gte": 0}}]}

    posted, filtered = (client.post("/v1/search", json=study | words).get_json() for words in ({}, {"filter": only}))
    read = client.get("/v1/studies/patient00001/study1/similar").get_json()

    assert posted["familiarity"]["sentence"].startswith("the most similar study has a similarity of")
    assert read["familiarity"] == posted["familiarity"]
    assert filtered["familiarity"] is None


def test_the_api_names_every_method_that_the_encoder_has() -> None:
    schema = ExplainOptions.model_json_schema()["properties"]["method"]
    assert (schema["default"], tuple(schema["enum"])) == (DEFAULT_METHOD, METHODS)


def test_the_searches_of_a_prediction_are_timed_as_searches(client: FlaskClient) -> None:
    def searches() -> int:
        line = next(one for one in client.get("/metrics").text.splitlines() if 'seconds_count{stage="search"}' in one)
        return int(float(line.split()[-1]))

    before = searches()
    for asked, count in (({}, 1), ({"finding": "Edema"}, 3)):
        client.post("/v1/predict", json={"study_id": "patient00001/study1", **asked})
        assert searches() - before == count


def figures(answer: Any) -> list[float]:
    """Return every figure of an answer that is no fact of a study and no size of a map."""
    if isinstance(answer, dict):
        left_out = ("study", "findings", "extra", "thresholds", "width", "height")
        return [one for name, inner in answer.items() if name not in left_out for one in figures(inner)]
    if isinstance(answer, list):
        return [one for inner in answer for one in figures(inner)]
    return [answer] if isinstance(answer, float) else []


def test_a_reader_is_told_figures_as_the_page_shows_them_and_asks_about_a_few_studies_a_day(
    app: OpenAPI, client: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"Authorization": f"Bearer {create_token(tmp_path / 'tokens.json', 'reader', ['read'])}"}
    study, hit = {"study_id": "patient00001/study1"}, {"hit": "patient00002/study1"}
    asked = [("/v1/predict", study | {"finding": "Edema"}), ("/v1/explain", study | hit)]
    exact = [client.post(path, json=one).get_json() for path, one in asked]
    monkeypatch.setattr(state_of(app).budget, "_a_day", 1)
    reader = with_tokens(app, tmp_path / "tokens.json").test_client()
    told = [reader.post(path, json=one, headers=own).get_json() for path, one in asked]
    other = reader.post("/v1/predict", json={"study_id": "patient00002/study1"}, headers=own)

    assert [figures(answer) == [round(one, 2) for one in figures(answer)] for answer in told] == [True, True]
    assert [figures(answer) == [round(one, 2) for one in figures(answer)] for answer in exact] == [False, False]
    assert told[1]["value"] == round(exact[1]["value"], 2)
    assert other.status_code == 429


def sent(world: Path, frontal: str, lateral: str) -> dict[str, object]:
    study = world / "train/patient00002/study1"
    return {"frontal": (study / frontal).open("rb"), "lateral": (study / lateral).open("rb")}


@pytest.mark.parametrize("route", ["/v1/search", "/v1/predict"])
def test_a_film_in_both_places_is_told_beside_the_answer(client: FlaskClient, world: Path, route: str) -> None:
    twice = client.post(route, data=sent(world, "view1_frontal.jpg", "view1_frontal.jpg")).get_json()
    stored = client.post(route, json={"study_id": "patient00001/study1"}).get_json()

    assert twice["film_notices"] == [
        "The same film was given as frontal and as lateral. Remove one, or give the other view instead."
    ]
    assert stored["film_notices"] == []


@pytest.mark.parametrize("route", ["/", "/v1/search", "/v1/predict", "/v1/explain", "/v1/embeddings"])
def test_films_of_two_patients_are_refused_wherever_they_are_sent(client: FlaskClient, route: str) -> None:
    films = {view: (io.BytesIO(dicom(PatientID=view)), f"{view}.dcm") for view in ("frontal", "lateral")}
    response = client.post(route, data=films | ({"finding": "Edema"} if route == "/v1/explain" else {}))

    assert response.status_code == 422
    assert "of two patients" in response.text
    if route != "/":
        assert response.get_json()["error"]["code"] == "two_patients"


def test_the_page_of_an_unfamiliar_film_says_so_without_a_script(client: FlaskClient, world: Path) -> None:
    stripes = cv2.imencode(".png", np.tile(np.array([[30] * 40 + [220] * 40], np.uint8), (400, 5)))[1].tobytes()
    strange = client.post("/", data={"frontal": (io.BytesIO(stripes), "stripes.png")}, follow_redirects=True).text
    own = client.post("/", data=upload(world), follow_redirects=True).text

    assert 'collection lacks.">Unfamiliar film: it may not be a chest film' in strange
    assert 'collection lacks." hidden>' in own
    assert 'collection lacks." hidden>' in client.get("/?study=patient00001/study1").text


@pytest.mark.parametrize("method", [DEFAULT_METHOD, "gradient_shap"])
def test_a_map_is_given_up_between_two_passes_once_its_reader_has_gone(
    client: FlaskClient, world: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    query = client.post("/v1/queries", data=upload(world)).get_json()["query"]
    told: list[Any] = []

    def gone() -> bool:
        told.append(client.application.test_client().get(f"/v1/queries/{query}").get_json()["working"])
        return len(told) > 3

    asked = {"query": query, "finding": "Edema", "method": method}
    answer = client.post("/v1/explain", json=asked, environ_overrides={CLIENT_GONE: gone})

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (499, "client_gone")
    states = [(one["work"], one["state"], one["passes"]) for [one] in told]
    assert states == [("explain", "waiting", 0), *(("explain", "running", done) for done in range(3))]
    assert client.get(f"/v1/queries/{query}").get_json()["working"] == []


def test_films_that_are_kept_are_read_as_films_that_are_sent(client: FlaskClient, world: Path) -> None:
    query = client.post("/v1/queries", data=upload(world)).get_json()["query"]
    for path, fields in (
        ("/v1/predict", {}),
        ("/v1/predict", {"tta": True}),
        ("/v1/explain", {"finding": "Edema", "trust": False}),
    ):
        kept = client.post(path, json={"query": query, **fields}).get_json()
        sent = client.post(path, data=upload(world, **{name: str(value) for name, value in fields.items()})).get_json()

        assert kept == sent


def test_a_header_fills_in_what_is_known_and_its_patient_is_left_out_and_never_told(
    client: FlaskClient, world: Path
) -> None:
    film = cv2.imread(str(world / "train/patient00002/study1/view1_frontal.jpg"), cv2.IMREAD_GRAYSCALE)
    known = {"PatientSex": "F", "PatientAge": "061Y", "ViewPosition": "PA", "BodyPartExamined": "CHEST"}
    named, unnamed = (dicom(film, PatientID=patient, **known) for patient in ("patient00002", "SECRET"))
    answers = [
        client.post("/v1/queries", data={"frontal": (io.BytesIO(one), "SECRET.dcm")}) for one in (named, unnamed)
    ]
    query, other = (answer.get_json() for answer in answers)
    hits = client.post("/v1/search", json={"query": query["query"], "k": 100}).get_json()["hits"]
    everyone = client.post("/v1/search", json={"query": other["query"], "k": 100}).get_json()["hits"]
    page = client.get(f"/?query={other['query']}").text

    assert (query["sex"], query["age"], query["projection"], query["patient_known"]) == ("Female", 61.0, "PA", True)
    assert "patient00002" not in {hit["patient_id"] for hit in hits}
    assert "patient00002" in {hit["patient_id"] for hit in everyone}
    assert "SECRET" not in answers[1].text + page
    assert "Female &middot;" in page or "Female ·" in page
    assert "Stored studies of this patient are left out." in page


def test_films_go_to_the_place_that_their_headers_name_where_that_is_allowed(client: FlaskClient, world: Path) -> None:
    film = cv2.imread(str(world / "train/patient00002/study1/view1_frontal.jpg"), cv2.IMREAD_GRAYSCALE)
    lateral = dicom(film, ViewPosition="LL", BodyPartExamined="CHEST")

    def sent(**fields: str) -> Any:
        return client.post("/v1/queries", data={"frontal": (io.BytesIO(lateral), "f.dcm"), **fields}).get_json()

    assert (sent()["views"], sent(sort="true")["views"]) == (["frontal"], ["lateral"])
    exchanged = client.post(f"/v1/queries/{sent()['query']}/mend", json={"mend": "exchange"})
    assert (exchanged.status_code, exchanged.get_json()["views"]) == (201, ["lateral"])


def test_a_film_that_lies_turned_is_told_set_right_and_known_as_one_of_the_collection(
    client: FlaskClient, world: Path
) -> None:
    [study, *_] = [one for one in sorted(world.glob("train/*/study*")) if len(list(one.iterdir())) == 1]
    upright = cv2.imread(str(study / "view1_frontal.jpg"), cv2.IMREAD_GRAYSCALE)
    wrong = cv2.imencode(".png", np.ascontiguousarray(np.rot90(255 - upright)))[1].tobytes()
    query = client.post("/v1/queries", data={"frontal": (io.BytesIO(wrong), "wrong.png")}).get_json()
    page = client.get(f"/?query={query['query']}").text
    [found] = query["mends"]
    right = client.post(f"/v1/queries/{query['query']}/mend", json={name: found[name] for name in ("mend", "view")})

    assert (found["mend"], found["view"], query["stored_as"]) == ("invert-turn90", "frontal", None)
    assert f'data-mend="{found["mend"]}"' in page
    assert "seems to be turned and to be a negative" in page
    assert right.get_json()["mends"] == []
    shown = client.get(f"/v1/queries/{right.get_json()['query']}/image").data
    pixels = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(pixels, upright)
    assert right.get_json()["stored_as"] == f"{study.parent.name}/{study.name}"
    missing = client.post(f"/v1/queries/{query['query']}/mend", json={"mend": "invert", "view": "lateral"})
    assert missing.get_json()["error"]["code"] == "image_missing"
