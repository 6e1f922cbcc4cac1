"""Tables by a mapping: what rows, keys, words and files become, and the samples of 22 published sets."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from film_files import dicom

from encoder.films.dicom_elements import read_header
from index.errors import FilterError, StudiesError
from index.importing.mapped import import_table
from index.importing.mapping import FLAT, load_mapping
from index.importing.source import Imported
from index.table.studies import (
    FILMS_OF_KEY,
    FINDINGS,
    PATIENTS,
    PATIENTS_UNKNOWN,
    label_names,
    load_studies,
    save_studies,
    unknown_patients,
)

CASES = Path(__file__).parents[4] / "shared" / "cases" / "datasets"
SETS = sorted(path.parent.name for path in CASES.glob("*/expected.json"))
PLAIN = """
set = "mine"
licence = "mine"
{head}
table = [{{ file = "t.csv"{table} }}{more}]
[film]
{film}
patient = "{{p}}"
study = "{study}"
{tail}
"""


def counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return dict(Counter(value for value in column.to_pylist() if value is not None))


def what_it_gives(found: Imported) -> dict[str, Any]:
    """Return the figures that `expected.json` may have."""
    table = found.table
    frontal, lateral = (table[f"{view}_path"].is_valid().to_pylist() for view in ("frontal", "lateral"))
    kept = sum(frontal) + sum(lateral) + sum(map(len, table["other_paths"].to_pylist()))
    return {
        "films": found.images,
        "skipped": found.images - kept,
        "studies": len(table),
        "patients": len(table["patient_id"].unique()),
        "both_views": sum(both for both in map(all, zip(frontal, lateral, strict=True))),
        "lateral_only": frontal.count(False),
        "splits": counts(table["split"]),
        "sex": counts(table["sex"]),
        "projections": Counter(value or "" for value in table["projection"].to_pylist()),
        "ages": [age for age in table["age"].to_pylist() if age is not None],
        "blank_ages": table["age"].null_count,
    }


@pytest.mark.parametrize("name", SETS or [pytest.param("", marks=pytest.mark.skip(f"no samples at {CASES}"))])
def test_the_sample_of_a_published_set_gives_what_was_counted_by_hand(name: str) -> None:
    expected = json.loads((CASES / name / "expected.json").read_text())
    labels, _ = expected.pop("labels"), expected.pop("note", None)

    found = import_table(load_mapping(name), CASES / name)

    given = what_it_gives(found)
    assert {key: given[key] for key in ("skipped", *expected)} == {"skipped": 0} | expected
    for finding, wanted in labels.items():
        assert {str(label): n for label, n in counts(found.table[finding]).items()} == wanted, finding


def test_chexperts_test_labels_name_studies_whose_films_are_looked_for(tmp_path: Path) -> None:
    film = tmp_path / "CheXpert-v1.0/test/patient64741/study1/view1_frontal.jpg"
    film.parent.mkdir(parents=True)
    film.touch()
    header = ",".join(("Study", *FINDINGS))
    (tmp_path / "groundtruth.csv").write_text(f"{header}\n{film.parent.relative_to(tmp_path)}{',1' * 14}")

    [study] = import_table(load_mapping("chexpert-groundtruth"), tmp_path).table.to_pylist()

    assert (study["study_id"], study["split"], study["Edema"]) == ("patient64741/study1", "test", 1)


def touched(folder: Path, *names: str) -> Path:
    """Return the folder with empty files of these names in it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_childrens_films_have_patient_and_cause_in_their_names(tmp_path: Path) -> None:
    sick = ("person1_bacteria_1", "person1_bacteria_2", "person2_virus_3_1")
    well = ("IM-0119-0001", "NORMAL2-IM-0927-0001-0002")
    names = [f"PNEUMONIA/{name}" for name in sick] + [f"NORMAL/{name}" for name in well]
    touched(tmp_path / "chest_xray", *(f"train/{name}.jpeg" for name in names), "test/PNEUMONIA/person1_virus_6.jpeg")

    table = import_table(load_mapping("kermany"), tmp_path).table

    persons = ["train-person1", "train-person2", "test-person1", "train-IM-0119", "train-NORMAL2-IM-0927"]
    assert sorted(table["patient_id"].unique().to_pylist()) == sorted(persons)
    assert counts(table["No Finding"]) == {0: 4, 1: 2}
    assert (counts(table["Bacterial Pneumonia"]), counts(table["Viral Pneumonia"])) == ({1: 2}, {1: 2})


