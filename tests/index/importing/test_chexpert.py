"""CheXpert's tables by their mapping: what a row becomes, what is refused, what is noted, and the real size."""

import csv
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from index.errors import StudiesError
from index.importing.mapped import import_table
from index.importing.mapping import load_mapping
from index.importing.source import Imported
from index.table.studies import FINDINGS, Study, label_names

FRONTAL = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
SOURCE_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
LATERAL = "CheXpert-v1.0-small/train/patient00001/study1/view2_lateral.jpg"


def import_chexpert(
    csv: Path | Sequence[Path], images: Path, *, strict: bool = False, check_images: bool = True
) -> Imported:
    tables = [csv] if isinstance(csv, Path) else csv
    return import_table(load_mapping("chexpert"), images, tables=tables, strict=strict, check_images=check_images)


def a_film(path: str = FRONTAL, /, **changes: str) -> dict[str, str]:
    view = "Lateral" if "lateral" in path else "Frontal"
    film = dict.fromkeys(SOURCE_COLUMNS, "") | {
        "Path": path,
        "Sex": "Female",
        "Age": "62",
        "Frontal/Lateral": view,
    }
    return film | {"AP/PA": "" if view == "Lateral" else "PA"} | changes


def a_csv(folder: Path, *films: dict[str, str], name: str = "train.csv") -> Path:
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, films[0])
        writer.writeheader()
        writer.writerows(films)
    return folder / name


