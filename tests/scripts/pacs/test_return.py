"""What is found returns to its study in a real Orthanc: valid objects, each once, known as ours, nothing told of anybody."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pydicom
import pytest

pytest.importorskip("highdicom", reason="no highdicom; run: pip install 'cxr-precedent[pacs]'")
pytest.importorskip("pynetdicom", reason="no pynetdicom; run: pip install 'cxr-precedent[pacs]'")
from click.testing import CliRunner
from command_line import done, refusal
from pacs_world import Orthanc, bomb, free_port, needs_orthanc, orthanc
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from results_world import (
    BORN,
    CASES,
    NAME,
    QUERY,
    case_films,
    faults_of,
    needs_dciodvfy,
    query_films,
    save_index,
    save_world,
)

from encoder.films.dicom_elements import read_header
from encoder.network.model import DualEfficientNetEncoder
from index.importing.crosswalk import Crosswalk
from index.importing.dicom import import_dicom
from index.importing.pseudonyms import Pseudonyms, load_key
from index.table.studies import FINDINGS
from scripts.cli import precedent
from scripts.pacs.rest import Pacs, PacsError
from scripts.pacs.results import NOTICE
from scripts.pacs.structured_report import finding_code

pytestmark = pytest.mark.slow
ALL = ("--return", "sr,sc,kos")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: DualEfficientNetEncoder) -> Path:
    return save_world(tmp_path_factory.mktemp("return"), tiny_encoder)


def made_with(world: Path, *, index: str | Path = "index") -> list[str | Path]:
    """Return the words that every call has."""
    return [world / index, "--encoder", world / "encoder.safetensors", "--probe", world / "probe"]


def returned(world: Path, study: str | Path, to: str | Path, *words: str) -> list[dict[str, Any]]:
    """Return what the verb says of each object that it returned."""
    result = done("return", study, *made_with(world), "--to", to, "--json", *(words or ALL))
    assert NAME.split("^")[0] not in result.output
    assert BORN not in result.output
    told: list[dict[str, Any]] = json.loads(result.stdout)["results"]
    return told


def files_in(folder: Path) -> dict[str, Dataset]:
    """Return the objects of a folder by modality; of several of one, the last."""
    read = [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))]
    return {str(one.Modality): one for one in read}


def instances(server: Orthanc, study: str) -> list[dict[str, Any]]:
    """Return what QIDO-RS says of the instances of a study."""
    found: list[dict[str, Any]] = server.ask("GET", f"/dicom-web/studies/{study}/instances")
    return found


def modalities(server: Orthanc, study: str) -> Counter[str]:
    return Counter(one["00080060"]["Value"][0] for one in instances(server, study))


def test_a_finding_has_the_code_of_dicom_where_that_has_one() -> None:
    named = {finding: finding_code(finding) for finding in (*FINDINGS, "Opacity")}
    own = {finding for finding, code in named.items() if code.scheme_designator != "SCT"}
    for code in named.values():
        assert code.value == getattr(codes.SCT, code.meaning.title().replace(" ", ""), code).value
    assert own == {
        "Enlarged Cardiomediastinum",
        "Lung Opacity",
        "Lung Lesion",
        "Pleural Other",
        "Support Devices",
        "No Finding",
        "Opacity",
    }


@needs_dciodvfy
@pytest.mark.parametrize(
    "elements",
    [
        {},
        dict.fromkeys(("PatientID", "PatientSex", "StudyDate", "PatientName", "PatientBirthDate"), ""),
        {"PatientBirthDate": "1968.8.17", "PatientSex": "FEMALE", "StudyID": "x" * 40, "StudyTime": "noon"},
        {"PatientOrientation": ["L", "F"], "BurnedInAnnotation": "YES", "LossyImageCompression": "01"},
    ],
)
def test_no_object_has_a_fault_whatever_the_film_lacks(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, elements: dict[str, Any]
) -> None:
    (tmp_path / "out").mkdir()
    with pydicom.config.disable_value_validation():
        (tmp_path / "film.dcm").write_bytes(query_films(**({"PatientID": "P7"} | elements))[0])
    caplog.clear()  # of what pydicom says while such a film is made

    told = returned(world, tmp_path / "film.dcm", tmp_path / "out")

    assert [one["kind"] for one in told] == ["sr", "sc", "kos"]
    assert caplog.text == ""
    for file in (tmp_path / "out").glob("*.dcm"):
        assert faults_of(file) == [], file


def test_the_objects_say_what_was_found_with_which_encoder_and_for_what_use(world: Path, tmp_path: Path) -> None:
    told = returned(world, world / "query", tmp_path, *ALL, "--finding", "Edema")

    report, picture, selection = (files_in(tmp_path)[kind] for kind in ("SR", "OT", "KO"))
    text = str(report)
    assert [one["kind"] for one in told] == ["sr", "sc", "sc", "kos"]
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    for said in ("Pulmonary edema", "Pneumothorax", "Gr\u00f6\u00dfe", "Probability", "sensitivity of at least 0.90"):
        assert said in text
    for one in (report, picture, selection):
        assert (one.StudyInstanceUID, str(one.PatientName), one.PatientID) == (QUERY, NAME, "QUERY")
        assert NOTICE in one.SeriesDescription
        assert one.DeviceSerialNumber in text  # the encoder's fingerprint
    assert picture.SourceImageSequence[0].ReferencedSOPInstanceUID in (f"{QUERY}.1.1", f"{QUERY}.1.2")
    band = picture.pixel_array[: picture.Columns // 18]
    assert (band.reshape(-1, 3) == (255, 213, 74)).all(axis=1).mean() > 0.5  # the line above the film, with its letters
    referenced = {
        one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for one in selection.ContentSequence
        if "ReferencedSOPSequence" in one
    }
    assert len(referenced) == 5
    assert referenced < {f"{study}.1.1" for study in CASES}


@needs_orthanc
def test_a_study_of_the_pacs_gets_its_results_once_and_they_are_known_when_they_come_round(
    world: Path, tmp_path: Path
) -> None:
    with orthanc(tmp_path / "orthanc") as server:
        server.put(*query_films(), *case_films())
        study = f"{server.dicomweb}/studies/{QUERY}"
        first = returned(world, study, server.dicomweb, *ALL, "--audit", str(tmp_path / "audit.jsonl"))
        held = modalities(server, QUERY)
        again = returned(world, study, server.dicomweb)

        with pytest.raises(PacsError, match="does not store the object"):  # which belongs to another study
            Pacs(server.dicomweb).store("/studies/1.2.3", query_films()[0])

        assert {one["fate"] for one in first} == {"stored"}
        lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        assert [(one["event"], one.get("method")) for one in lines] == [
            ("start", None),
            *((event, method) for method in ("fetch for return", "return") for event in ("intent", "done")),
        ]
        assert [one["uid"] for one in lines[-1]["results"]] == [one["sop_instance_uid"] for one in first]
        assert lines[-1]["fates"] == ["stored"] * 4
        assert [one["sop_instance_uid"] for one in again] == [one["sop_instance_uid"] for one in first]
        assert {one["fate"] for one in again} == {"was there already"}
        assert held == modalities(server, QUERY) == {"DX": 2, "SR": 1, "OT": 2, "KO": 1}
        assert all(modalities(server, case) == {"DX": 1} for case in CASES)
        folder = tmp_path / "round"
        folder.mkdir()
        for one in server.ask("GET", "/instances"):
            (folder / one).write_bytes(server.get(f"/instances/{one}/file").content)
    found = import_dicom(folder, read_header)
    assert {notice.kind: notice.count for notice in found.notices} == {"ours": 4}
    assert len(found.table) == 1 + len(CASES)


@needs_orthanc
def test_results_are_sent_by_c_store_and_a_second_time_add_nothing(world: Path, tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc", DicomServerEnabled=True, DicomCheckCalledAet=True) as server:
        server.put(*query_films())
        to = f"ORTHANC@127.0.0.1:{server.dicom_port}"
        told = returned(world, world / "query", to)
        returned(world, world / "query", to)
        wrong = refusal("return", world / "query", *made_with(world), "--to", to.replace("ORTHANC", "OTHER"), *ALL)

        assert [one["fate"] for one in told] == ["stored"] * 4
        assert modalities(server, QUERY) == {"DX": 2, "SR": 1, "OT": 2, "KO": 1}
        assert "OTHER@127.0.0.1" in wrong


@needs_orthanc
def test_copies_under_pseudonyms_have_a_way_back_with_their_crosswalk_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "table").mkdir()
    key, walk = tmp_path / "keys" / "site.key", tmp_path / "keys" / "crosswalk"
    words = ("--pseudonymise", key, "--new-key", "--copy-to", tmp_path / "copies")
    index = save_index(
        world, "cases", *words, "--out", tmp_path / "table" / "studies.parquet", images=tmp_path / "copies"
    )
    pseudonyms, crosswalk = Pseudonyms(load_key(key)), Crosswalk.open(walk, load_key(key), make=True)
    for number, study in enumerate(CASES):
        patient = pseudonyms.of("patient", f"CASE{number}")
        crosswalk.add({f"{patient}/{pseudonyms.of('study', study)}": study})
    with orthanc(tmp_path / "orthanc") as server:
        server.put(*query_films(), *case_films())
        call = [world / "query", *made_with(world, index=index), "--to", server.dicomweb, "--return", "kos"]
        assert "no way back without the crosswalk" in refusal("return", *call)
        assert modalities(server, QUERY) == {"DX": 2}
        done("return", *call, "--key", key, "--crosswalk", walk)
        (selection,) = [one for one in instances(server, QUERY) if one["00080060"]["Value"] == ["KO"]]
        content = server.get(f"/dicom-web/studies/{QUERY}/series/{selection['0020000E']['Value'][0]}/metadata").json()
    uids = set(re.findall(r"1\.2\.826\.0\.1\.2[0-9]\.1\.1", json.dumps(content)))
    assert len(uids) == 5
    assert uids < {f"{study}.1.1" for study in CASES}


def test_a_film_that_claims_more_pixels_than_any_has_is_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "film.dcm").write_bytes(bomb("QUERY", QUERY))
    said = refusal("return", tmp_path / "film.dcm", *made_with(world), "--to", tmp_path / "out", *ALL)
    assert "65535 x 65535" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_returns_unless_kind_and_destination_are_both_named(tmp_path: Path) -> None:
    for words in (("--to", str(tmp_path)), ("--return", "sr")):
        asked = CliRunner().invoke(precedent, ["return", "film.dcm", "--encoder", "encoder.safetensors", *words])
        assert asked.exit_code == 2
        assert "Missing option" in asked.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--return", "pdf", "--to", "{folder}"), "expected some of sr,sc,kos"),
        (("--return", "sr", "--to", "nowhere"), "AET@HOST:PORT or an existing folder"),
        (("--return", "sr", "--to", "PACS@127.0.0.1:{port}"), "does not answer"),
        (("--return", "sr", "--to", "http://127.0.0.1:{port}/dicom-web"), "does not answer"),
        (("--return", "sr", "--to", "https://me:secret@pacs/dicom-web"), "without a password"),
    ],
)
def test_what_cannot_be_returned_is_told_in_a_sentence_and_nothing_is_written(
    world: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    filled = [word.format(folder=tmp_path, port=free_port()) for word in words]
    told = refusal("return", world / "query", *made_with(world), *filled)
    assert said in told
    assert "secret" not in told
    assert list(tmp_path.iterdir()) == []