def test_pictures_in_folders_need_no_table_and_their_patients_are_unknown(tmp_path: Path) -> None:
    names = ["a.png", "b/c.JPG", "b/d/e.jpeg"]

    found = import_table(load_mapping("pictures"), touched(tmp_path, *names, "b/notes.txt"))

    assert found.table["frontal_path"].to_pylist() == found.table["study_id"].to_pylist() == names
    assert unknown_patients(found.table)


def imported(
    folder: Path,
    csv: str,
    *,
    film: str = 'path = "{f}"',
    files: str = "",
    check_images: bool = False,
    strict: bool = False,
    **parts: str,
) -> Imported:
    """Import rows of a table under a mapping that is put together of parts."""
    folder.mkdir(exist_ok=True)
    (folder / "t.csv").write_text(csv)
    touched(folder, *files.split())
    text = PLAIN.format_map({"head": "", "table": "", "more": "", "tail": "", "film": film, "study": "{p}/{s}"} | parts)
    (folder / "m.toml").write_text(text)
    mapping = load_mapping(str(folder / "m.toml"))
    return import_table(mapping, folder, check_images=check_images, strict=strict, read_header=read_header)


ROWS = "f,p,s,Edema\na.png,p1,s1,1\nb.png,p2,s1,0\n"


def test_keys_bring_the_columns_of_another_table(tmp_path: Path) -> None:
    (tmp_path / "u.csv.gz").write_bytes(gzip.compress(b"p;split;Fracture\np1;train;-1\np1;train;-1\n"))
    more = ', { file = "u.csv", on = ["p"] }'

    found = imported(tmp_path, ROWS, more=more, tail='split = "{split}"')

    assert found.table["Fracture"].to_pylist() == [-1, None]
    assert found.table["split"].to_pylist() == ["train", None]
    assert [str(notice) for notice in found.notices] == ["films without a row in 'u.csv': 1 (p2)"]


@pytest.mark.parametrize(
    ("other", "on", "said"),
    [
        (
            "p,Fracture\np1,1\np1,0\np2,1\n",
            '["p"]',
            "'u.csv': expected each key once, got 1 with rows that differ, the first 'p1'",
        ),
        ("q,x\np1,1\n", '["p"]', "'u.csv': expected column 'p', got q, x"),
        ("p,x\np9,1\n", '["p"]', "'u.csv': expected keys that films have, got not one of 1, such as 'p1' and 'p9'"),
        ("p,Edema\np1,1\n", '["p"]', "'u.csv': column 'Edema' stands in a table before it too"),
        ("p,x\np1,1\n", '["p"], take = ["y"]', "'u.csv': expected column 'y'"),
    ],
)
def test_a_join_that_cannot_be_meant_is_refused_with_counts(tmp_path: Path, other: str, on: str, said: str) -> None:
    (tmp_path / "u.csv").write_text(other)

    with pytest.raises(StudiesError, match=said):
        imported(tmp_path, ROWS, more=f', {{ file = "u.csv", on = {on} }}')


LONG = "f,p,s,Edema,Fracture\na,p1,s1,1,0\na,p1,s1,0,0\na,p1,s1,0,\nb,p1,s2,1,-1\nb,p1,s2,0,0\nb,p1,s2,,\n"


@pytest.mark.parametrize(
    ("repeat", "edema", "fracture"),
    [("any", [1, 1], [0, -1]), ("majority", [0, -1], [0, -1]), ("first", [1, 1], [0, -1])],
)
def test_several_rows_of_a_film_become_one(tmp_path: Path, repeat: str, edema: list[int], fracture: list[int]) -> None:
    found = imported(tmp_path, LONG, table=f', repeat = "{repeat}"')

    assert (found.table["Edema"].to_pylist(), found.table["Fracture"].to_pylist()) == (edema, fracture)
    assert (found.images, found.notices) == (2, ())