def make_images(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def studies_of(tmp_path: Path, *films: dict[str, str], strict: bool = False) -> list[dict[str, object]]:
    table = import_chexpert(a_csv(tmp_path, *films), tmp_path, strict=strict, check_images=False).table
    rows: list[dict[str, object]] = table.to_pylist()
    return rows


def test_two_views_of_a_study_are_one_row(tmp_path: Path) -> None:
    [study] = studies_of(
        tmp_path,
        a_film(LATERAL),
        a_film(**{"Edema": "1.0", "Fracture": "-1.0", "Pneumonia": "0.0"}),
    )

    assert study["study_id"] == "patient00001/study1"
    assert (study["frontal_path"], study["lateral_path"]) == (FRONTAL, LATERAL)
    about = [study[name] for name in ("projection", "sex", "age", "split")]
    assert about == ["PA", "Female", 62.0, "train"]
    labels = {name: study[name] for name in FINDINGS if study[name] is not None}
    assert labels == {"Edema": 1, "Fracture": -1, "Pneumonia": 0}


def test_the_lowest_view_number_is_the_frontal_and_the_others_are_kept(tmp_path: Path) -> None:
    paths = [FRONTAL.replace("view1", f"view{number}") for number in (10, 2, 3)]

    [study] = studies_of(tmp_path, *map(a_film, paths))

    assert study["frontal_path"] == paths[1]
    assert study["other_paths"] == [paths[2], paths[0]]


def test_a_study_of_a_lateral_alone_has_no_frontal(tmp_path: Path) -> None:
    [study] = studies_of(tmp_path, a_film(LATERAL))

    assert (study["frontal_path"], study["lateral_path"], study["projection"]) == (None, LATERAL, None)


def test_blank_and_unknown_are_kept_apart(tmp_path: Path) -> None:
    second = FRONTAL.replace("patient00001", "patient00002")

    rows = studies_of(tmp_path, a_film(Sex="Unknown", Age="0"), a_film(second, Sex="", Age="", **{"AP/PA": ""}))

    told = [(row["sex"], row["age"], row["projection"]) for row in rows]
    assert told == [("Unknown", 0.0, "PA"), (None, None, None)]


def test_train_and_valid_are_read_as_one_with_their_splits(tmp_path: Path) -> None:
    valid = "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg"
    tables = [a_csv(tmp_path, a_film()), a_csv(tmp_path, a_film(valid), name="valid.csv")]

    table = import_chexpert(tables, tmp_path, check_images=False).table

    assert table["split"].to_pylist() == ["train", "valid"]


def test_further_columns_pass_through_with_their_type(tmp_path: Path) -> None:
    second = FRONTAL.replace("study1", "study2")
    other = a_film(second, Etiology="virus", count="7", ward="007", path="x", dose="1.5")

    rows = studies_of(tmp_path, a_film(Etiology="", count="", ward="012", path="y", dose="2"), other)

    kept = [(row["Etiology"], row["count"], row["ward"], row["path"], row["dose"]) for row in rows]
    assert kept == [(None, None, "012", "y", 2.0), ("virus", 7, "007", "x", 1.5)]


def test_a_further_column_of_labels_alone_is_one_of_labels(tmp_path: Path) -> None:
    films = [
        a_film(FRONTAL.replace("study1", f"study{number}"), **further)
        for number, further in enumerate(
            (
                {"Infiltration": "1.0", "Mass": "-1", "count": "1", "empty": ""},
                {"Infiltration": "", "Mass": "0", "count": "2", "empty": ""},
            ),
            1,
        )
    ]
    table = import_chexpert(a_csv(tmp_path, *films), tmp_path, check_images=False).table

    assert label_names(table.schema) == [*FINDINGS, "Infiltration", "Mass"]
    assert (table["Infiltration"].to_pylist(), table["Mass"].to_pylist()) == ([1, None], [-1, 0])
    study = Study.from_row(table.to_pylist()[0], label_names(table.schema))
    assert (study.findings["Infiltration"], study.extra["count"], "Mass" in study.extra) == (1, 1, False)


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0", "CheXpert-v1.0-small"])
def test_the_root_is_the_folder_above_the_data_set_or_its_own(tmp_path: Path, prefix: str) -> None:
    path = FRONTAL.replace("CheXpert-v1.0-small", prefix)
    make_images(tmp_path, path)
    table = a_csv(tmp_path, a_film(path))

    above, own = import_chexpert(table, tmp_path), import_chexpert(table, tmp_path / prefix)

    assert above.table["frontal_path"].to_pylist() == [path]
    assert own.table["frontal_path"].to_pylist() == ["train/patient00001/study1/view1_frontal.jpg"]
    assert (above.layout[-6:], own.layout[-8:]) == ("{Path}", "{inside}")


def test_no_image_folder_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(
        StudiesError,
        match=r"expected the images of the table below .*such as CheXpert-v1.0-small/train/.*, got not one of them; give",
    ):
        import_chexpert(a_csv(tmp_path, a_film()), tmp_path)


def test_a_missing_image_leaves_out_its_film_and_a_study_of_none(tmp_path: Path) -> None:
    gone = FRONTAL.replace("study1", "study2")
    make_images(tmp_path, LATERAL)

    found = import_chexpert(a_csv(tmp_path, a_film(), a_film(LATERAL), a_film(gone)), tmp_path)

    assert found.table.select(["study_id", "frontal_path", "lateral_path"]).to_pylist() == [
        {"study_id": "patient00001/study1", "frontal_path": None, "lateral_path": LATERAL}
    ]
    assert [(notice.kind, notice.count) for notice in found.notices] == [
        ("missing image", 2),
        ("study without image", 1),
    ]
    assert str(found.notices[0]).endswith(f"folder: 2 ({FRONTAL}, {gone})")


@pytest.mark.parametrize(
    ("films", "said"),
    [
        (
            [a_film(Edema="2.0")],
            r"Edema: expected 1, 0, -1 or blank, got '2.0' at .*view1_frontal.jpg \(such cells: 1 of 1\)",
        ),
        ([a_film(Edema="yes")], "got 'yes'"),
        ([a_film(LATERAL, Edema="9"), a_film()], "got '9'"),
        ([a_film(), a_film()], "expected one row a film, got two for patient00001/study1 view 000000001 frontal"),
        ([a_film(), a_film(FRONTAL.replace(".jpg", ".png"))], "expected one row a film"),
        ([a_film(), a_film(LATERAL.replace("train", "valid"))], "one split, got patient00001/study1 in two"),
        ([a_film("a.jpg")], "got none of 1 files; rows skipped"),
        ([a_film("../" + FRONTAL)], "paths below the image root"),
        ([a_film(split="x")], "other names, got 'split'"),
    ],
)
def test_a_bad_row_is_refused(tmp_path: Path, films: list[dict[str, str]], said: str) -> None:
    with pytest.raises(StudiesError, match=said):
        studies_of(tmp_path, *films)


@pytest.mark.parametrize(
    ("films", "kind", "said"),
    [
        ([a_film(), a_film("train/p1/view1.jpg")], "path", r": 1 \(train/p1/view1.jpg\)"),
        ([a_film(**{"Frontal/Lateral": "Lateral"})], "view", "does not say, or says other than"),
        ([a_film(Age="old")], "age", r": 1 \(patient00001/study1 old\)"),
        ([a_film(Age="130")], "age", "left blank"),
        (
            [a_film(Edema="1"), a_film(LATERAL, Sex="Male")],
            "rows differ",
            r"\(patient00001/study1: sex \+ Edema\)",
        ),
    ],
)
def test_a_doubtful_row_is_noted_and_refused_when_strict(
    tmp_path: Path, films: list[dict[str, str]], kind: str, said: str
) -> None:
    [notice] = import_chexpert(a_csv(tmp_path, *films), tmp_path, check_images=False).notices

    assert notice.kind == kind
    with pytest.raises(StudiesError, match=said):
        studies_of(tmp_path, *films, strict=True)


def test_the_view_column_wins_over_the_name_of_the_file(tmp_path: Path) -> None:
    [study] = studies_of(tmp_path, a_film(**{"Frontal/Lateral": "Lateral"}))
    assert (study["frontal_path"], study["lateral_path"]) == (None, FRONTAL)


@pytest.mark.parametrize(("name", "films", "patients", "both"), [("kermany", 3100, 1704, 0), ("covid", 574, 280, 67)])
def test_the_real_collections_have_their_counts(
    shared_data: Path, name: str, films: int, patients: int, both: int
) -> None:
    found = import_chexpert(shared_data / name / "train.csv", shared_data)
    rows = found.table.to_pylist()

    assert found.images == films
    assert len({row["patient_id"] for row in rows}) == patients
    assert sum(bool(row["frontal_path"] and row["lateral_path"]) for row in rows) == both
    assert (
        sum(2 - [row["frontal_path"], row["lateral_path"]].count(None) + len(row["other_paths"]) for row in rows)
        == films
    )


def a_full_size_table(folder: Path) -> Path:
    """As many patients, studies and images, in the same mixture, as CheXpert's own train.csv."""
    patients, studies, both, lateral_only, images = 64_540, 187_641, 31_413, 16, 223_414
    second_frontals = images - studies - both
    films = []
    for number in range(studies):
        visit, patient = divmod(number, patients)
        stem = f"CheXpert-v1.0/train/patient{patient + 1:05d}/study{visit + 1}/view"
        ends = ["1_lateral"] if number < lateral_only else ["1_frontal"]
        ends += ["2_lateral"] if lateral_only <= number < lateral_only + both else []
        ends += ["3_frontal"] if number >= studies - second_frontals else []
        edema = ("", "1.0", "0.0", "-1.0")[number % 4]
        films += [a_film(f"{stem}{end}.jpg", Edema=edema, Age=str(number % 91)) for end in ends]
    return a_csv(folder, *films)


@pytest.mark.slow
def test_a_table_of_the_real_size_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = a_full_size_table(tmp_path)
    started = time.perf_counter()

    found = import_chexpert(table, tmp_path, check_images=False)

    seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print(
            f" [223,414 images in {seconds:.1f} s, peak {peak:.2f} GiB, the making of the table included] ",
            end="",
        )
    frontal, lateral = found.table["frontal_path"].is_valid(), found.table["lateral_path"].is_valid()
    views = list(zip(frontal.to_pylist(), lateral.to_pylist(), strict=True))
    assert (found.images, len(found.table), len(found.table["patient_id"].unique())) == (
        223_414,
        187_641,
        64_540,
    )
    assert (views.count((True, True)), views.count((False, True))) == (31_413, 16)
    assert found.notices == ()
