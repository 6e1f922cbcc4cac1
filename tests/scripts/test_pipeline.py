"""The real commands, from films to an answer, killed and damaged on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from command_line import refusal
from folders import ROOT

from encoder.embedder import Embedder
from index.export.shards import load_embeddings
from index.search.retriever import Retriever
from index.table.studies import FINDINGS, save_studies, studies_schema
from scripts.cli import precedent
from service.loader import load as load_service
from service.served.mounts import Mount

HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]
PATIENTS = 30


def run(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(precedent, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        assert code == 1, result.exception  # what `main` prints as one line
    else:
        assert result.exit_code == code, result.output
    return result


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "scripts.cli", *map(str, words)]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films in CheXpert's layout, train.csv, and a tiny encoder."""
    root = tmp_path_factory.mktemp("collection")
    rng, rows = np.random.default_rng(1), []
    for patient in range(1, PATIENTS + 1):
        folder = root / "train" / f"patient{patient:05d}" / "study1"
        folder.mkdir(parents=True)
        for view, side in ((1, "frontal"), (2, "lateral"))[: 1 + patient % 2]:
            film = cv2.GaussianBlur(rng.integers(0, 255, (72, 64), dtype=np.uint8), (0, 0), 2 + patient % 3)
            cv2.imwrite(str(folder / f"view{view}_{side}.jpg"), cv2.normalize(film, None, 0, 255, cv2.NORM_MINMAX))
            path = f"train/patient{patient:05d}/study1/view{view}_{side}.jpg"
            labels = ["1.0" if patient % 3 == 0 else "", *[""] * 13]
            rows.append([path, "Female", str(20 + patient), side.title(), "AP" if view == 1 else "", *labels])
    (root / "train.csv").write_text("\n".join(",".join(row) for row in [HEADER, *rows]) + "\n")
    run("import", "chexpert", root / "train.csv", "--images", root, "--out", root / "studies.parquet")
    words = ["--backbone", "test_efficientnet", "--dim", "256", "--weights", "none", "--size", "64"]
    run("encoder", "create", *words, "--out", root / "encoder.safetensors")
    return root


def export_words(collection: Path, out: Path) -> list[str | Path]:
    words: list[str | Path] = ["export", collection / "studies.parquet", "--images", collection, "--out", out]
    return [*words, "--encoder", collection / "encoder.safetensors", "--shard-rows", "8", "--batch", "3"]


@pytest.fixture(scope="module")
def embeddings(collection: Path) -> Path:
    run(*export_words(collection, collection / "embeddings"))
    return collection / "embeddings"


@pytest.fixture(scope="module")
def index(collection: Path, embeddings: Path) -> Path:
    run("index", embeddings, "--out", collection / "index")
    return collection / "index"


def test_the_pipeline_ends_in_similar_cases(collection: Path, index: Path) -> None:
    words = ["search", index, "--study", "patient00004/study1", "-k", "3", "--where", "age>=30", "--json"]
    answer = json.loads(run(*words).stdout)
    assert answer["matched_total"] == sum(20 + patient >= 30 for patient in range(1, PATIENTS + 1))
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    assert all(hit["age"] >= 30 and hit["patient_id"] != "patient00004" for hit in answer["hits"])


def test_a_film_finds_its_own_study(collection: Path, index: Path) -> None:
    films = collection / "train" / "patient00005" / "study1"
    words = ["--frontal", films / "view1_frontal.jpg", "--lateral", films / "view2_lateral.jpg"]
    result = run("search", index, *words, "--encoder", collection / "encoder.safetensors", "--json")
    first = json.loads(result.stdout)["hits"][0]
    assert first["study_id"] == "patient00005/study1"
    assert first["similarity"] >= 0.9999


def test_alone_in_a_batch_and_through_the_api_a_study_has_one_vector(collection: Path, index: Path) -> None:
    embedder, retriever = Embedder.load(collection / "encoder.safetensors"), Retriever.load(index)
    client = load_service([Mount("main", index)], collection / "encoder.safetensors").test_client()
    for study_id in ("patient00001/study1", "patient00002/study1"):
        study = retriever.study(study_id)
        paths = [collection / path if path else None for path in (study.frontal_path, study.lateral_path)]
        exported = retriever.embedding(study_id)
        assert embedder.embed_study(*paths) @ exported >= 0.9999
        parts = {view: path.open("rb") for view, path in zip(("frontal", "lateral"), paths, strict=True) if path}
        answer = client.post("/v1/embeddings", data=parts).get_json()
        assert np.array(answer["embedding"], dtype=np.float32) @ exported >= 0.9999