def test_rows_of_one_film_are_noted_or_refused_where_nobody_says_how(tmp_path: Path) -> None:
    [notice] = imported(tmp_path, LONG).notices

    assert (notice.kind, notice.count) == ("repeated", 2)
    with pytest.raises(StudiesError, match=r"expected one row a film, got two for a \(2 films\)"):
        imported(tmp_path, LONG, table=', repeat = "none"')


@pytest.mark.parametrize(
    ("cell", "separator", "absent", "edema", "fracture"),
    [
        ("Edema|Mass", "|", "", [1, None, None], [None, None, None]),
        ("Edema | rib fracture", "|", "absent = 0", [1, 0, None], [1, 0, None]),
        ("['edema', \\\" callus\\\"]", "python", "", [1, None, None], [None, None, None]),
        ("edema/left;rib fracture/old", ";", 'cut = "/"', [1, None, None], [1, None, None]),
    ],
)
def test_lists_in_cells_are_words(
    tmp_path: Path, cell: str, separator: str, absent: str, edema: list[int], fracture: list[int]
) -> None:
    text, none = cell.replace('\\"', '""'), "['No Finding']" if separator == "python" else "No Finding"
    csv = f'f,p,s,words\na,p1,s1,"{text}"\nb,p1,s2,{none}\nc,p1,s3,\n'
    tail = f"""[labels]\nlist = "words"\nseparator = "{separator}"\nignore = "*"\n{absent}
[findings]\nFracture = "rib fracture"\nEdema = "Edema"\n"No Finding" = "No Finding"\n"""

    table = imported(tmp_path, csv, tail=tail).table

    assert (table["Edema"].to_pylist(), table["Fracture"].to_pylist()) == (edema, fracture)
    assert table["No Finding"].to_pylist()[1:] == [1, None]


def test_a_word_that_no_finding_takes_is_counted(tmp_path: Path) -> None:
    csv = "f,p,s,words\na,p1,s1,Edema|Gremlins\nb,p1,s2,Gremlins\n"

    [notice] = imported(tmp_path, csv, tail='[labels]\nlist = "words"').notices

    assert str(notice) == "words of 'words' that are no finding: 2 (gremlins, gremlins)"


def test_codes_say_what_cells_mean_and_one_never_seen_is_refused_with_its_count(tmp_path: Path) -> None:
    csv = "f,p,s,Edema\na,p1,s1,YES\nb,p1,s2,NO\nc,p1,s3,\n"

    table = imported(tmp_path, csv, tail="[labels]\ncodes = { YES = 1, NO = 0 }").table

    assert table["Edema"].to_pylist() == [1, 0, None]
    with pytest.raises(StudiesError, match=r"Edema: expected 1, 0, -1 or blank, got 'YES' at a \(such cells: 2 of 3\)"):
        imported(tmp_path, csv)


VIEWS = "f,p,s,v,w\na10,p1,s1,PA,\na2,p1,s1,pa,\nb,p1,s1,,lateral\nc,p1,s2,LAO,\nd,p1,s3,COSTAL,\ne,p1,s4,LL,PA\n"


def test_views_are_words_and_films_of_one_stand_by_the_numbers_in_their_paths(tmp_path: Path) -> None:
    film = 'path = "{f}"\nview = ["{v}", "{w}"]'
    found = imported(tmp_path, VIEWS, film=film, tail='[views]\nfrontal = "PA"\nlateral = "LL"\nskip = "COSTAL"')

    first, second = found.table.select(["frontal_path", "lateral_path", "other_paths"]).to_pylist()
    assert first == {"frontal_path": "a2", "lateral_path": "b", "other_paths": ["a10"]}
    assert second == {"frontal_path": None, "lateral_path": "e", "other_paths": []}
    told = [(notice.kind, notice.count) for notice in found.notices]
    assert told == [("view", 2), ("skipped view", 1), ("unknown view", 1)]


def test_studies_of_a_patient_stand_by_visit_and_not_by_row(tmp_path: Path) -> None:
    csv = "f,p,s,n\na,p1,s1,10\nb,p2,s1,1\nc,p1,s2,9\nd,p1,s3,11\n"

    found = imported(tmp_path, csv, film='path = "{f}"\nvisit = "{n}"')

    assert found.table["study_id"].to_pylist() == ["p1/s2", "p1/s1", "p1/s3", "p2/s1"]


