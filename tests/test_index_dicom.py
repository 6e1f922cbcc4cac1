"""A folder of DICOM films: grouping, views, what is left out, and that nothing identifying leaves it."""

import os
from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from encoder.body_part import is_elsewhere
from index.dicom import import_dicom
from index.errors import StudiesError
from index.imported import Imported
from index.pseudonyms import Pseudonyms
from index.studies import save_studies

KEY = b"a key of thirty-two bytes or more"


def write_film(path: Path, **tags: object) -> None:
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    told = {"PatientID": "P1", "StudyInstanceUID": "1.2.3", "Modality": "DX", "ViewPosition": "PA"} | tags
    for name, value in told.items():
        if value is not None:
            setattr(film, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    film.save_as(path, enforce_file_format=True)


def a_code(meaning: str) -> Dataset:
    code = Dataset()
    code.CodeMeaning = meaning
    return code


def kinds(found: Imported) -> dict[str, int]:
    return {notice.kind: notice.count for notice in found.notices}


def test_films_are_grouped_by_patient_and_study(tmp_path: Path) -> None:
    write_film(tmp_path / "a/3", InstanceNumber=3, PatientAge="018M", PatientSex="M", BodyPartExamined="CHEST")
    write_film(tmp_path / "b/2", InstanceNumber=2, PatientAge="018M", PatientSex="M", ViewPosition="AP")
    write_film(tmp_path / "c/1", InstanceNumber=1, ViewPosition="LL")
    write_film(tmp_path / "d", PatientID="P2")

    found = import_dicom(tmp_path)

    first, second = found.table.to_pylist()
    assert (first["study_id"], second["study_id"]) == ("P1/1.2.3", "P2/1.2.3")
    assert (first["frontal_path"], first["lateral_path"], first["other_paths"]) == ("b/2", "c/1", ["a/3"])
    assert (first["projection"], first["sex"], first["age"], first["split"]) == ("AP", "Male", 1.5, None)
    assert (found.images, found.notices) == (4, ())


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"ViewPosition": "AP"}, "frontal"),
        ({"ViewPosition": "RL"}, "lateral"),
        ({"ViewPosition": "LATERAL"}, "lateral"),
        ({"ViewCodeSequence": [a_code("postero-anterior")]}, "frontal"),
        ({"ViewCodeSequence": [a_code("left lateral")]}, "lateral"),
        ({"PatientOrientation": ["L", "F"]}, "frontal"),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"SeriesDescription": "Chest_LAT"}, "lateral"),
        ({"ProtocolName": "W033 Chest p.a. / PA"}, "frontal"),
        ({"SeriesDescription": "CHEST PA AND LATERAL", "ProtocolName": "chest ap"}, "frontal"),
    ],
)
def test_the_view_comes_from_the_first_hint_that_says_one(tmp_path: Path, tags: dict[str, object], view: str) -> None:
    write_film(tmp_path / "film", **({"ViewPosition": None} | tags))

    found = import_dicom(tmp_path)

    assert found.table[f"{view}_path"].to_pylist() == ["film"]
    assert found.notices == ()


@pytest.mark.parametrize(
    "tags", [{}, {"ViewPosition": "LLD"}, {"SeriesDescription": "CHEST"}, {"PatientOrientation": ["L", "P"]}]
)
def test_an_unknown_view_is_reported_and_is_a_frontal_or_left_out(tmp_path: Path, tags: dict[str, object]) -> None:
    write_film(tmp_path / "film", **({"ViewPosition": None} | tags))

    found = import_dicom(tmp_path)

    assert found.table["frontal_path"].to_pylist() == ["film"]
    assert kinds(found) == {"view": 1}
    with pytest.raises(StudiesError, match="got none that can be used"):
        import_dicom(tmp_path, unknown_view="skip")


def test_an_unknown_view_does_not_displace_a_known_frontal(tmp_path: Path) -> None:
    write_film(tmp_path / "1", InstanceNumber=1, ViewPosition=None)
    write_film(tmp_path / "2", InstanceNumber=2)

    [study] = import_dicom(tmp_path).table.to_pylist()

    assert (study["frontal_path"], study["other_paths"]) == ("2", ["1"])


def test_a_raw_picture_is_taken_only_where_there_is_no_other(tmp_path: Path) -> None:
    write_film(tmp_path / "raw", InstanceNumber=1, PresentationIntentType="FOR PROCESSING")
    write_film(tmp_path / "shown", InstanceNumber=2, PresentationIntentType="FOR PRESENTATION")
    write_film(tmp_path / "alone", PatientID="P2", PresentationIntentType="FOR PROCESSING")

    found = import_dicom(tmp_path)

    rows = {row["patient_id"]: (row["frontal_path"], row["other_paths"]) for row in found.table.to_pylist()}
    assert rows == {"P1": ("shown", ["raw"]), "P2": ("alone", [])}
    assert kinds(found) == {"raw": 2}


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path: Path) -> None:
    write_film(tmp_path / "good", BodyPartExamined="CHEST", PatientAge="999Y")
    write_film(tmp_path / "hand", BodyPartExamined="HAND")
    write_film(tmp_path / "knee", AnatomicRegionSequence=[a_code("Knee")])
    (tmp_path / "copy").write_bytes((tmp_path / "good").read_bytes())
    (tmp_path / "notes.txt").write_text("no film")
    # A header that is cut off is read as far as it goes, and then names no modality.
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:150])
    write_film(tmp_path / "ct", Modality="CT")
    write_film(tmp_path / "nobody", PatientID="")
    meta = b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99"
    (tmp_path / "deflated").write_bytes(bytes(128) + b"DICM" + meta + b"not deflated at all")
    (tmp_path / os.fsdecode(b"name\xff")).write_bytes((tmp_path / "good").read_bytes())

    found = import_dicom(tmp_path, elsewhere=is_elsewhere)

    expected = {"no DICOM": 2, "name": 1, "modality": 2, "body part": 2, "identity": 1, "repeated": 1, "age": 1}
    assert kinds(found) == expected
    assert (found.images, len(found.table)) == (10, 1)
    with pytest.raises(StudiesError, match="a strict import allows none"):
        import_dicom(tmp_path, strict=True)


