"""Two films that are given as one study: of one patient, each in its place, told without a word of who it is."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import refusal
from film_files import RAMP, dicom, picture

from encoder.films.dicom_elements import read_header
from index.errors import MixedPatients
from index.importing import pairing

film_notices = partial(pairing.film_notices, read_header=read_header)
require_one_patient = partial(pairing.require_one_patient, read_header=read_header)
ANNA: dict[str, Any] = {"PatientID": "ANNA-1", "StudyInstanceUID": "1.2.840.1", "SOPInstanceUID": "1.2.840.1.1"}
FRONTAL: dict[str, Any] = {"ViewPosition": "PA"}
LATERAL: dict[str, Any] = {"ViewPosition": "LL", "SOPInstanceUID": "1.2.840.1.2"}


@pytest.mark.parametrize(
    ("one", "other", "mixed"),
    [
        ({}, {}, False),
        ({}, {"PatientID": "BRUNO-2"}, True),
        ({}, {"PatientID": " ANNA-1 "}, False),
        ({}, {"PatientID": ""}, False),
        ({"IssuerOfPatientID": "North"}, {"IssuerOfPatientID": "South"}, True),
        ({"IssuerOfPatientID": "North"}, {}, False),
    ],
)
def test_films_of_two_patients_are_refused_without_their_ids(
    one: dict[str, Any], other: dict[str, Any], mixed: bool
) -> None:
    films = dicom(**ANNA | FRONTAL | one), dicom(**{"PatientID": "ANNA-1"} | LATERAL | other)
    if not mixed:
        return require_one_patient(*films)
    with pytest.raises(MixedPatients, match="of two patients") as refused:
        require_one_patient(*films)
    assert not {"ANNA", "BRUNO", "North", "South"} & set(str(refused.value).replace("-", " ").split())
    return None


def test_files_are_compared_as_uploads_are(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(**ANNA))
    (tmp_path / "b.dcm").write_bytes(dicom(**ANNA | {"PatientID": "BRUNO-2"}))
    with pytest.raises(MixedPatients):
        require_one_patient(tmp_path / "a.dcm", tmp_path / "b.dcm")


@pytest.mark.parametrize("other", [picture(RAMP.astype(np.uint8)), b"Dear colleague", b""])
def test_where_no_header_is_to_be_read_nothing_is_refused(other: bytes) -> None:
    require_one_patient(dicom(**ANNA), other)
    require_one_patient(dicom(**ANNA), None)
    assert film_notices({"frontal": dicom(**ANNA | FRONTAL), "lateral": other}) == []


@pytest.mark.parametrize(
    ("frontal", "lateral", "told"),
    [
        (FRONTAL, LATERAL, []),
        (FRONTAL, FRONTAL | {"SOPInstanceUID": "1.3"}, ["Two frontals: the film given as lateral is, as its"]),
        (LATERAL, LATERAL | {"SOPInstanceUID": "1.3"}, ["Two laterals: the film given as frontal is, as its"]),
        (LATERAL, FRONTAL, ["The frontal and the lateral film seem to be swapped"]),
        (LATERAL, None, ["The film given as frontal is, as its DICOM header says, a lateral."]),
        (FRONTAL, LATERAL | {"StudyInstanceUID": "1.9"}, ["The two films are of different studies"]),
        (FRONTAL, FRONTAL, ["The same film was given as frontal and as lateral"]),
    ],
)
def test_a_film_in_the_others_place_is_told_by_its_header(
    frontal: dict[str, Any], lateral: dict[str, Any] | None, told: list[str]
) -> None:
    films = {"frontal": dicom(**ANNA | frontal)}
    films |= {"lateral": dicom(RAMP + 1, **ANNA | lateral)} if lateral is not None else {}

    found = film_notices(films, {"frontal": "frontal"})
    assert len(found) == len(told)
    assert all(one.startswith(start) for one, start in zip(found, told, strict=True))


def test_a_picture_is_told_by_its_looks_and_a_header_counts_before_them() -> None:
    one, other = (picture((RAMP // count).astype(np.uint8)) for count in (1, 2))

    assert film_notices({"frontal": one, "lateral": other}, {"frontal": "frontal", "lateral": "frontal"}) == [
        "Two frontals: the film given as lateral looks, beside this collection's films, like a frontal."
    ]
    assert film_notices({"frontal": dicom(**FRONTAL)}, {"frontal": "lateral"}) == []
    assert film_notices({"frontal": one, "lateral": one})[0].startswith(
        "The same film was given as frontal and as lateral"
    )
    assert film_notices({"frontal": one, "lateral": other}, same=True)[0].startswith("The same film was given")


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "--encoder", "e.safetensors", "--probe", "probe"),
        ("explain", "--encoder", "e.safetensors", "--probe", "probe", "--finding", "Edema", "--out", "maps"),
    ],
)
def test_films_of_two_patients_are_refused_before_a_network_is_loaded(tmp_path: Path, words: tuple[str, ...]) -> None:
    films = {view: tmp_path / f"{view}.dcm" for view in ("frontal", "lateral")}
    for view, film in films.items():
        film.write_bytes(dicom(PatientID=view))
    told = refusal(*words, "--frontal", films["frontal"], "--lateral", films["lateral"])

    assert "of two patients, as their DICOM headers say" in told
