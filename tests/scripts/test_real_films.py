"""The whole pipeline on real films: CheXpert's layout, NIH's table, DICOM files."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from index.search.retriever import Retriever
from index.table.studies import load_studies, save_studies
from scripts.cli import precedent


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(precedent, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def encoder(shared_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    words = ["--backbone", "tf_efficientnetv2_b0", "--normalization", "half", "--size", "96", "--shared"]
    run("encoder", "create", *words, "--weights", shared_weights, "--out", out)
    return out


def index_of(studies: Path, images: Path, encoder: Path) -> Path:
    folder = studies.parent
    run("export", studies, "--images", images, "--encoder", encoder, "--out", folder / "embeddings")
    run("index", folder / "embeddings", "--out", folder / "index")
    return folder / "index"


@pytest.mark.parametrize(
    ("name", "images", "patients", "both_views"),
    [
        pytest.param("kermany", 3100, 1704, 0, marks=pytest.mark.long),
        pytest.param("covid", 574, 280, 67, marks=pytest.mark.slow),
    ],
)
def test_films_in_chexperts_layout_become_similar_cases(
    name: str, images: int, patients: int, both_views: int, shared_data: Path, encoder: Path, tmp_path: Path
) -> None:
    studies = tmp_path / "studies.parquet"
    words = [shared_data / name / "train.csv", "--images", shared_data, "--out", studies, "--json"]
    counts = json.loads(run("import", "chexpert", *words))
    assert (counts["images"], counts["patients"], counts["with_both_views"]) == (images, patients, both_views)
    retriever = Retriever.load(index_of(studies, shared_data, encoder))
    assert len(retriever) == load_studies(studies).num_rows
    study = retriever.study(load_studies(studies)["study_id"][0].as_py())
    answer = run(
        "search",
        tmp_path / "index",
        "--frontal",
        shared_data / str(study.frontal_path),
        "--encoder",
        encoder,
        "--where",
        "Pneumonia=1|0",
        "--json",
    )
    hits = json.loads(answer)["hits"]
    assert len(hits) == 10
    assert all(hit["findings"]["Pneumonia"] in (0, 1) for hit in hits)


@pytest.mark.slow
def test_nihs_table_becomes_similar_cases(shared_data: Path, encoder: Path, tmp_path: Path) -> None:
    studies, films = tmp_path / "studies.parquet", shared_data / "nih" / "images"
    run("import", "nih", shared_data / "nih" / "Data_Entry_2017.csv", "--images", films, "--out", studies)
    table = load_studies(studies)
    assert (table.num_rows, len(set(table["patient_id"].to_pylist()))) == (982, 781)
    save_studies(table.slice(0, 300), studies)
    retriever = Retriever.load(index_of(studies, films, encoder))
    study_id = table["study_id"][5].as_py()
    where = {"must": [{"key": "sex", "match": {"value": "Female"}}, {"key": "age", "range": {"gte": 60}}]}
    answer = retriever.similar(study_id, 5, where=where)
    assert len(answer.hits) == 5
    assert all(hit.study.sex == "Female" and (hit.study.age or 0) >= 60 for hit in answer.hits)


@pytest.mark.slow
def test_a_folder_of_dicom_files_becomes_similar_cases(shared_data: Path, encoder: Path, tmp_path: Path) -> None:
    studies, films = tmp_path / "studies.parquet", shared_data / "dicom" / "chest"
    run("import", "dicom", films, "--out", studies)
    run("export", studies, "--images", films, "--encoder", encoder, "--out", tmp_path / "out", "--allow-failures")
    run("index", tmp_path / "out", "--out", tmp_path / "index")
    film = films / "nih_DX_ImplicitLE_mono2_8bit_1024.dcm"
    first = Retriever.load(tmp_path / "index")
    found = json.loads(run("search", tmp_path / "index", "--frontal", film, "--encoder", encoder, "--json"))["hits"]
    assert found[0]["similarity"] >= 0.9999
    assert len(found) == len(first)
