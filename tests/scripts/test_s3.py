"""The pipeline over s3:// addresses, on a real S3 server: what it gives, and what a kill or an outage leaves."""

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import done, refusal, save_tiny_encoder
from killing import started
from s3_world import BUCKET, Gate, s3_server

from index.errors import ArtefactError
from index.export.shards import load_embeddings
from index.storage.places import place
from index.table.studies import FINDINGS
from scripts.benches.clients import running
from scripts.cli import precedent

pytestmark = pytest.mark.slow
PATIENTS = 20
AWAY = f"s3://{BUCKET}"
HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]
OPTIONS = ("--shard-rows", "1", "--batch", "2", "--runtime", "torch", "--threads", "2")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with s3_server(str(tmp_path_factory.mktemp("home"))) as gate:
        yield gate


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Path:
    """Return a folder of films, an encoder, and all that is made of them on the disk; the films are away too."""
    root = tmp_path_factory.mktemp("films")
    rng, lines = np.random.default_rng(1), [",".join(HEADER)]
    for patient in range(1, PATIENTS + 1):
        path = f"train/patient{patient:05d}/study1/view1_frontal.jpg"
        (root / path).parent.mkdir(parents=True)
        cv2.imwrite(str(root / path), rng.integers(0, 255, (80, 72), dtype=np.uint8))
        (place(f"{AWAY}/films") / path).upload(root / path)
        lines.append(",".join([path, "Female", str(20 + patient), "Frontal", "AP", "1.0", *[""] * 13]))
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    place(f"{AWAY}/train.csv").upload(root / "train.csv")
    save_tiny_encoder(root / "encoder.safetensors")
    done("import", "chexpert", root / "train.csv", "--images", root, "--out", root / "studies.parquet")
    export(root, str(root), str(root / "embeddings"))
    done("index", root / "embeddings", "--out", root / "index")
    return root


def export_words(films: Path, images: str, out: str) -> list[str]:
    encoder = str(films / "encoder.safetensors")
    return ["export", str(films / "studies.parquet"), "--images", images, "--encoder", encoder, "--out", out, *OPTIONS]


def export(films: Path, images: str, out: str) -> None:
    done(*export_words(films, images, out))


def export_under(environment: dict[str, str], words: list[str]) -> None:
    """What a child does."""
    os.environ.update(environment)
    precedent.main(words, standalone_mode=False)


def after_first_shard(out: str, then: Callable[[], None]) -> None:
    """Wait until an export has put its first shard there, and do something."""
    while not list(place(out).glob("shard-*")):
        time.sleep(0.01)
    then()


def vectors(folder: Path) -> bytes:
    return load_embeddings(folder)[1].tobytes()


@pytest.fixture(scope="module")
def away(films: Path) -> str:
    """Return the address of an index that was made of films, tables and shards in the store."""
    done("import", "chexpert", f"{AWAY}/train.csv", "--images", f"{AWAY}/films", "--out", f"{AWAY}/studies.parquet")
    words = export_words(films, f"{AWAY}/films", f"{AWAY}/embeddings")
    done(*[f"{AWAY}/studies.parquet" if word.endswith("studies.parquet") else word for word in words])
    done("index", f"{AWAY}/embeddings", "--out", f"{AWAY}/index")
    return f"{AWAY}/index"


def test_the_pipeline_gives_there_what_it_gives_on_the_disk(films: Path, away: str) -> None:
    assert vectors(place(f"{AWAY}/embeddings")) == vectors(films / "embeddings")
    words = ["--study", "patient00004/study1", "-k", "5", "--where", "age>=30", "--json"]
    there, here = (json.loads(done("search", index, *words).stdout) for index in (away, films / "index"))
    assert there | {"took_ms": None} == here | {"took_ms": None}
    assert json.loads(done("verify", away, "--json").stdout) == {"studies": PATIENTS, "faults": [], "notes": []}
    checked = CliRunner().invoke(precedent, ["doctor", away, "--encoder", str(films / "encoder.safetensors")]).stdout
    assert f"index       {PATIENTS} studies, every SHA-256 as written" in checked
    assert "the index was built with this encoder" in checked
    manifest = place(f"{away}/manifest.json").read_text()
    assert json.loads(manifest)["image_root"] == f"{AWAY}/films"
    assert "hush" not in manifest


def test_an_export_killed_on_its_way_to_the_store_goes_on(films: Path) -> None:
    out = f"{AWAY}/killed"
    names = ("HOME", *(name for name in os.environ if name.startswith("AWS_")))
    child = started(export_under, ({name: os.environ[name] for name in names}, export_words(films, str(films), out)))
    after_first_shard(out, child.kill)
    child.join()
    found = {path.name: path.stat().st_mtime for path in place(out).glob("*")}
    assert 0 < len(found) < PATIENTS
    assert "_manifest.json" not in found
    with pytest.raises(ArtefactError, match="continues where it stopped"):
        load_embeddings(place(out))
    export(films, str(films), out)
    assert {name: place(f"{out}/{name}").stat().st_mtime for name in found} == found
    assert vectors(place(out)) == vectors(films / "embeddings")


def test_an_outage_ends_an_export_with_one_sentence_and_loses_no_film(films: Path, gate: Gate) -> None:
    out = f"{AWAY}/outage"
    words = export_words(films, f"{AWAY}/films", out)
    watch = threading.Thread(target=after_first_shard, args=(out, gate.shut))
    watch.start()
    try:
        assert "run the same command again" in refusal(*words)
    finally:
        watch.join()
        gate.open()
    assert not place(f"{out}/_manifest.json").exists()
    done(*words)
    assert vectors(place(out)) == vectors(films / "embeddings")


def test_a_served_index_and_its_films_come_from_the_store(films: Path, away: str) -> None:
    with running([away, "--encoder", str(films / "encoder.safetensors"), "--port", "0"]) as server:
        with urlopen(f"{server.url}/v1/studies/patient00004/study1/similar?k=5") as answer:
            hits = json.load(answer)["hits"]
        with urlopen(f"{server.url}/v1/studies/patient00004/study1/image?view=frontal") as film:
            shown = film.read()
        host = http.client.HTTPConnection(server.url.removeprefix("http://"))
        host.request("DELETE", "/v1/studies/patient00004/study1")
        refused = host.getresponse()
        said = json.load(refused)["error"]
        host.close()
    local = json.loads(done("search", films / "index", "--study", "patient00004/study1", "-k", "5", "--json").stdout)
    assert [hit["study_id"] for hit in hits] == [hit["study_id"] for hit in local["hits"]]
    assert cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (80, 72)
    assert (refused.status, said["code"]) == (409, "not_writable")
    assert BUCKET not in said["message"]


def test_what_is_not_there_or_cannot_be_done_there_is_said_in_one_line(films: Path, away: str, tmp_path: Path) -> None:
    encoder = films / "encoder.safetensors"
    lost = "s3://lost-bucket/films"
    assert "no such bucket" in refusal(*export_words(films, lost, str(tmp_path / "out")))
    assert "no such bucket" in refusal("index", films / "embeddings", "--out", "s3://lost-bucket/index")
    assert "no export manifest" in refusal("index", f"{AWAY}/nothing", "--out", tmp_path / "index")
    add = ["add", away, films / "studies.parquet", "--images", f"{AWAY}/films", "--encoder", encoder]
    for words in (add, ["delete", away, "patient00004/study1"], ["compact", away], ["map", away]):
        assert "copy it here first" in refusal(*words)
