"""An encoder that was never trained, and who says so from export to search."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from command_line import done
from training_films import save_collection

from index.export.reliability import UNTRAINED
from index.table.studies import PATIENTS, PATIENTS_UNKNOWN, load_studies, save_studies
from scripts.verbs.running.doctor import training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the studies, an untrained encoder, and its index."""
    folder = save_collection(tmp_path_factory.mktemp("untrained"))
    small = ("--backbone", "test_efficientnet", "--dim", "256", "--weights", "none", "--size", "64")
    told = done("encoder", "create", *small, "--out", folder / "encoder.safetensors").stdout
    assert UNTRAINED in told
    words = ("--images", folder, "--encoder", folder / "encoder.safetensors", "--out", folder / "embeddings")
    told = done("export", folder / "studies.parquet", *words, "--runtime", "torch").stdout
    assert f"WARNING: {UNTRAINED}" in told
    assert "neighbours: not measured" in told
    assert f"WARNING: {UNTRAINED}" in done("index", folder / "embeddings", "--out", folder / "index").stdout
    return folder


def test_a_search_says_that_the_encoder_was_never_trained(world: Path) -> None:
    words = ("search", world / "index", "--study", "patient00001/study1")

    assert f"WARNING: {UNTRAINED}" in done(*words).stdout
    assert json.loads(done(*words, "--json").stdout)["warning"] == UNTRAINED


@pytest.mark.slow
def test_an_index_from_before_is_told_by_the_encoders_file(world: Path, tmp_path: Path) -> None:
    from index.built.collection import load_collection
    from index.export.shards import MANIFEST, load_manifest
    from index.storage.files import save_json

    manifest = load_manifest(world / "embeddings")
    shutil.copytree(world / "embeddings", tmp_path, dirs_exist_ok=True)
    old = {name: value for name, value in manifest.items() if name not in ("encoder_trained", "agreement")}
    save_json(tmp_path / MANIFEST, old, sealed=True)
    done("index", tmp_path, "--out", tmp_path / "index")
    assert "encoder_trained" not in load_collection(tmp_path / "index").manifest

    film = ("--frontal", world / "1.png", "--encoder", world / "encoder.safetensors")
    assert json.loads(done("search", tmp_path / "index", *film, "--json").stdout)["warning"] == UNTRAINED
    assert (
        json.loads(done("search", tmp_path / "index", "--study", "patient00001/study1", "--json").stdout)["warning"]
        is None
    )


def test_compaction_keeps_what_is_known_of_the_encoder(world: Path) -> None:
    done("delete", world / "index", "patient00002/study2")
    done("compact", world / "index")

    assert json.loads((world / "index" / "manifest.json").read_text())["encoder_trained"] is False


def test_a_service_says_it_in_info_in_answers_and_on_the_page(world: Path) -> None:
    from service.loader import load
    from service.served.mounts import parse_mounts

    client = load(parse_mounts([str(world / "index")]), world / "encoder.safetensors").test_client()

    told = client.get("/info").get_json()["collections"][0]
    assert (told["encoder_trained"], told["warning"]) == (False, UNTRAINED)
    assert client.post("/v1/search", json={"study_id": "patient00001/study1"}).get_json()["warning"] == UNTRAINED
    assert UNTRAINED in client.get("/").text


def test_where_patients_are_unknown_a_search_the_service_and_the_page_say_so(world: Path, tmp_path: Path) -> None:
    from service.loader import load
    from service.served.mounts import parse_mounts

    table = load_studies(world / "studies.parquet")
    save_studies(table.append_column(PATIENTS, pa.array(["unknown"] * len(table))), tmp_path / "studies.parquet")
    encoder = world / "encoder.safetensors"
    words = ("--images", world, "--encoder", encoder, "--out", tmp_path / "embeddings", "--runtime", "torch")
    done("export", tmp_path / "studies.parquet", *words)
    done("index", tmp_path / "embeddings", "--out", tmp_path / "index")

    client = load(parse_mounts([str(tmp_path / "index")]), encoder).test_client()

    assert PATIENTS_UNKNOWN in client.get("/info").get_json()["collections"][0]["warning"]
    assert PATIENTS_UNKNOWN in client.get("/").text
    asked = ("search", tmp_path / "index", "--study", "patient00001/study1")
    assert PATIENTS_UNKNOWN in json.loads(done(*asked, "--json").stdout)["warning"]


def test_doctor_and_info_tell_an_untrained_encoder(world: Path) -> None:
    assert json.loads(done("encoder", "info", world / "encoder.safetensors").stdout)["trained"] is False
    assert training(False).state == "warning"
    assert training(True).state == training(None).state == "ok"
    checks = json.loads(done("doctor", world / "index", "--encoder", world / "encoder.safetensors", "--json").stdout)
    assert {one["state"] for one in checks if one["name"] in ("training", "neighbours")} == {"warning"}


def test_a_map_of_an_untrained_encoder_is_told_as_such(world: Path, tmp_path: Path) -> None:
    asked = ("--study", "patient00001/study1", "--hit", "patient00004/study4", "--no-trust", "--json")

    result = done("explain", world / "index", "--encoder", world / "encoder.safetensors", *asked, "--out", tmp_path)

    assert f"WARNING: {UNTRAINED}" in result.stderr
    assert json.loads(result.stdout)["hit"] == "patient00004/study4"


def test_a_trained_run_says_so(world: Path) -> None:
    from training_films import train_words

    done(*train_words(world, "run.epochs=1"), "--out", world / "run")

    assert json.loads(done("encoder", "info", world / "run" / "encoder.safetensors").stdout)["trained"] is True


@pytest.mark.parametrize("verb", ["add", "probe", "evaluate", "map", "pointing"])
def test_every_verb_that_uses_neighbours_or_a_probe_tells_it(world: Path, tmp_path: Path, verb: str) -> None:
    encoder = ("--images", world, "--encoder", world / "encoder.safetensors")
    (tmp_path / "boxes.csv").write_text("Path,Finding,x0,y0,x1,y1\n0.png,Lung Lesion,9,9,40,40\n")
    learnt = ("probe", world / "embeddings", "--findings", "Lung Lesion", "--cv", "2", "--out", world / "probe")
    done(*learnt) if verb == "pointing" else None
    words: tuple[str | Path, ...] = {
        "add": ("add", world / "index", world / "studies.parquet", *encoder, "--runtime", "torch"),
        "probe": learnt,
        "evaluate": ("evaluate", world / "embeddings", "--out", tmp_path / "eval"),
        "map": ("map", world / "index"),
        "pointing": (
            "pointing",
            world / "studies.parquet",
            *encoder,
            "--boxes",
            tmp_path / "boxes.csv",
            "--probe",
            world / "probe",
            "--method",
            "gradcam",
        ),
    }[verb]

    assert f"WARNING: {UNTRAINED}" in done(*words).stdout
    assert json.loads(done(*words, "--json").stdout)["warning"] == UNTRAINED
