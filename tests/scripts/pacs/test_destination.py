"""Where results are sent, as it is typed."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("requests", reason="no requests; run: pip install 'cxr-precedent[pacs]'")

from encoder.embedder import Embedder
from index.errors import PlaceError
from scripts.pacs.destination import ByDicom, ByWeb, Folder, parse_destination
from scripts.pacs.results import ResultError, uid_of
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
