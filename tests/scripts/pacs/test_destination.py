"""Where results are sent, as it is typed."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("requests", reason="no requests; run: pip install 'cxr-precedent[pacs]'")

from pacs_world import certificate, film, free_port, until_listening

from encoder.embedder import Embedder
from index.errors import CollectionError, PlaceError
from scripts.pacs.destination import ByDicom, ByWeb, Folder, parse_destination
from scripts.pacs.results import Result, ResultError, uid_of
from scripts.pacs.returning import ResultMaker, parse_kinds


def test_a_destination_is_a_pacs_by_web_a_pacs_by_dicom_or_a_folder(tmp_path: Path) -> None:
    web = parse_destination("https://pacs.example/dicom-web/")

    assert isinstance(web, ByWeb)
    assert web.pacs.url == "https://pacs.example/dicom-web"
    assert parse_destination("MAIN PACS@10.0.0.7:104", "US") == ByDicom("MAIN PACS", "10.0.0.7", 104, "US")
    assert parse_destination("PACS@[::1]:11112") == ByDicom("PACS", "::1", 11112)
    assert parse_destination(str(tmp_path)) == Folder(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:65536", "A" * 17 + "@host:104", "nowhere/"]
)
def test_what_is_none_of_these_is_refused(text: str) -> None:
    with pytest.raises(ResultError, match="expected where to send results"):
        parse_destination(text)


STORESCP = Path("/usr/bin/storescp")
"""DCMTK's; pynetdicom brings another program of that name."""


@contextmanager
def storescp(folder: Path, ours: Path, *words: str | Path) -> Iterator[int]:
    """Run DCMTK's SCP with TLS alone and a certificate with its key; yield its port."""
    folder.mkdir()
    told = [STORESCP, "+tls", ours, ours, *words, "-od", folder, "-aet", "PACS", str(port := free_port())]
    with subprocess.Popen(told, stderr=subprocess.DEVNULL) as process:
        try:
            until_listening(port)
            yield port
        finally:
            process.kill()


@pytest.mark.skipif(not STORESCP.exists(), reason="no storescp; run: apt-get install --no-install-recommends dcmtk")
@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_over_tls_results_go_to_who_has_the_right_certificate_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pynetdicom", reason="no pynetdicom; run: pip install 'cxr-precedent[pacs]'")
    result = Result("sr", pydicom.dcmread(BytesIO(film())))
    (theirs, their_key), (other, other_key) = certificate(tmp_path, "localhost"), certificate(tmp_path, "other.example")
    ours, our_key = certificate(tmp_path, "us")

    def send(port: int, trusted: Path, own: Path | None) -> list[str]:
        monkeypatch.setenv("PRECEDENT_PACS_CA", str(trusted))
        monkeypatch.setenv("PRECEDENT_PACS_CERT", "" if own is None else str(own))
        return parse_destination(f"tls://PACS@localhost:{port}").send([result])

    with storescp(tmp_path / "right", their_key, "+cf", ours) as port:
        for trusted, own, said in (
            (other, our_key, "one to trust"),
            (theirs, None, "PACS"),
            (theirs, other_key, "PACS"),
        ):
            with pytest.raises(CollectionError, match=said):
                send(port, trusted, own)
        with pytest.raises(CollectionError, match="PACS@localhost"):  # without TLS
            parse_destination(f"PACS@localhost:{port}").send([result])
        assert list((tmp_path / "right").iterdir()) == []
        assert send(port, theirs, our_key) == ["stored"]
        assert len(list((tmp_path / "right").iterdir())) == 1
    with storescp(tmp_path / "wrong", other_key, "-ic") as port, pytest.raises(ResultError, match="one to trust"):
        send(port, other, None)  # signed by whom we trust, for another name
    monkeypatch.setenv("PRECEDENT_PACS_CA", str(tmp_path / "none.crt"))
    with pytest.raises(PlaceError, match="PRECEDENT_PACS_CA"):
        parse_destination("tls://PACS@localhost:104")
    gc.collect()  # what pynetdicom leaves open, before another test is blamed for it


def test_a_password_in_an_address_is_refused_and_not_told() -> None:
    with pytest.raises(PlaceError) as refused:
        parse_destination("https://me:secret@pacs.example/dicom-web")
    assert "secret" not in str(refused.value)


def test_kinds_are_named_once_each() -> None:
    assert parse_kinds("sr, sc,sr") == ["sr", "sc"]
    for text in ("", ",", "pdf", "sr;sc"):
        with pytest.raises(ResultError, match="expected some of sr,sc,kos"):
            parse_kinds(text)


def test_a_uid_is_that_of_its_inputs() -> None:
    assert (
        uid_of("sr", ["1.2.3"], "f") == uid_of("sr", ["1.2.3"], "f") == "2.25.112509969417746991700821445382098232263"
    )
    assert uid_of("sr", ["1.2.3"], "g") != uid_of("sr", ["1.2.3", "g"]) != uid_of("sr", ["1.2.3"], "f")
    assert len(uid_of("x")) <= 64


def test_without_highdicom_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny_embedder: Embedder
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ResultError, match=r"highdicom .* pip install 'cxr-precedent\[pacs\]'"):
        ResultMaker(tiny_embedder)