def test_nihs_studies_stand_by_follow_up_and_its_lists_are_the_split(tmp_path: Path) -> None:
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    rows = [f"00000001_00{n}.png,No Finding,{visit},1,{60 + visit},F,PA" for n, visit in enumerate((0, 2, 1))]
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([header, *rows]))
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png")
    (tmp_path / "test_list.txt").write_text("00000001_002.png")

    table = import_table(load_mapping("nih"), tmp_path, check_images=False).table

    assert table["study_id"].to_pylist() == [f"patient00000001/study{n}" for n in (0, 2, 1)]
    assert table["age"].to_pylist() == [60, 61, 62]
    assert table["split"].to_pylist() == ["train_val", "test", "train_val"]


def test_the_first_path_that_is_a_file_is_taken_and_missing_films_are_counted(tmp_path: Path) -> None:
    csv = "f,p,s\na,p1,s1\nb,p1,s1\nc,p2,s2\nd,p3,s3\ne,p4,s4\n"
    film = 'path = ["png/{f}.png", "../{f}", "x/../dcm/{f}.dcm"]'
    with pytest.raises(StudiesError, match=r"expected paths below the image root, got '../a' \(5 rows\)"):
        imported(tmp_path, csv, film=film, check_images=True)

    film = film.replace("../{f}", "{f}")
    found = imported(tmp_path, csv, film=film, files="png/a.png dcm/c.dcm d", check_images=True)

    assert found.table["frontal_path"].to_pylist() == ["png/a.png", "dcm/c.dcm", "d"]
    assert [str(notice) for notice in found.notices] == [
        "films left out of 5, as no image of theirs is below the folder: 2 (png/b.png, png/e.png)",
        "studies left out, not one of their images is there: 1 (p4/s4)",
    ]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"film": 'path = "{g}"'}, "expected column 'g', got f, p, s, Edema"),
        ({"tail": '[findings]\nPneumonia = ["x", "y"]'}, "expected column 'x'"),
        ({"tail": '[labels]\nlist = "words"'}, "expected column 'words'"),
        ({"head": 'further = ["x"]'}, "expected column 'x'"),
        ({"head": "parse.x = '(?P<y>.)'"}, "expected column 'x'"),
        ({"head": "parse.f = '(?P<p>.)'"}, "expected another name for the group 'p'"),
        ({"head": 'where = ["x=1"]'}, "no column 'x'"),
        ({"head": 'where = ["p=ghost"]'}, "got none of 2 files; rows left out"),
        ({"head": 'further = ["f"]\nnames = { f = "age" }'}, "other names, got 'age'"),
        ({"film": 'path = "/{f}"'}, r"below the image root, got '/a.png' \(2 rows\)"),
    ],
)
def test_what_the_table_does_not_have_is_refused_in_one_sentence(
    tmp_path: Path, parts: dict[str, str], said: str
) -> None:
    with pytest.raises((StudiesError, FilterError), match=said) as refusal:
        imported(tmp_path, ROWS, **parts)

    assert "\n" not in str(refusal.value)


def test_a_study_is_of_one_patient_and_in_one_split(tmp_path: Path) -> None:
    csv = "f,p,s,x\na,p1,s1,train\nb,p1,s1,test\n"

    with pytest.raises(StudiesError, match=r"expected a study in one split, got p1/s1 in two \(1 studies\)"):
        imported(tmp_path, csv, tail='split = "{x}"')
    with pytest.raises(StudiesError, match="expected a study in one patient, got s1 in two"):
        imported(tmp_path, csv.replace("b,p1", "b,p2"), study="{s}")


def test_rows_are_chosen_by_the_words_of_a_filter(tmp_path: Path) -> None:
    found = imported(tmp_path, ROWS, head='where = ["Edema!=0"]', strict=True)

    assert (found.images, found.table["patient_id"].to_pylist()) == (2, ["p1"])
    assert [notice.kind for notice in found.notices] == ["where"]


def test_ages_come_from_years_too_and_words_are_replaced(tmp_path: Path) -> None:
    csv = "f,p,s,born,day,x\na,p1,s1,1950.0,20120314,validate\nb,p1,s2,,20120314,train\n"
    film = 'path = "{f}"\nyear = "{day:.4}"\nborn = "{born:.4}"\nsplit = "{x}"'

    table = imported(tmp_path, csv, film=film, tail='[values.split]\nvalidate = "valid"').table

    assert (table["age"].to_pylist(), table["split"].to_pylist()) == ([62, None], ["valid", "train"])