def test_the_table_of_hits_is_readable(index: Path) -> None:
    output = run("search", index, "--study", "patient00004/study1", "-k", "2").stdout
    assert "similarity" in output
    assert "2 of 29 studies that qualify (exact search)" in output


def test_an_export_killed_at_any_moment_ends_as_one_that_was_not(
    collection: Path, embeddings: Path, tmp_path: Path
) -> None:
    words = export_words(collection, tmp_path / "killed")
    for shard in range(3):
        process = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for(tmp_path / "killed" / f"shard-{shard:05d}.parquet", process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "_manifest.json").exists()
    run(*words)
    for path in sorted(embeddings.glob("*.parquet")):
        assert pq.read_table(path).equals(pq.read_table(tmp_path / "killed" / path.name))


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    assert path.exists()


def test_a_finished_export_is_left_as_it_is(collection: Path, embeddings: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in embeddings.glob("shard-*")}
    run(*export_words(collection, embeddings))
    assert before == {path: path.stat().st_mtime_ns for path in embeddings.glob("shard-*")}


@pytest.fixture
def torn_film(collection: Path) -> Iterator[str]:
    """Tear one film for the time of a test; return its study."""
    path = collection / "train" / "patient00006" / "study1" / "view1_frontal.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    yield "patient00006/study1"
    path.write_bytes(whole)


def test_a_study_that_cannot_be_read_is_listed_and_told_by_the_exit_code(
    torn_film: str, collection: Path, tmp_path: Path
) -> None:
    words = export_words(collection, tmp_path / "out")
    result = run(*words, code=3)
    assert "29 studies embedded in 4 shards, 1 failed" in result.stdout
    [failed] = pq.read_table(tmp_path / "out" / "_failed.parquet").to_pylist()
    assert failed["study_id"] == torn_film
    assert "view1_frontal.jpg" in failed["reason"]
    assert str(collection) not in failed["reason"]
    assert run(*words, "--allow-failures").exit_code == 0
    assert torn_film not in load_embeddings(tmp_path / "out")[0]["study_id"].to_pylist()


def test_a_study_that_could_not_be_read_is_tried_again_where_that_is_asked_for(
    collection: Path, embeddings: Path, tmp_path: Path
) -> None:
    words, film = export_words(collection, tmp_path / "out"), collection / "train/patient00006/study1/view1_frontal.jpg"
    away = film.rename(film.with_name("away"))
    assert "--retry-failed tries again" in run(*words, code=3).stdout
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*")}
    away.rename(film)

    run(*words, code=3)  # as it is
    run(*words, "--retry-failed")

    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*")}
    assert len({*before.items()} - {*after.items()}) == 1  # the others are kept
    assert load_embeddings(tmp_path / "out")[0].equals(load_embeddings(embeddings)[0])


