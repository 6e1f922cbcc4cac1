"""`precedent import`: what it says where nothing can be used, options for archives that are odd, and mappings."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import done, refusal
from film_files import dicom

from index.importing.mapping import load_mapping, mapping_names
from index.table.studies import FINDINGS, PATIENTS_UNKNOWN, load_studies
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


MINE = """
set = "rsna-again"
licence = "mine"
films_of = "nih"
table = [{ file = "t.csv" }]
[film]
path = "{image}"
study = "{image}"
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, in which one is, of a mapping, its table without patients, two films and a place for tables."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(MINE)
    Path("t.csv").write_text("image,Edema\na.png,1\nb.png,0\n")
    for name in ("a.png", "b.png"):
        Path(name).touch()
    return tmp_path


def test_a_mapping_of_ones_own_makes_a_table_that_says_whose_patients_are_unknown(mine: Path) -> None:
    told = done("import", "table", "mine.toml", ".", "--out", "s.parquet")

    assert "2 images, patients unknown, 2 studies" in told.stdout
    assert f"{PATIENTS_UNKNOWN}: 2 (a.png, b.png)" in told.stderr
    counts = json.loads(done("import", "table", "mine.toml", ".", "--out", "s.parquet", "--json").stdout)
    assert (counts["studies"], counts["patients_unknown"]) == (2, 2)


def test_a_mapping_that_fails_writes_nothing(mine: Path) -> None:
    for change, said in (
        ("{image}", "expected column 'picture', got image, Edema"),
        ("licence", "unknown key 'lizenz'"),
    ):
        Path("bad.toml").write_text(MINE.replace(change, {"{image}": "{picture}", "licence": "lizenz"}[change]))

        assert said in refusal("import", "table", "bad.toml", ".", "--out", "s.parquet")

    assert {path.name for path in mine.iterdir()} == {"mine.toml", "t.csv", "bad.toml", "a.png", "b.png"}


def test_joining_two_tables_of_the_same_films_is_warned_of(mine: Path) -> None:
    for name in ("a", "b"):
        done("import", "table", "mine.toml", ".", "--out", f"{name}.parquet")

    told = done("import", "join", "a=a.parquet", "b=b.parquet", "--out", "j.parquet")

    assert "'a' and 'b' both hold films of nih" in told.stderr
    assert json.loads(done("import", "join", "a=a.parquet", "b=b.parquet", "--out", "j.parquet", "--json").stdout)[
        "warnings"
    ]


def test_mappings_are_listed_and_printed_and_what_is_printed_is_one(mine: Path) -> None:
    listed = done("import", "table", "--list").stdout
    printed = done("import", "table", "--print", "mimic-cxr-jpg").stdout

    assert {line.split()[0] for line in listed.splitlines()} == set(mapping_names())
    Path("copy.toml").write_text(printed)
    assert load_mapping("copy.toml") == load_mapping("mimic-cxr-jpg")
    assert "expected a mapping's name" in refusal("import", "table", "--print", "mine.toml")


def test_the_official_test_labels_and_packed_tables_are_read_by_the_old_words_too(mine: Path) -> None:
    film = Path("test/patient64741/study1/view1_frontal.jpg")
    film.parent.mkdir(parents=True)
    film.touch()
    Path("test_labels.csv.gz").write_bytes(
        gzip.compress(f"{','.join(('Path', *FINDINGS))}\n{film}{',1' * 14}".encode())
    )

    told = done("import", "chexpert", "test_labels.csv.gz", "--images", ".", "--out", "s.parquet")

    assert "columns that the table has not, left blank: 4" in told.stderr
    assert load_studies("s.parquet")["split"].to_pylist() == ["test"]
