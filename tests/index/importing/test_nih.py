"""NIH's tables by their mapping: which words map, what stays blank, and how images are found."""

from pathlib import Path

import pytest

from index.errors import StudiesError
from index.importing.mapped import import_table
from index.importing.mapping import load_mapping
from index.importing.source import Imported
from index.table.studies import FINDINGS

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


OTHER_WORDS = [name for name in load_mapping("nih").findings if name not in FINDINGS]


def import_nih(csv: Path, images: Path, *, strict: bool = False, check_images: bool = True) -> Imported:
    words = {"images": images, "tables": [csv], "strict": strict, "check_images": check_images}
    return import_table(load_mapping("nih"), csv.parent, **words)


def a_film(file: str = "00000427_003.png", words: str = "No Finding", age: str = "77", patient: str = "427") -> str:
    return f"{file},{words},3,{patient},{age},F,PA,2830,2889,0.143,0.143,"


def a_csv(folder: Path, *films: str, header: str = HEADER) -> Path:
    (folder / "entries.csv").write_text("\n".join([header, *films]) + "\n")
    return folder / "entries.csv"


def studies_of(tmp_path: Path, *films: str, strict: bool = False) -> list[dict[str, object]]:
    table = import_nih(a_csv(tmp_path, *films), tmp_path, strict=strict, check_images=False).table
    rows: list[dict[str, object]] = table.to_pylist()
    return rows


def test_a_film_is_a_study_named_after_its_file(tmp_path: Path) -> None:
    [study] = studies_of(tmp_path, a_film())

    assert (study["study_id"], study["patient_id"]) == ("patient00000427/study3", "patient00000427")
    assert (study["frontal_path"], study["lateral_path"], study["split"]) == ("00000427_003.png", None, None)
    assert (study["projection"], study["sex"], study["age"]) == ("PA", "Female", 77.0)
    assert (study["Follow-up #"], study["Original Image Width"], study["Original Image Pixel Spacing Y"]) == (
        3,
        2830,
        0.143,
    )


def test_words_map_where_they_mean_the_same_and_pass_through_where_not(tmp_path: Path) -> None:
    [study] = studies_of(tmp_path, a_film(words="Effusion|Edema|Mass|Pleural_Thickening"))

    marked = {name for name in (*FINDINGS, *OTHER_WORDS) if study[name] == 1}
    assert marked == {"Pleural Effusion", "Edema", "Mass", "Pleural_Thickening"}
    assert study["Finding Labels"] == "Effusion|Edema|Mass|Pleural_Thickening"


def test_a_word_that_is_not_listed_is_blank_and_not_0(tmp_path: Path) -> None:
    [study] = studies_of(tmp_path, a_film())

    assert study["No Finding"] == 1
    assert {study[name] for name in (*FINDINGS[1:], *OTHER_WORDS)} == {None}


def test_every_word_of_nih_has_one_place() -> None:
    findings = load_mapping("nih").findings

    assert len({word for [word] in findings.values()}) == len(findings) == 15
    assert len(OTHER_WORDS) == 7


def test_images_are_found_by_name_in_any_folder_and_with_any_suffix(tmp_path: Path) -> None:
    for path in ("images_001/images/00000427_003.png", "images_002/00000428_000.JPG"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    other = a_film("00000428_000.png", patient="428")

    found = import_nih(a_csv(tmp_path, a_film(), other), tmp_path)

    assert found.table["frontal_path"].to_pylist() == [
        "images_001/images/00000427_003.png",
        "images_002/00000428_000.JPG",
    ]
    assert found.notices == ()


def test_a_missing_image_and_one_that_is_there_twice_are_noted(tmp_path: Path) -> None:
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "00000427_003.png").touch()

    found = import_nih(a_csv(tmp_path, a_film(), a_film("00000428_000.png", patient="428")), tmp_path)

    assert found.table["frontal_path"].to_pylist() == ["a/00000427_003.png"]
    assert [notice.kind for notice in found.notices] == ["several images", "missing image"]
    assert found.notices[1].examples == ("00000428_000.png",)


@pytest.mark.parametrize(
    ("films", "kind"),
    [
        ([a_film(), a_film("427.png")], "path"),
        ([a_film(patient="428")], "patient"),
        ([a_film(words="Edema|Gremlins")], "word"),
        ([a_film(age="411")], "age"),
    ],
)
def test_a_doubtful_row_is_noted_and_refused_when_strict(tmp_path: Path, films: list[str], kind: str) -> None:
    [notice] = import_nih(a_csv(tmp_path, *films), tmp_path, check_images=False).notices

    assert (notice.kind, notice.count) == (kind, 1)
    with pytest.raises(StudiesError, match="a strict import allows none"):
        studies_of(tmp_path, *films, strict=True)


@pytest.mark.parametrize(
    ("films", "header", "said"),
    [
        ([a_film(), a_film()], HEADER, "got two for 00000427_003.png"),
        ([a_film("427.png")], HEADER, "got none"),
        ([a_film()], HEADER.replace("Patient Age", "Age"), "expected column 'Patient Age'"),
        ([a_film()], HEADER.replace("Height]", "Mass"), "other names, got 'Mass'"),
        ([a_film()], HEADER.replace("Height]", "Patient ID"), "every column name once"),
        ([], HEADER, "at least one row"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, films: list[str], header: str, said: str) -> None:
    with pytest.raises(StudiesError, match=said):
        import_nih(a_csv(tmp_path, *films, header=header), tmp_path, check_images=False)


def test_no_image_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudiesError, match="got not one of them"):
        import_nih(a_csv(tmp_path, a_film()), tmp_path)


def test_the_real_table_has_its_counts(shared_data: Path) -> None:
    found = import_nih(shared_data / "nih" / "Data_Entry_2017.csv", shared_data / "nih")
    table = found.table

    assert (found.images, len(table), len(table["patient_id"].unique())) == (982, 982, 781)
    assert found.notices == ()
    assert all((shared_data / "nih" / path).is_file() for path in table["frontal_path"].to_pylist())
    assert set(table["Pleural Effusion"].to_pylist()) == {1, None}
