"""A folder of DICOM films: grouping, views, what is left out, and that nothing identifying leaves it."""

import os
import tracemalloc
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import pytest
from command_line import done
from film_files import dicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForProcessing,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from encoder.films.body_part import is_elsewhere
from encoder.films.dicom_elements import read_header
from index.errors import StudiesError
from index.importing import dicom as importing
from index.importing.pseudonyms import Pseudonyms
from index.importing.source import Imported, NothingUsable
from index.table.studies import save_studies

KEY = b"a key of thirty-two bytes or more"


import_dicom = partial(importing.import_dicom, read_header=read_header)


def write_film(path: Path, syntax: Any = ExplicitVRLittleEndian, **tags: object) -> None:
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = syntax
    film.SOPClassUID, film.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    film.Rows, film.Columns, film.BitsAllocated = 2, 2, 8
    film.add_new("PixelData", "OB", bytes(4))
    told = {"PatientID": "P1", "StudyInstanceUID": "1.2.3", "Modality": "DX", "ViewPosition": "PA"} | tags
    path.parent.mkdir(parents=True, exist_ok=True)
    with pydicom.config.disable_value_validation():
        for name, value in told.items():
            setattr(film, name, value)
            if value is None:
                delattr(film, name)
        film.save_as(path, enforce_file_format=True)


def a_code(meaning: str, value: str = "") -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodeMeaning = value, meaning
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


def test_results_of_our_own_are_known_by_their_equipment_and_left_out(tmp_path: Path) -> None:
    ours = {"Manufacturer": "Precedent", "ManufacturerModelName": "Similar-case search"}
    write_film(tmp_path / "film", Manufacturer="Precedent", ManufacturerModelName="Bucky 3000")
    write_film(tmp_path / "map", **ours)
    write_film(tmp_path / "report", **ours, Modality="SR", PixelData=None)

    found = import_dicom(tmp_path, strict=True)  # which is told what it left out, as somebody asked for

    assert found.table["frontal_path"].to_pylist() == ["film"]
    assert kinds(found) == {"ours": 2}


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


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "BONE_SUPPRESSED"]}, "derived"),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, ""),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "derived"),
        ({"SeriesDescription": "Chest PA soft tissue"}, "derived"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw"),
        ({"SOPClassUID": DigitalXRayImageStorageForProcessing}, "raw"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PixelData": bytes(12)}, "colour"),
        ({"SeriesNumber": 2, "InstanceNumber": 1}, ""),
    ],
)
def test_the_film_as_it_was_taken_comes_first(tmp_path: Path, other: dict[str, object], kind: str) -> None:
    write_film(tmp_path / "a", **({"SeriesNumber": 1, "InstanceNumber": 1} | other))
    write_film(tmp_path / "b", SeriesNumber=1, InstanceNumber=2, ImageType=["ORIGINAL", "PRIMARY"])
    write_film(tmp_path / "c", **({"SeriesNumber": 1, "PatientID": "P2"} | other))

    found = import_dicom(tmp_path)

    rows = {row["patient_id"]: (row["frontal_path"], row["other_paths"]) for row in found.table.to_pylist()}
    assert rows == {"P1": ("b", ["a"]), "P2": ("c", [])}
    assert kinds(found) == ({kind: 2} if kind else {})


def test_a_grey_film_of_unknown_view_comes_before_a_frontal_in_colour(tmp_path: Path) -> None:
    write_film(tmp_path / "a", SamplesPerPixel=3, PhotometricInterpretation="RGB", PixelData=bytes(12))
    write_film(tmp_path / "b", ViewPosition=None)

    assert import_dicom(tmp_path).table["frontal_path"].to_pylist() == ["b"]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"NumberOfFrames": 2, "PixelData": bytes(8)}, "frames"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"PixelData": None}, "pixels"),
        ({"PixelData": b""}, "pixels"),
        ({"Rows": None}, "pixels"),
        ({"PixelData": bytes(2)}, "cut"),
        ({"SOPClassUID": EncapsulatedPDFStorage, "Modality": "OT"}, "modality"),
        ({"Modality": "PR"}, "modality"),
    ],
)
def test_what_no_film_can_be_read_from_is_told_at_the_import(
    tmp_path: Path, tags: dict[str, object], reason: str
) -> None:
    write_film(tmp_path / "1", **tags)
    write_film(tmp_path / "2")

    found = import_dicom(tmp_path)

    assert found.table["frontal_path"].to_pylist() == ["2"]
    assert kinds(found) == {reason: 1}