def test_pseudonyms_hide_patient_and_study_and_keep_them_apart(tmp_path: Path) -> None:
    write_film(tmp_path / "a")
    write_film(tmp_path / "b", StudyInstanceUID="1.2.4")

    ids = import_dicom(tmp_path, pseudonyms=Pseudonyms(KEY)).table["study_id"].to_pylist()

    hidden = Pseudonyms(KEY)
    patient = hidden.of("patient", "P1")
    assert ids == sorted(f"{patient}/{hidden.of('study', uid)}" for uid in ("1.2.3", "1.2.4"))


def test_pseudonymised_studies_stand_in_the_order_of_their_new_ids(tmp_path: Path) -> None:
    for number in range(20):
        write_film(tmp_path / f"{number:02}", PatientID=f"P{number:02}")

    ids = import_dicom(tmp_path, pseudonyms=Pseudonyms(KEY)).table["patient_id"].to_pylist()

    archive = [Pseudonyms(KEY).of("patient", f"P{number:02}") for number in range(20)]
    assert ids == sorted(archive) != archive


@pytest.mark.parametrize(("age", "told"), [("089Y", 89), ("090Y", 90), ("104Y", 90), ("006M", 0.5), ("", None)])
def test_beside_a_pseudonym_nobody_is_older_than_90(tmp_path: Path, age: str, told: float | None) -> None:
    write_film(tmp_path / "a", PatientAge=age)

    assert import_dicom(tmp_path, pseudonyms=Pseudonyms(KEY)).table["age"].to_pylist() == [told]


def test_films_with_burned_in_text_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    write_film(tmp_path / "named", BurnedInAnnotation="YES")
    write_film(tmp_path / "clean", BurnedInAnnotation="NO", StudyInstanceUID="1.2.4")

    found, all_of_them = import_dicom(tmp_path), import_dicom(tmp_path, keep_burned_in=True)

    assert kinds(found) == {"burned in": 1}
    assert found.table["frontal_path"].to_pylist() == ["clean"]
    assert (all_of_them.notices, len(all_of_them.table)) == ((), 2)


def test_copies_name_the_paths_and_a_film_that_has_none_is_left_out(tmp_path: Path) -> None:
    write_film(tmp_path / "JANE^DOE/lost", StudyInstanceUID="1.2.4")
    write_film(tmp_path / "JANE^DOE/film")
    asked: dict[str, str] = {}

    def copies(films: Sequence[tuple[Path, str]]) -> list[str | None]:
        asked.update((name, file.name) for file, name in films)
        return [None if file.name == "lost" else f"{name}.png" for file, name in films]

    found = import_dicom(tmp_path, pseudonyms=Pseudonyms(KEY), copies=copies)

    [path] = found.table["frontal_path"].to_pylist()
    assert asked[path.removesuffix(".png")] == "film"
    assert (kinds(found), "JANE" in str(found)) == ({"picture": 1}, False)


MARKED = (
    *(
        "PatientName",
        "PatientID",
        "PatientSex",
        "PatientAddress",
        "PatientComments",
        "AccessionNumber",
        "StudyID",
    ),
    *(
        "InstitutionName",
        "ReferringPhysicianName",
        "OperatorsName",
        "StationName",
        "ImageComments",
        "Modality",
    ),
    *(
        "BodyPartExamined",
        "ViewPosition",
        "SeriesDescription",
        "ProtocolName",
        "StudyDescription",
        "PatientAge",
    ),
)


@pytest.mark.parametrize("modality", ["DX", "canary that is longer than its VR allows"])
def test_nothing_identifying_leaves_the_header(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], modality: str
) -> None:
    tags = dict.fromkeys(MARKED, "canary that is longer than its VR allows" * 3) | {"Modality": modality}
    with pydicom.config.disable_value_validation():
        write_film(tmp_path / "films/film", PatientBirthDate="canary", **tags)
    write_film(tmp_path / "films/other")

    found = import_dicom(tmp_path / "films", pseudonyms=Pseudonyms(KEY))
    save_studies(found.table, tmp_path / "studies.parquet")

    told = f"{found} {found.table.to_pylist()} {caplog.text} {capfd.readouterr()}"
    assert "canary" not in told.lower()
    assert b"canary" not in (tmp_path / "studies.parquet").read_bytes().lower()


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_films_is_refused(tmp_path: Path, there: bool) -> None:
    with pytest.raises(StudiesError, match=r"expected DICOM films below|expected a folder of DICOM files"):
        import_dicom(tmp_path if there else tmp_path / "none")


def test_the_real_films_are_imported_or_left_out_with_a_reason(shared_data: Path) -> None:
    found = import_dicom(shared_data / "dicom", elsewhere=is_elsewhere)
    paths = [path for row in found.table.to_pylist() for path in (row["frontal_path"], *row["other_paths"])]

    assert (found.images, len(found.table)) == (12, 3)
    assert kinds(found) == {"body part": 6, "identity": 1, "repeated": 1, "view": 1}
    assert len(paths) == 4
    assert all(pydicom.dcmread(shared_data / "dicom" / path, stop_before_pixels=True) for path in paths)
