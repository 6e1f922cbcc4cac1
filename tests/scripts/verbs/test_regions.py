"""Search by a part of a film, from the films to the answers of the command line and over HTTP."""

import io
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from command_line import done, json_of, refusal, save_tiny_encoder

from scripts.cli import precedent
from scripts.verbs.judging.pointing import read_boxes
from service.loader import load
from service.served.mounts import Mount

STUDY = "patient00003/study1"
REGION = "0.5,0.5,0.9,0.9"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films, boxes, an encoder that sees the whole film, and an index with feature maps."""
    root = tmp_path_factory.mktemp("regions")
    done("phantom", "--patients", "10", "--seed", "4", "--jobs", "1", "--out", root)
    done("import", "chexpert", root / "train.csv", "--images", root, "--out", root / "studies.parquet")
    save_tiny_encoder(root / "encoder.safetensors", "--fit", "letterbox")
    done("export", *exporting(root), "--regions", "--out", root / "embeddings")
    done("index", root / "embeddings", "--out", root / "index")
    return root


def exporting(root: Path) -> list[str | Path]:
    films = ["--images", root, "--encoder", root / "encoder.safetensors", "--runtime", "torch"]
    return [root / "studies.parquet", *films]


def film(root: Path) -> Path:
    return root / "train" / STUDY / "view1_frontal.jpg"


def test_a_film_and_its_stored_study_find_the_same_places(world: Path) -> None:
    asked = [world / "index", "--region", REGION, "--exact", "-k", "4"]
    encoder = ["--encoder", world / "encoder.safetensors", "--patient", STUDY.split("/")[0]]

    stored = json_of("search", *asked, "--study", STUDY)
    by_film = json_of("search", *asked, "--frontal", film(world), *encoder)

    places = {hit["study_id"]: hit["place"] for hit in stored["hits"]}
    shared = [hit for hit in by_film["hits"] if hit["study_id"] in places]
    assert len(shared) >= 2  # their order also counts the whole study, here with its lateral film and there without
    for hit in shared:
        assert hit["place"]["box"] == places[hit["study_id"]]["box"]
        assert hit["place"]["similarity"] == pytest.approx(places[hit["study_id"]]["similarity"], abs=0.01)
    assert "where" in done("search", *asked, "--study", STUDY).stdout
    other_view = ["search", *asked, "--region-view", "lateral", "--frontal", film(world), *encoder]
    assert "is of the lateral film" in CliRunner().invoke(precedent, list(map(str, other_view))).output


def test_over_http_a_part_of_a_film_or_of_a_stored_study_is_searched_by(world: Path) -> None:
    client = load([Mount("main", world / "index")], world / "encoder.safetensors").test_client()

    def answered(**form: object) -> tuple[int, dict]:
        films = {"frontal": (io.BytesIO(film(world).read_bytes()), "film.jpg")}
        response = client.post("/v1/search", data=films | {"k": "3", **form}, content_type="multipart/form-data")
        return response.status_code, response.get_json()

    status, answer = answered(region=REGION, patient_id=STUDY.split("/")[0])
    stored = client.get(f"/v1/studies/{STUDY}/similar", query_string={"region": REGION, "k": 3}).get_json()
    assert status == 200
    for hit in (*answer["hits"], *stored["hits"]):
        assert (hit["place"]["view"], len(hit["place"]["box"])) == ("frontal", 4)
        assert all(0 <= side <= 1 for side in hit["place"]["box"])
    refused = [answered(region=text) for text in ("0,0,2,1", "half")] + [answered(region=REGION, region_view="lateral")]
    assert {(status, body["error"]["code"]) for status, body in refused} == {(400, "bad_region")}


def test_the_page_shows_where_hits_are_like_a_part_and_what_is_wrong_with_one(world: Path) -> None:
    client = load([Mount("main", world / "index")], world / "encoder.safetensors").test_client()
    films = {"frontal": (io.BytesIO(film(world).read_bytes()), "film.jpg"), "region": REGION}
    kept = client.post("/", data=films, content_type="multipart/form-data").location
    stored = f"/?study={STUDY}&region={REGION}"

    for address in (kept, stored):
        html = client.get(address).text
        assert html.count('<svg class="place"') == html.count("Most alike: ") + 1 > 1  # the query's own
        assert "50 to 90 % across and 50 to 90 % down the frontal film" in html
        assert '<input type="hidden" name="region"' in html  # filters keep it
        assert 'data-tool="region"' in html
    hit = client.get(stored.replace("/?", "/hits?form=json&")).get_json()["hits"][0]
    assert "{:.0f} to {:.0f} % across".format(*(100 * side for side in hit["place"]["box"][::2])) in html
    for address in re.findall(r'class="more" href="([^"]*)"|href="([^"]*)" data-whole-film', html):
        assert "region" not in "".join(address)
    wrong = client.get(f"/?study={STUDY}&region=half")
    assert (wrong.status_code, "data-whole-film" in wrong.text) == (400, True)
    assert 'data-code="bad_region"' in wrong.text


def test_shards_with_and_without_maps_are_never_mixed_and_vectors_are_the_same(world: Path, tmp_path: Path) -> None:
    done("export", *exporting(world), "--out", tmp_path / "plain")

    assert "another regions" in refusal("export", *exporting(world), "--regions", "--out", tmp_path / "plain")
    assert "another regions" in refusal("export", *exporting(world), "--out", world / "embeddings")
    [plain], [kept] = ((folder).glob("shard-*") for folder in (tmp_path / "plain", world / "embeddings"))
    assert pq.read_table(plain)["embedding"].equals(pq.read_table(kept)["embedding"])
    done("index", tmp_path / "plain", "--out", tmp_path / "index")
    line = refusal("search", tmp_path / "index", "--study", STUDY, "--region", REGION)
    assert "export with --regions and index again" in line


def test_studies_that_were_added_are_left_out_and_counted(world: Path, tmp_path: Path) -> None:
    done("snapshot", world / "index", tmp_path / "snapshot")
    done("restore", tmp_path / "snapshot", tmp_path / "index")
    table = pq.read_table(world / "studies.parquet").slice(0, 1)
    renamed = table.set_column(0, "study_id", [["patient99999/study1"]]).set_column(1, "patient_id", [["patient99999"]])
    pq.write_table(renamed, tmp_path / "new.parquet")
    films = ["--images", world, "--encoder", world / "encoder.safetensors", "--runtime", "torch"]

    added = done("add", tmp_path / "index", tmp_path / "new.parquet", *films).stdout
    found = done("search", tmp_path / "index", "--study", STUDY, "--region", REGION, "-k", "2").stdout

    assert "leave the added studies out" in added
    assert "1 studies were left out" in found


def test_boxes_around_findings_judge_it_beside_the_whole_film_and_chance(world: Path, tmp_path: Path) -> None:
    words = ["--images", world, "--boxes", world / "boxes.csv", "--limit", "4"]

    figures = json_of("regions", world / "index", *words)["findings"]

    assert figures["all"]["boxes"] == sum(one["boxes"] for name, one in figures.items() if name != "all")
    assert all(0 <= figures["all"][name]["value"] <= 1 for name in ("region", "region_1", "whole", "in_box"))
    assert 0 < figures["all"]["chance"] < 1
    assert "by the whole film" in done("regions", world / "index", *words).stdout
    (tmp_path / "nih.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n1.png,Mass,10,20,30,40,,,\n")
    assert read_boxes(tmp_path / "nih.csv") == {("1.png", "Mass"): [(10, 20, 40, 60)]}