def test_vectors_of_two_runtimes_are_not_mixed(collection: Path, embeddings: Path, tmp_path: Path) -> None:
    shutil.copytree(embeddings, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    other = {"torch": "openvino-fp32"}.get(manifest["runtime"], "torch")

    refused = run(*export_words(collection, tmp_path / "out"), "--runtime", other, code=1)

    assert f"begun with another runtime ({manifest['runtime']}" in str(refused.exception)


def test_the_health_of_the_space_is_measured_and_kept(embeddings: Path) -> None:
    health = json.loads((embeddings / "_manifest.json").read_text())["health"]
    vectors = load_embeddings(embeddings)[1].astype(np.float64)
    pairs = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
    assert health["sample"] == PATIENTS
    assert health["mean_cosine"] == pytest.approx(pairs.mean(), abs=1e-6)


@pytest.mark.slow
def test_an_untrained_dual_encoder_is_told_to_collapse(collection: Path, tmp_path: Path) -> None:
    run("encoder", "create", "--weights", "none", "--size", "96", "--out", tmp_path / "untrained.safetensors")
    words = ["--images", collection, "--encoder", tmp_path / "untrained.safetensors", "--out", tmp_path / "out"]
    result = run("export", collection / "studies.parquet", *words)
    assert "COLLAPSED embedding space" in result.stdout
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["health"]["mean_cosine"] > 0.999


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["search", "{index}", "--study", "nobody/study1"], "no study 'nobody/study1' in this index"),
        (["search", "{index}", "--study", "patient00001/study1", "--where", "smoker=1"], "no column 'smoker'"),
        (["search", "{root}", "--study", "patient00001/study1"], "no index manifest"),
        (
            ["search", "{index}", "--frontal", "{root}/train.csv", "--encoder", "{root}/encoder.safetensors"],
            "expected a JPEG, PNG or DICOM",
        ),
        (
            ["search", "{index}", "--frontal", "{root}/x.jpg", "--encoder", "{root}/other.safetensors"],
            "precedent index",
        ),
        (
            [
                "export",
                "{root}/train.csv",
                "--images",
                "{root}",
                "--encoder",
                "{root}/encoder.safetensors",
                "--out",
                "{tmp}",
            ],
            "expected a Parquet file",
        ),
        (
            [
                "export",
                "{root}/studies.parquet",
                "--images",
                "{root}/no",
                "--encoder",
                "{root}/encoder.safetensors",
                "--out",
                "{tmp}",
            ],
            "expected the image root to be a folder",
        ),
        (
            [
                "export",
                "{root}/studies.parquet",
                "--images",
                "{root}",
                "--encoder",
                "{root}/other.safetensors",
                "--out",
                "{embeddings}",
            ],
            "export to another folder",
        ),
        (["index", "{root}", "--out", "{tmp}"], "run precedent export again"),
        (["encoder", "info", "{root}/train.csv"], "not a readable safetensors"),
    ],
)
def test_a_mistake_gets_one_line_and_no_traceback(
    words: list[str], sentence: str, collection: Path, embeddings: Path, index: Path, tmp_path: Path
) -> None:
    places = {"root": collection, "index": index, "embeddings": embeddings, "tmp": tmp_path}
    create = ["--backbone", "test_efficientnet", "--dim", "256", "--weights", "none", "--size", "64", "--seed", "9"]
    run("encoder", "create", *create, "--out", collection / "other.safetensors")
    done = subprocess.run(
        command(*[word.format(**places) for word in words]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_needs_neither_torch_nor_faiss() -> None:
    code = "import sys; sys.modules.update(torch=None, faiss=None); from scripts.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "export" in done.stdout


def test_the_module_runs_from_any_folder(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command("--version"), cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("precedent, version")


def unreadable(folder: Path, studies: int) -> Path:
    """Return a table of studies whose films are there and cannot be read."""
    folder.mkdir()
    rows = [{"study_id": f"p{row}/s", "patient_id": f"p{row}", "frontal_path": "film"} for row in range(studies)]
    (folder / "film").write_bytes(b"no film")
    save_studies(pa.Table.from_pylist(rows, studies_schema()), folder / "studies.parquet")
    return folder / "studies.parquet"


@pytest.mark.parametrize("count", [3, 0])
def test_an_export_of_no_readable_study_ends_with_its_list_and_exit_code_3(
    collection: Path, tmp_path: Path, count: int
) -> None:
    studies, out = unreadable(tmp_path / "films", count), tmp_path / "out"
    words = ["export", studies, "--images", studies.parent, "--encoder", collection / "encoder.safetensors"]

    result = CliRunner().invoke(precedent, [*map(str, words), "--out", str(out), "--shard-rows", "2"])

    assert (result.exit_code, f"0 studies embedded in {-(-count // 2)} shards" in result.stdout) == (3, True)
    assert pq.read_table(out / "_failed.parquet").num_rows == count
    assert json.loads((out / "_manifest.json").read_text(), parse_constant=pytest.fail)["health"]["mean_cosine"] is None
    for verb in ("index", "probe"):
        assert "_failed.parquet" in refusal(verb, out, "--out", tmp_path / "x")


def test_a_wrong_image_root_is_told_before_an_encoder_is_loaded(collection: Path, tmp_path: Path) -> None:
    studies = unreadable(tmp_path / "films", 3)

    told = refusal("export", studies, "--images", tmp_path, "--encoder", tmp_path / "none", "--out", tmp_path / "out")

    assert f"got none at '{tmp_path / 'film'}', nor at 2 other paths" in told
    assert not (tmp_path / "out").exists()
