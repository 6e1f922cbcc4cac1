"""Somebody's tables as columns of text: what is read, what is refused in one line, and what leaves the folder."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.errors import ArtefactError, PlaceError, StudiesError
from index.importing.mapping import SourceTable
from index.importing.source_files import read_source


def read(folder: Path, **keys: Any) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = read_source(SourceTable.model_validate(keys), folder)[0].to_pylist()
    return rows


@pytest.mark.parametrize(
    "content",
    [
        b"Path,Age\na,007\nb,NA\n",
        b"\xef\xbb\xbf Path , Age\r\na,007\r\nb,NA",
        b"Path;Age\na;007\nb;NA\n",
        b"Path\tAge\na\t007\nb\tNA\n",
        b'"Path","Age",\n"a","007",\n"b","NA",\n',
        gzip.compress(b"Path,Age\na,007\n", mtime=0) + gzip.compress(b"b,NA\n", mtime=0),
    ],
)
def test_a_csv_comes_as_text_however_it_is_written(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)

    assert read(tmp_path, file="t.csv") == [{"Path": "a", "Age": "007"}, {"Path": "b", "Age": "NA"}]


def test_a_cell_may_have_line_breaks_and_a_row_number_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(',Path,Report\n0,a,"one,\ntwo"\n1,b,\n')

    assert read(tmp_path, file="t.csv") == [{"Path": "a", "Report": "one,\ntwo"}, {"Path": "b", "Report": ""}]


def test_a_packed_table_is_found_by_its_plain_name(tmp_path: Path) -> None:
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(b"Path\na\n"))

    assert read(tmp_path, file="train.csv") == [{"Path": "a"}]
    assert read(tmp_path, file="{split}.csv") == [{"Path": "a", "split": "train"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected a readable CSV"),
        (b"Path,Age\n", "at least one row, got the header alone"),
        (b"Path,Age\na\n", "Expected 2 columns, got 1"),
        (b"Path,Age\na,1,2\n", "Expected 2 columns, got 3"),
        (b"Path,Age,x,x\na,1,2,3\n", "every column name once"),
        (b"Path,Age\n\xff,1\n", "expected a readable CSV"),
        (b"\x00\xff", "t.csv"),
        (b"\x1f\x8b broken", "can be read"),
        (gzip.compress(b"Path\n" + b"a\n" * 1000, mtime=0)[:-9], "can be read"),
    ],
)
def test_a_csv_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)

    with pytest.raises(StudiesError, match=said) as refusal:
        read(tmp_path, file="t.csv")

    assert "\n" not in str(refusal.value)


def test_a_packed_file_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.importing.source_files.FREE_BYTES", 1000)
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"Path\n" + b"a\n" * 500_000))

    with pytest.raises(StudiesError, match="once unpacked, got more"):
        read(tmp_path, file="t.csv")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudiesError, match=r"expected a.csv or b.csv below .*, got no such file"):
        read(tmp_path, one_of=["a.csv", "b.csv"])


def test_a_list_is_read_below_each_other_and_of_one_of_the_first_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("x\n3\n")

    assert read(tmp_path, file=["a.csv", "none.csv", "b.csv"]) == [{"x": "1", "y": "2"}, {"x": "3", "y": ""}]
    assert read(tmp_path, one_of=["none.csv", "b.csv", "a.csv"]) == [{"x": "3"}]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "x", "n": 1.0}\n{"a": null, "n": null}\n',
        json.dumps([{"a": "x", "n": 1.0}, {"n": None}]),
        json.dumps({"k1": {"a": "x", "n": "1.0"}, "k2": {"a": "", "n": ""}}, indent=1),
    ],
)
def test_json_is_records_a_line_a_list_or_an_object_of_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)

    rows = read(tmp_path, file="t.json")

    assert [row["a"] for row in rows] == ["x", ""]
    assert [float(row["n"] or "nan") for row in rows] == pytest.approx([1.0, float("nan")], nan_ok=True)


def test_lists_of_json_become_rows_and_a_shorter_one_ends_in_blanks(tmp_path: Path) -> None:
    records = {"k": {"id": "s", "paths": ["a", "b"], "views": ["PA"]}, "l": {"id": "t", "paths": [], "views": []}}
    (tmp_path / "t.json").write_text(json.dumps(records))

    assert read(tmp_path, file="t.json", each=["paths", "views"]) == [
        {"id": "s", "paths": "a", "views": "PA"},
        {"id": "s", "paths": "b", "views": ""},
    ]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1', "[1]", '"x"', '{"a": 1}\n{"a": "x"}\n'])
def test_json_that_is_no_records_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)

    with pytest.raises(StudiesError, match=r"'t.json': expected .*records") as refusal:
        read(tmp_path, file="t.json")

    assert "\n" not in str(refusal.value)


XML = (
    '<r><uId id="u1"/><MeSH><major>a/b</major><major>c</major></MeSH><film id="f1"><n>F1</n></film><film id="f2"/></r>'
)
PLACES = {"id": "@id", "n": "n", "uid": "/uId@id", "mesh": "/.//major"}


def test_xml_gives_a_row_for_each_of_its_elements(tmp_path: Path) -> None:
    (tmp_path / "1.xml").write_text(XML)

    assert read(tmp_path, file="*.xml", each=".//film", columns=PLACES) == [
        {"id": "f1", "n": "F1", "uid": "u1", "mesh": "a/b|c"},
        {"id": "f2", "n": "", "uid": "u1", "mesh": "a/b|c"},
    ]


@pytest.mark.parametrize("text", ['<!DOCTYPE r [<!ENTITY a "aaaa">]><r>&a;</r>', "<r>", "", "<r/>\0"])
def test_xml_with_entities_or_broken_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "1.xml").write_text(text)

    with pytest.raises(StudiesError, match=r"'1.xml': expected XML"):
        read(tmp_path, file="*.xml", each=".//film", columns=PLACES)


def test_texts_names_and_films_are_tables_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "a.png").touch()

    assert read(tmp_path, **{"file": "*.txt", "as": "text"}) == [{"stem": "a", "text": "one\ntwo"}]
    assert read(tmp_path, **{"file": "{n}.txt", "as": "lines"}) == [{"line": one, "n": "a"} for one in ("one", "two")]
    assert read(tmp_path, **{"file": "*.png", "as": "film"}) == [{"path": "a.png", "stem": "a"}]


def test_a_parquet_table_of_types_comes_as_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a", None], "Edema": pa.array([1, None], pa.int8())}), tmp_path / "t.parquet")

    assert read(tmp_path, file="t.parquet") == [{"path": "a", "Edema": "1"}, {"path": "", "Edema": ""}]


@pytest.mark.parametrize("named", ["out.csv", "*.csv", "{word}.csv"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, named: str) -> None:
    (tmp_path / "secret.csv").write_text("x\n1\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "out.csv").symlink_to(tmp_path / "secret.csv")

    with pytest.raises(PlaceError, match="leads out of it"):
        read(tmp_path / "folder", file=named)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("x")

    with pytest.raises(ArtefactError, match="expected a Parquet file"):
        read(tmp_path, file="t.parquet")
