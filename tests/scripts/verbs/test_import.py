"""`precedent import dicom`: what it says where nothing can be used, and its options for archives that are odd."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import done, refusal
from film_files import dicom

from index.table.studies import load_studies
from scripts.cli import precedent
from scripts.work.bare_copies import copy_untagged


def write_films(folder: Path, **films: dict[str, Any]) -> Path:
    folder.mkdir()
    ids = {"PatientID": "P1", "StudyInstanceUID": "1.2.3", "ViewPosition": "PA"}
    for number, (name, tags) in enumerate(films.items()):
        film = dicom(**({"SOPInstanceUID": f"1.2.{number}"} | ids | tags))
        (folder / name).write_bytes(film)
    return folder


def test_nothing_usable_is_one_line_with_the_reasons(tmp_path: Path) -> None:
    films = write_films(tmp_path / "films", hand={"BodyPartExamined": "HAND"}, ct={"Modality": "CT"})

    told = refusal("import", "dicom", films, "--out", tmp_path / "t.parquet")

    assert "got none that can be used of 2 files" in told
    assert "other than the chest: 1 (hand)" in told
    assert "XR: 1 (ct)" in told
    assert not (tmp_path / "t.parquet").exists()


def test_nothing_usable_is_told_in_json_too(tmp_path: Path) -> None:
    films = write_films(tmp_path / "films", hand={"BodyPartExamined": "HAND"})

    result = CliRunner().invoke(precedent, ["import", "dicom", str(films), "--out", str(tmp_path / "t"), "--json"])

    answer = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (answer["out"], answer["images"], answer["studies"]) == (None, 1, 0)
    assert [(one["kind"], one["count"]) for one in answer["warnings"]] == [("body part", 1)]


@pytest.mark.parametrize("value", ["ABDOMEN", " abdomen"])
def test_a_consoles_wrong_default_is_ignored_where_that_is_said(tmp_path: Path, value: str) -> None:
    films = write_films(tmp_path / "films", a={"BodyPartExamined": "ABDOMEN"})

    done("import", "dicom", films, "--out", tmp_path / "t.parquet", "--ignore-body-part", value)

    assert load_studies(tmp_path / "t.parquet")["frontal_path"].to_pylist() == ["a"]


def test_a_film_that_was_imported_despite_its_default_is_exported_added_and_copied_so(tmp_path: Path) -> None:
    films = write_films(tmp_path / "films", a={"BodyPartExamined": "ABDOMEN"})
    table, out, ignored = tmp_path / "t.parquet", tmp_path / "out", ("--ignore-body-part", "abdomen")
    read = ("--images", films, "--encoder", tmp_path / "e.safetensors")
    small = ("--backbone", "test_efficientnet", "--dim", "256", "--weights", "none", "--size", "64")
    done("encoder", "create", *small, "--out", tmp_path / "e.safetensors")
    done("import", "dicom", films, "--out", table, *ignored)

    refused = CliRunner().invoke(precedent, [*map(str, ("export", table, *read, "--out", out))])
    done("export", table, *read, "--out", out, *ignored, "--retry-failed")
    done("index", out, "--out", tmp_path / "index")
    added = done("add", tmp_path / "index", table, *read, *ignored)

    assert (refused.exit_code, "0 added, 1 already there" in added.stdout) == (3, True)
    [copy] = copy_untagged(tmp_path / "copies", [(films / "a", "a")], {"ABDOMEN"})
    assert copy == "a.png"


def test_an_archive_without_ids_has_those_of_its_folders(tmp_path: Path) -> None:
    write_films(tmp_path / "films", a={"PatientID": "", "StudyInstanceUID": ""}).rename(tmp_path / "p7")
    (tmp_path / "archive").mkdir()
    (tmp_path / "p7").rename(tmp_path / "archive/p7")
    words = ("import", "dicom", tmp_path / "archive", "--out", tmp_path / "t.parquet", "--ids-from")

    done(*words, "{patient}/{study}")

    assert load_studies(tmp_path / "t.parquet")["study_id"].to_pylist() == ["p7/a"]
    assert "expected a pattern of ids" in refusal(*words, "*/*")