def test_of_two_files_of_one_instance_the_whole_one_is_taken(tmp_path: Path) -> None:
    write_film(tmp_path / "b", SOPInstanceUID="1.2.9")
    (tmp_path / "a").write_bytes((tmp_path / "b").read_bytes()[:-2])
    (tmp_path / "c").write_bytes((tmp_path / "b").read_bytes())

    found = import_dicom(tmp_path)

    assert found.table["frontal_path"].to_pylist() == ["b"]
    assert kinds(found) == {"cut": 1, "repeated": 1}


def test_a_compressed_film_without_the_end_of_its_frames_is_cut_off(tmp_path: Path) -> None:
    whole = {"PixelData": encapsulate([bytes(100)])}
    write_film(tmp_path / "whole", syntax=JPEGBaseline8Bit, **whole)
    for name, end in {"no-end": -8, "half": -60}.items():
        (tmp_path / name).write_bytes((tmp_path / "whole").read_bytes()[:end])

    found = import_dicom(tmp_path)

    assert found.table["frontal_path"].to_pylist() == ["whole"]
    assert kinds(found) == {"cut": 2}


def test_a_patient_is_one_among_those_of_one_issuer(tmp_path: Path) -> None:
    write_film(tmp_path / "a", PatientID="12345", IssuerOfPatientID="A")
    write_film(tmp_path / "a-lateral", PatientID="12345", ViewPosition="LL")
    write_film(tmp_path / "b", PatientID="12345", IssuerOfPatientID="B", StudyInstanceUID="1.2.4")
    write_film(tmp_path / "c", PatientID="12345", StudyInstanceUID="1.2.5")
    write_film(tmp_path / "d", PatientID="12345^^^A", StudyInstanceUID="1.2.3")

    found = import_dicom(tmp_path)

    patients = dict(zip(found.table["frontal_path"].to_pylist(), found.table["patient_id"].to_pylist(), strict=True))
    assert patients == {"a": "12345^^^A", "b": "12345^^^B", "c": "12345", "d": "12345%5E%5E%5EA"}
    assert found.table["lateral_path"].to_pylist()[0] == "a-lateral"
    assert kinds(found) == {"issuer": 2}


def test_a_patient_whose_older_films_name_no_issuer_stays_one(tmp_path: Path) -> None:
    write_film(tmp_path / "new", IssuerOfPatientID="A")
    write_film(tmp_path / "old", StudyInstanceUID="1.2.4")

    found = import_dicom(tmp_path)

    assert found.table["patient_id"].to_pylist() == ["P1^^^A", "P1^^^A"]
    assert kinds(found) == {"issuer": 1}


def test_an_issuer_without_a_name_is_known_by_its_identifier(tmp_path: Path) -> None:
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.840.1", "ISO"
    write_film(tmp_path / "a", IssuerOfPatientIDQualifiersSequence=[issuer])

    assert import_dicom(tmp_path).table["patient_id"].to_pylist() == ["P1^^^1.2.840.1"]