def test_the_header_of_a_dicom_film_has_what_the_table_lacks(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(PatientSex="F", PatientAge="061Y", ViewPosition="PA"))
    csv = "f,p,s\na.dcm,p1,s1\nb.png,p1,s2\n"
    tail = 'sex = "{PatientSex}"\nage = "{PatientAge}"\nprojection = "{ViewPosition}"'
    head = 'header = ["PatientSex", "PatientAge", "ViewPosition"]'

    table = imported(tmp_path, csv, head=head, tail=tail, files="b.png", check_images=True).table

    told = table.select(["sex", "age", "projection"]).to_pylist()
    assert told == [{"sex": "Female", "age": 61, "projection": "PA"}, {"sex": None, "age": None, "projection": None}]


def test_a_study_without_a_patient_says_so_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,patient_id,study_id\na.png,,s1\nb.png,p2,s2\n")

    found = import_table(load_mapping(FLAT), tmp_path, tables=[tmp_path / "t.csv"], check_images=False)

    assert found.table["patient_id"].to_pylist() == ["s1", "p2"]
    assert found.table[PATIENTS].to_pylist() == ["unknown", None]
    assert unknown_patients(found.table) == 1
    assert PATIENTS_UNKNOWN in str(found.notices[-1])


def test_the_sets_whose_films_these_are_stand_in_the_file(tmp_path: Path) -> None:
    save_studies(imported(tmp_path, ROWS, head='films_of = ["nih", "mine"]').table, tmp_path / "s.parquet")

    assert load_studies(tmp_path / "s.parquet").schema.metadata[FILMS_OF_KEY] == b"mine nih"


@pytest.mark.parametrize(("folder", "sets"), [("CheXpert-v1.0-small", b"CheXpert-v1.0"), ("mine", None), ("", None)])
def test_a_table_in_chexperts_layout_is_not_of_its_films(tmp_path: Path, folder: str, sets: bytes | None) -> None:
    path = str(Path(folder, "train/patient00001/study1/view1_frontal.jpg"))
    (tmp_path / "train.csv").write_text(f"{','.join(('Path', *FINDINGS))}\n{path}{',1' * 14}\n")

    table = import_table(load_mapping("chexpert"), tmp_path, check_images=False).table

    assert table.schema.metadata.get(FILMS_OF_KEY) == sets
    assert table["frontal_path"].to_pylist() == [path]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_with_our_columns_needs_no_mapping(tmp_path: Path, suffix: str) -> None:
    rows = [
        {
            "path": "a.png",
            "patient_id": "p1",
            "study_id": "p1/s1",
            "view": "frontal",
            "sex": "F",
            "age": 61.0,
            "split": "train",
            "Edema": 1,
            "Mass": 0,
            "ward": "007",
        },
        {
            "path": "b.png",
            "patient_id": "p1",
            "study_id": "p1/s1",
            "view": "lateral",
            "sex": "F",
            "age": 61.0,
            "split": "train",
            "Edema": 1,
            "Mass": 0,
            "ward": "007",
        },
    ]
    table = tmp_path / f"mine.{suffix}"
    pq.write_table(pa.Table.from_pylist(rows), table) if suffix == "parquet" else table.write_text(
        "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])
    )

    found = import_table(load_mapping(FLAT), tmp_path, tables=[table], check_images=False)

    [study] = found.table.to_pylist()
    assert (study["frontal_path"], study["lateral_path"], study["split"]) == ("a.png", "b.png", "train")
    assert (study["sex"], study["age"], study["Edema"], study["Mass"], study["ward"]) == ("Female", 61, 1, 0, "007")
    assert label_names(found.table.schema) == [*FINDINGS, "Mass"]


def test_an_id_that_no_address_can_have_is_written_as_one(tmp_path: Path) -> None:
    found = imported(tmp_path, 'f,p,s\na,"p 1 ",.\nb,p//2,s\n')

    assert found.table["study_id"].to_pylist() == ["p 1/%2E", "p%2F%2F2/s"]
