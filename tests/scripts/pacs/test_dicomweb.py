"""Films fetched from a real Orthanc by DICOMweb: the table is that of a folder, and nothing is lost in silence."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pydicom
import pytest
from canary_films import MARKER, every_name, holds, leaks, named_film
from click.testing import CliRunner
from command_line import done, refusal
from pacs_world import Between, Orthanc, certificate, film, lateral, needs_orthanc, orthanc, slice_of_ct

from index.errors import CollectionError
from scripts.cli import precedent
from scripts.pacs import dicomweb, rest
from scripts.pacs.dicomweb import parse_where

pytestmark = needs_orthanc
STUDIES = [f"1.2.{number}" for number in range(1, 8)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Yield an Orthanc with films of seven studies, the first with a lateral film and a slice of a CT."""
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        running.put(*(film(f"P{study[-1]}", study) for study in STUDIES), slice_of_ct(), lateral())
        yield running


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Return a folder of the same films."""
    folder = tmp_path / "plain"
    made = {f"{study}/{study}.1.1.dcm": film(f"P{study[-1]}", study) for study in STUDIES}
    for name, content in (made | {"1.2.1/1.2.1.1.2.dcm": lateral()}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def fetched(address: str, folder: Path, *words: str | Path) -> int:
    """Import from an address into a folder; return how many films came."""
    told = done("import", "dicomweb", address, "--films", folder, "--out", folder.parent / "studies.parquet", *words)
    found = re.search(r": ([0-9,]+) films fetched", told.output)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("where", [(), ("--where", "ModalitiesInStudy=DX", "--since", "2026-01-01")])
def test_the_table_is_that_of_a_folder_though_the_second_page_of_orthanc_may_be_empty(
    where: tuple[str, ...], server: Orthanc, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "PAGE", 3)
    done("import", "dicom", plain, "--out", tmp_path / "plain.parquet")

    assert fetched(server.dicomweb, tmp_path / "films", *where) == 8

    assert pq.read_table(tmp_path / "studies.parquet").equals(pq.read_table(tmp_path / "plain.parquet"))
    kept = [path.relative_to(tmp_path / "films") for path in (tmp_path / "films").rglob("*.dcm")]
    assert all((tmp_path / "films" / path).read_bytes() == (plain / path).read_bytes() for path in kept)
    page = server.ask("GET", "/dicom-web/studies", params={"ModalitiesInStudy": "DX", "limit": 3, "offset": 3})
    assert page == []  # as long as it does so, the modalities have to be compared here


def test_only_what_is_missing_is_fetched(server: Orthanc, tmp_path: Path) -> None:
    assert fetched(server.dicomweb, tmp_path / "films", "--where", "PatientID=P3") == 1
    assert fetched(server.dicomweb, tmp_path / "films", "--since", "2026-03-02") == 0
    assert fetched(server.dicomweb, tmp_path / "films") == 7


def test_a_pacs_that_stops_in_the_middle_of_a_film_leaves_no_part_of_one(server: Orthanc, tmp_path: Path) -> None:
    cut = Between(server.port, cut_after=6000)  # every film has more
    address = f"http://localhost:{cut.port}/dicom-web"

    said = refusal("import", "dicomweb", address, "--films", tmp_path / "films", "--out", tmp_path / "studies.parquet")

    assert "stopped in the middle of a" in said
    assert [path for path in (tmp_path / "films").rglob("*") if path.is_file()] == []
    cut.cut_after = None
    assert fetched(address, tmp_path / "films") == 8
    cut.close()


def test_pages_that_repeat_are_refused(server: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "PAGE", 3)
    deaf = Between(server.port, asked=lambda data: re.sub(rb"offset=\d+", b"offset=0", data))

    address = f"http://localhost:{deaf.port}/dicom-web"
    said = refusal("import", "dicomweb", address, "--films", tmp_path / "films", "--out", tmp_path / "studies.parquet")

    assert "repeats a page of 3 studies" in said
    deaf.close()


def test_certificate_name_and_password_must_be_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = certificate(tmp_path, "localhost"), certificate(tmp_path, "other.example")
    words = ("--films", tmp_path / "films", "--out", tmp_path / "studies.parquet")
    users = {"AuthenticationEnabled": True, "RegisteredUsers": {"importer": "a secret"}}
    with orthanc(tmp_path / "orthanc", **users) as server:
        wrong, right = (Between(server.port, certificate=both) for _, both in (theirs, ours))
        for trusted, proxy in (("", right), (theirs[0], wrong)):
            monkeypatch.setenv("PRECEDENT_PACS_CA", str(trusted))
            said = refusal("import", "dicomweb", f"https://localhost:{proxy.port}/dicom-web", *words)
            assert "is not one to trust for that name" in said
        monkeypatch.setenv("PRECEDENT_PACS_CA", str(ours[0]))
        monkeypatch.setenv("PRECEDENT_PACS_USER", "importer")
        address = f"https://localhost:{right.port}/dicom-web"
        assert "refuses us (HTTP 401)" in refusal("import", "dicomweb", address, *words)
        monkeypatch.setenv("PRECEDENT_PACS_PASSWORD", "a secret")
        assert "expected DICOM films" in refusal("import", "dicomweb", address, *words)
        wrong.close(), right.close()


def test_nothing_that_is_said_or_written_under_pseudonyms_names_a_patient(tmp_path: Path) -> None:
    uids = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1", "SOPInstanceUID": "1.2.1.1.1"}
    with pydicom.config.disable_value_validation():
        named = named_film(every_name(), 0, **uids)  # in every element of the standard, and in private ones
    burned = film(f"{MARKER}2", "1.2.2", PatientName=MARKER, BurnedInAnnotation="YES")
    with orthanc(tmp_path / "orthanc") as server:
        server.put(named, burned)
        words = [
            "import",
            "dicomweb",
            server.dicomweb,
            "--films",
            tmp_path / "films",
            "--out",
            tmp_path / "o/s.parquet",
        ]
        words += ["--pseudonymise", tmp_path / "site.key", "--new-key", "--copy-to", tmp_path / "copies"]
        words += ["--crosswalk", tmp_path / "site.crosswalk", "--audit", tmp_path / "o/audit.jsonl"]
        (tmp_path / "o").mkdir()
        told = CliRunner().invoke(precedent, [*map(str, words), "--json"])

    assert told.exit_code == 0
    assert not holds(told.output.encode(), MARKER)
    assert '"burned in"' in told.output
    events = [json.loads(line) for line in (tmp_path / "o/audit.jsonl").read_text().splitlines()]
    assert [(one["event"], one.get("films")) for one in events[1:]] == [
        *(("intent", None), ("fetched", 1), ("fetched", 1), ("done", 2))
    ]
    done("audit", "verify", tmp_path / "o/audit.jsonl")
    written = [path for folder in ("o", "copies") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert leaks([*written, tmp_path / "site.crosswalk"], [MARKER, "1.2.1"]) == []


@pytest.mark.parametrize("word", ["ModalitiesInStudy", "Nonsense=1", "PatientID=", "../x=1"])
def test_a_condition_is_a_keyword_of_dicom_and_a_value(word: str) -> None:
    with pytest.raises(CollectionError, match="expected a condition such as"):
        parse_where([word])


@pytest.mark.parametrize("address", ["pacs:8042", "ftp://pacs", "http://user:secret@pacs", "http://pacs:99999"])
def test_an_address_is_of_http_and_holds_no_password(address: str) -> None:
    with pytest.raises(CollectionError) as refused:
        rest.Pacs(address)
    assert "secret" not in str(refused.value)


def test_a_password_is_not_sent_unencrypted_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECEDENT_PACS_TOKEN", "a secret")
    with pytest.raises(CollectionError, match="expected https://"):
        rest.Pacs("http://pacs.example/dicom-web")