@pytest.mark.parametrize(
    ("written", "character_set", "patient"),
    [
        (b"007 ", None, "007"),
        (b" 12\0", None, "12"),
        (b"A\\B", None, "A\\B"),
        (b"A/B", None, "A/B"),
        (b"/A//B/", None, "%2FA%2F%2FB%2F"),
        (b"..", None, "%2E%2E"),
        (b"A\x1b[2JB", None, "A%1B[2JB"),
        (b"A\nB", None, "A%0AB"),
        (b"M\xfcller", "ISO_IR 100", "M\xfcller"),
        (b"M\xfcller", None, "M\xfcller"),
        ("M\xfcller".encode(), "ISO_IR 192", "M\xfcller"),
        ("M\xfcller".encode(), None, "M\xfcller"),
        ("\u60a3\u80057".encode("gb18030"), "GB18030", "\u60a3\u80057"),
        (b"M\xfc\xfcller", "ISO_IR 192", "M\xfc\xfcller"),
        (b"M\xfcller", "ISO_IR of another planet", "M\xfcller"),
    ],
)
def test_an_id_is_its_bytes_in_their_character_set(
    tmp_path: Path, written: bytes, character_set: str | None, patient: str
) -> None:
    marker = "Q" * (len(written) + len(written) % 2)
    write_film(tmp_path / "film", PatientID=marker)
    content = (tmp_path / "film").read_bytes().replace(marker.encode(), written.ljust(len(marker)))
    if character_set:
        named = character_set.encode() + b" " * (len(character_set) % 2)
        element = b"\x08\0\x05\0CS" + len(named).to_bytes(2, "little") + named
        content = content.replace(b"\x08\0\x16\0UI", element + b"\x08\0\x16\0UI", 1)
    (tmp_path / "film").write_bytes(content)

    assert import_dicom(tmp_path).table["patient_id"].to_pylist() == [patient]


def test_a_study_is_the_last_part_of_its_id_and_never_a_films_address(tmp_path: Path) -> None:
    write_film(tmp_path / "a", PatientID="A/1", StudyInstanceUID="2")
    write_film(tmp_path / "b", PatientID="A", StudyInstanceUID="1/2")
    write_film(tmp_path / "c", PatientID="A", StudyInstanceUID="image")

    assert import_dicom(tmp_path).table["study_id"].to_pylist() == ["A/1/2", "A/1%2F2", "A/%69mage"]


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "003W"}, 3 / 52.1775),
        ({"PatientAge": "012D"}, 12 / 365.2425),
        ({"PatientAge": "045y"}, 45),
        ({"PatientBirthDate": "19600615", "StudyDate": "20200614"}, 59),
        ({"PatientBirthDate": "19600615", "StudyDate": "20200615"}, 60),
        ({"PatientAge": "XXXY", "PatientBirthDate": "19600615", "AcquisitionDate": "20200615"}, 60),
        ({"PatientAge": "050Y", "PatientBirthDate": "19600615", "StudyDate": "20200615"}, 50),
        ({"PatientBirthDate": "20200101", "StudyDate": "20200701"}, 182 / 365.2425),
        ({"PatientBirthDate": "20210101", "StudyDate": "20200701"}, None),
        ({"PatientBirthDate": "18000101", "StudyDate": "20200701"}, None),
        ({"PatientBirthDate": "19600000", "StudyDate": "20200701"}, None),
    ],
)
def test_an_age_is_told_or_counted_from_birth_to_study(
    tmp_path: Path, tags: dict[str, object], age: float | None
) -> None:
    write_film(tmp_path / "film", **tags)

    [told] = import_dicom(tmp_path).table["age"].to_pylist()

    assert told == (age if age is None else pytest.approx(age, abs=1e-4))


@pytest.mark.parametrize(
    ("written", "sex"), [("M", "Male"), ("f", "Female"), ("O", "Other"), ("U", None), ("", None), (None, None)]
)
def test_a_sex_is_male_female_other_or_not_told(tmp_path: Path, written: str | None, sex: str | None) -> None:
    write_film(tmp_path / "film", PatientSex=written)
    write_film(tmp_path / "other", ViewPosition="LL")

    assert import_dicom(tmp_path).table["sex"].to_pylist() == [sex]


def test_what_the_frontal_does_not_tell_of_the_person_another_film_does(tmp_path: Path) -> None:
    write_film(tmp_path / "frontal")
    write_film(tmp_path / "lateral", ViewPosition="LL", PatientSex="F", PatientAge="045Y")

    [study] = import_dicom(tmp_path).table.to_pylist()

    assert (study["sex"], study["age"]) == ("Female", 45)


