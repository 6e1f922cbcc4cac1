"""Films that two versions of the reading have read: who tells it, and who refuses to mix them."""

import io
import json
import shutil
from pathlib import Path

import pytest
from command_line import done, refusal
from training_films import save_collection

from encoder.films.image import READING
from index.built.collection import MANIFEST, load_collection, load_index_manifest
from index.errors import ArtefactError
from index.export.reliability import warning_of
from index.storage.files import save_json
from service.loader import load
from service.served.mounts import parse_mounts

OLD = "read by version 1 of the reading and films are now read by version 3"
UNNAMED = "read by version 1, as none is named, of the reading"
SMALL = ("--backbone", "test_efficientnet", "--dim", "256", "--weights", "none", "--size", "64")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films, encoder, index/ of now, and old/, whose films version 1 has read."""
    root = save_collection(tmp_path_factory.mktemp("readings"))
    done("encoder", "create", *SMALL, "--out", root / "encoder.safetensors")
    read = ("--images", root, "--encoder", root / "encoder.safetensors", "--runtime", "torch")
    done("export", root / "studies.parquet", *read, "--out", root / "embeddings")
    done("index", root / "embeddings", "--out", root / "index")
    return with_reading(root, 1)


def with_reading(root: Path, version: int | None) -> Path:
    """Make old/ the index of the world, said to be read by a version, or by none."""
    shutil.copytree(root / "index", root / "old", dirs_exist_ok=True)
    manifest = load_index_manifest(root / "index") | {"reading": version}
    save_json(
        root / "old" / MANIFEST, {key: value for key, value in manifest.items() if value is not None}, sealed=True
    )
    return root


def adding(world: Path, index: Path) -> list[str | Path]:
    read = ("--images", world, "--encoder", world / "encoder.safetensors", "--runtime", "torch")
    return ["add", index, world / "studies.parquet", *read]


def test_the_version_of_the_reading_travels_into_the_index(world: Path) -> None:
    assert load_collection(world / "index").manifest["reading"] == READING
    done("compact", world / "old")
    assert load_collection(world / "old").manifest["reading"] == 1


def test_a_search_and_an_index_tell_that_another_version_read_the_films(world: Path) -> None:
    words = ("--frontal", world / "0.png", "--encoder", world / "encoder.safetensors", "--json")
    warning = json.loads(done("search", world / "old", *words).stdout)["warning"]

    assert OLD in warning
    assert "export and index again" in warning
    assert f"WARNING: {warning}" in done("search", world / "old", *words[:-1]).stdout
    assert OLD not in str(json.loads(done("search", world / "index", *words).stdout)["warning"])
    checks = json.loads(done("doctor", world / "old", "--encoder", world / "encoder.safetensors", "--json").stdout)
    assert [one["state"] for one in checks if one["name"] == "reading"] == ["warning"]


def test_add_refuses_to_mix_readings_unless_it_is_told_to(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "old", tmp_path / "old")
    told = refusal(*adding(world, tmp_path / "old"))

    assert OLD in told
    assert told.endswith("precedent add --mix-readings adds nevertheless")
    found = json.loads(done(*adding(world, tmp_path / "old"), "--mix-readings", "--json").stdout)
    assert (found["already_there"], OLD in found["warning"]) == (40, True)
    assert OLD not in done(*adding(world, world / "index")).output


def test_an_index_that_names_no_version_was_read_by_the_first(world: Path) -> None:
    assert UNNAMED in str(warning_of({}, reading=2))
    assert warning_of({}, reading=1) is warning_of({"reading": 2}, reading=2) is warning_of({}) is None
    assert "by version 3 of the reading" in str(warning_of({"reading": 3}, reading=2))


def test_a_version_that_is_no_number_is_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "index", tmp_path / "index")
    manifest = load_index_manifest(tmp_path / "index")
    save_json(tmp_path / "index" / MANIFEST, manifest | {"reading": "<b>"}, sealed=True)

    with pytest.raises(ArtefactError, match="not as the index manifest is written"):
        load_collection(tmp_path / "index")


def test_a_service_tells_it_and_adds_no_film_beside_them(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = load(parse_mounts([f"old={world / 'old'}"], [str(world)]), world / "encoder.safetensors").test_client()
    film = (world / "0.png").read_bytes()
    study = json.dumps({"study_id": "patient00099/study1", "patient_id": "patient00099"})

    assert OLD in caplog.text
    assert OLD in client.get("/info").get_json()["collections"][0]["warning"]
    assert OLD in client.post("/v1/search", json={"study_id": "patient00001/study1"}).get_json()["warning"]
    refused = client.post("/v1/studies", data={"frontal": (io.BytesIO(film), "f.png"), "study": study})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (409, "reading_mismatch")