def test_places_that_disagree_are_noted_and_most_of_them_decide(tmp_path: Path) -> None:
    lateral = {"ViewCodeSequence": [a_code("left lateral", "R-10236")], "PatientOrientation": ["A", "F"]}
    write_film(tmp_path / "a", ViewPosition="PA", SeriesDescription="Chest lateral", **lateral)
    write_film(tmp_path / "b", PatientID="P2", ViewPosition="PA", ViewCodeSequence=[a_code("ap", "R-10206")])

    found = import_dicom(tmp_path)

    first, second = found.table.to_pylist()
    assert (first["lateral_path"], first["frontal_path"], first["projection"]) == ("a", None, "LL")
    assert (second["frontal_path"], second["projection"]) == ("b", "AP")
    assert kinds(found) == {"disputed": 2}


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [
        ("{patient}/{study}/*", ["p1/s1", "p2/s1"]),
        ("{patient}/**", ["p1/1.2.3", "p2/1.2.3"]),
        ("*/{study}/*.dcm", ["P1/s1"]),
        ("**/{patient}_{study}.dcm", ["a/b", "c/d"]),
    ],
)
def test_ids_come_from_the_paths_where_that_is_asked_for(tmp_path: Path, pattern: str, ids: list[str]) -> None:
    write_film(tmp_path / "p1/s1/a_b.dcm", IssuerOfPatientID="ANON" if "{patient}" in pattern else None)
    write_film(tmp_path / "p2/s1/c_d.dcm", ViewPosition="LL")

    assert import_dicom(tmp_path, ids_from=pattern).table["study_id"].to_pylist() == ids


def test_a_path_that_does_not_fit_the_pattern_is_left_out(tmp_path: Path) -> None:
    write_film(tmp_path / "p1/s1/film", PatientID="", StudyInstanceUID=None)
    write_film(tmp_path / "stray")

    found = import_dicom(tmp_path, ids_from="{patient}/{study}/*")

    assert found.table["study_id"].to_pylist() == ["p1/s1"]
    assert kinds(found) == {"place": 1}
    for pattern in ("*/*", "{patient}/{patient}", "{name}/*"):
        with pytest.raises(StudiesError, match="expected a pattern of ids such as"):
            import_dicom(tmp_path, ids_from=pattern)


def test_words_that_name_the_chest_outweigh_a_default_body_part(tmp_path: Path) -> None:
    write_film(tmp_path / "a", BodyPartExamined="ABDOMEN", SeriesDescription="CHEST PA")
    write_film(tmp_path / "b", BodyPartExamined="ABDOMEN", PatientID="P2")
    write_film(tmp_path / "c", BodyPartExamined="HAND", PatientID="P3")

    found = import_dicom(tmp_path, elsewhere=is_elsewhere)
    more = import_dicom(tmp_path, elsewhere=partial(is_elsewhere, ignored=["ABDOMEN"]))

    assert found.table["patient_id"].to_pylist() == ["P1"]
    assert more.table["patient_id"].to_pylist() == ["P1", "P2"]
    assert (kinds(found), kinds(more)) == ({"body part": 2}, {"body part": 1})


@pytest.mark.parametrize("start", [132, 128, 0])
def test_a_data_set_without_the_start_of_a_file_is_read_and_noted(tmp_path: Path, start: int) -> None:
    write_film(tmp_path / "film")
    content = (tmp_path / "film").read_bytes()
    data_set = content[content.index(b"\x08\0\x16\0UI") :]
    (tmp_path / "film").write_bytes({132: content[132:], 128: content[128:], 0: data_set}[start])
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(6000))

    found = import_dicom(tmp_path)

    assert found.table["study_id"].to_pylist() == ["P1/1.2.3"]
    assert kinds(found) == {"bare": 1, "no DICOM": 1}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_a_header_is_read_in_every_way_of_writing_it(tmp_path: Path, syntax: UID) -> None:
    codes = [a_code("postero-anterior", "R-10214")]
    write_film(tmp_path / "film", syntax=syntax, ViewPosition=None, ViewCodeSequence=codes, SeriesNumber=1)

    found = import_dicom(tmp_path)

    assert found.table["projection"].to_pylist() == ["PA"]
    assert found.notices == ()


def hostile(kind: str) -> bytes:
    """Return a data set of an explicit VR whose header costs much: many elements, empty items, or deep sequences."""
    sequence = b"\x08\0\x10\x11SQ\0\0\xff\xff\xff\xff"
    item, end = b"\xfe\xff\0\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"
    return {
        "elements": b"\x09\0\x10\0LO\0\0" * 200_000,
        "items": sequence + (item + end) * 100_000,
        "depth": (sequence + item) * 100_000,
        "code items": b"\x54\0\x20\x02SQ\0\0\xff\xff\xff\xff" + (item + end) * 100_000,
    }[kind]


@pytest.mark.parametrize("kind", ["elements", "items", "depth", "code items"])
def test_a_header_larger_than_any_films_is_left_out_within_the_budget(tmp_path: Path, kind: str) -> None:
    write_film(tmp_path / "film")
    content = (tmp_path / "film").read_bytes()
    (tmp_path / "hostile").write_bytes(content[: content.index(b"\x10\0\x20\0LO")] + hostile(kind))
    tracemalloc.start()

    found = import_dicom(tmp_path)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kinds(found) == {"budget": 1}
    assert peak < 15_000_000


def test_a_value_of_many_parts_is_left_out_and_costs_nothing(tmp_path: Path) -> None:
    write_film(tmp_path / "film", syntax=ImplicitVRLittleEndian, ImageType=["A"] * 50_000)
    tracemalloc.start()

    found = import_dicom(tmp_path)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(found.table), peak < 1_500_000) == (1, True)


def test_nothing_usable_is_told_with_its_counts_and_reasons(tmp_path: Path) -> None:
    write_film(tmp_path / "hand", BodyPartExamined="HAND")
    (tmp_path / "notes.txt").write_text("no film")

    with pytest.raises(NothingUsable, match=r"none that can be used of 2 files; .*: 1 \(notes.txt\); .*: 1 \(hand\)"):
        import_dicom(tmp_path, elsewhere=is_elsewhere)
    with pytest.raises(NothingUsable) as refusal:
        import_dicom(tmp_path, elsewhere=is_elsewhere, pseudonyms=Pseudonyms(KEY))
    assert "hand" not in str(refusal.value).replace(str(tmp_path), "")


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
    assert kinds(found) == {"body part": 6, "identity": 1, "repeated": 1, "view": 1, "derived": 1}
    assert len(paths) == 4
    assert all(pydicom.dcmread(shared_data / "dicom" / path, stop_before_pixels=True) for path in paths)


def test_what_is_read_otherwise_than_written_is_noted_by_its_sentence(tmp_path: Path) -> None:
    told = {
        "a.dcm": ["the window is left out"],
        "b.dcm": ["the window is left out", "NumberOfFrames is 0"],
        "c.dcm": [],
    }
    for name in told:
        write_film(tmp_path / name, StudyInstanceUID=f"1.2.{ord(name[0])}")

    found = import_dicom(tmp_path, remarks=lambda file: told[file.name])

    noted = {one.sentence.rpartition(": ")[2]: one.examples for one in found.notices if one.kind == "reading"}
    assert noted == {"NumberOfFrames is 0": ("b.dcm",), "the window is left out": ("a.dcm", "b.dcm")}


def test_the_command_notes_what_is_read_otherwise_than_written(tmp_path: Path) -> None:
    ids = {"PatientID": "P1", "StudyInstanceUID": "1.2", "SOPInstanceUID": "1.2.1", "ViewPosition": "PA"}
    (tmp_path / "film").write_bytes(dicom(WindowCenter=2000, WindowWidth=0, **ids))
    (tmp_path / "out").mkdir()

    told = done("import", "dicom", tmp_path, "--out", tmp_path / "out/studies.parquet").stderr

    assert "films read otherwise than written: the window is no centre and width above 0" in told
