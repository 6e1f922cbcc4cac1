"""Words from elsewhere on a terminal, in a log and in a report: text, on one line, in which all can be seen."""

import json
import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pydicom
import pytest
from command_line import done, refusal, verbs
from export_files import save_export
from film_files import dicom
from folders import ROOT
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from index.built.collection import build_collection
from index.errors import StudiesError
from index.printable import is_visible, visible
from index.table.studies import FINDINGS, load_studies, studies_schema
from index.vectors import Embeddings
from scripts.cli import precedent
from scripts.reports.evaluation import _glance
from scripts.reports.page import save_page, table
from scripts.terminal import Terminal, say, show_libraries_words, written
from service.watch.logs import JsonLines, TextLines

EVIL = "[/evil][bold]:smile:\x1b[31m\r\u202e\u200b\n\x07$\\frac{"
SHOWN = r"[/evil][bold]:smile:\x1b[31m\r\u202e\u200b\n\x07$\frac{"
SOURCES = sorted((ROOT / "scripts").rglob("*.py"))


@given(st.text())
def test_a_text_is_shown_on_one_line_and_what_can_be_seen_as_it_is(text: str) -> None:
    shown = visible(text)
    assert is_visible(shown)
    assert len(shown.splitlines()) <= 1
    assert visible(shown) == shown
    for one in text:  # the text again, in its order
        escaped = None if is_visible(one) else re.match(r"\\(x..|u....|U.{8}|[rnt])", shown)
        kept = escaped[0] if escaped else one
        assert shown.startswith(kept)
        assert not escaped or kept.encode("ascii").decode("unicode_escape") == one
        shown = shown.removeprefix(kept)
    assert not shown


def test_what_cannot_be_seen_is_written_as_python_escapes_it() -> None:
    assert visible(EVIL) == SHOWN
    assert visible("a\u3164\ufe0f\u2800\udcff\U000e0001 é漢🫁") == r"a\u3164\ufe0f\u2800\udcff\U000e0001 é漢🫁"


def test_lines_cells_titles_and_headings_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    grid = Table(EVIL, title=EVIL, caption=EVIL)
    grid.add_row(EVIL)
    say(EVIL, err=True)
    for width in (200, None):
        Terminal(width=width).print(grid, EVIL)
    printed = capsys.readouterr()
    assert printed.err == SHOWN + "\n"
    assert printed.out.count(SHOWN) >= 5
    assert all(is_visible(line) for line in printed.out.splitlines())


def test_nothing_is_printed_past_the_terminal() -> None:
    past = re.compile(
        r"click\.(echo|secho|style)|\bprint\(|\bConsole\(|console\.print\(.*(markup|highlight)=|sys\.std(out|err)\.write"
    )
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        if path.name != "terminal.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if past.search(line) and not re.search(r"\b(console|ERR|Terminal\(\))\.print\(", line)
    ]
    assert found == []


@pytest.fixture
def index(tmp_path: Path, unit_vectors: Embeddings) -> Path:
    """Return an index of a few studies whose ids are markup and whose other words are worse."""
    rows = [
        dict.fromkeys(studies_schema().names)
        | {"study_id": f"[/evil]{number}", "patient_id": f"[/p]{number}", "frontal_path": "a.png", "other_paths": []}
        | {"sex": EVIL, "projection": EVIL, FINDINGS[2]: 1, EVIL: EVIL}
        for number in range(4)
    ]
    studies = pa.Table.from_pylist(rows, studies_schema([pa.field(EVIL, pa.string())]))
    build_collection(save_export(tmp_path / "export", studies, unit_vectors[:4]), tmp_path / "index")
    return tmp_path / "index"


def test_a_search_prints_ids_that_are_markup(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    said = done("search", index, "--study", "[/evil]1", "-k", 3).stdout
    assert "similar to [/evil]1: Cardiomegaly" in said
    assert "[/evil]0" in said
    assert all(is_visible(line) for line in said.splitlines())
    assert r"\x1b[31m\r\u202e" in said


@pytest.mark.parametrize("name", ["-x", "a%2Fb", "what?", "#1", "p 1/s 1", "a;b\\c", "é漢/🫁"])
def test_the_command_line_finds_an_id_as_it_stands(name: str, tmp_path: Path, unit_vectors: Embeddings) -> None:
    rows = [
        dict.fromkeys(studies_schema().names)
        | {"study_id": one, "patient_id": one, "frontal_path": "a.png", "other_paths": []}
        for one in (name, "other")
    ]
    export = save_export(tmp_path / "export", pa.Table.from_pylist(rows, studies_schema()), unit_vectors[:2])
    build_collection(export, tmp_path / "index")
    hits = json.loads(done("search", tmp_path / "index", "--study", "other", "--json").stdout)["hits"]
    assert [hit["study_id"] for hit in hits] == [name]
    assert name in done("search", tmp_path / "index", "--study", name).stdout
    assert "1 deleted; 1 studies now" in done("delete", tmp_path / "index", "--", name).stdout


def test_every_verb_has_json() -> None:
    found = dict(verbs(precedent, "precedent"))
    assert len(found) >= 38
    assert [name for name, verb in found.items() if not any("--json" in one.opts for one in verb.params)] == []


def test_every_option_of_every_verb_says_what_it_is() -> None:
    options = [(name, option) for name, verb in verbs(precedent, "precedent") for option in verb.params]
    assert [(name, one.opts) for name, one in options if isinstance(one, click.Option) and not one.help] == []


@pytest.mark.parametrize(
    "words",
    [
        ("search", "{index}", "--study", "no such study", "--json"),
        ("search", "/no/index", "--study", "a", "--json"),
        ("export", "/no/table", "--images", "/", "--encoder", "e", "--out", "/no", "--json"),
        ("token", "create", "a", "--scope", "read", "--json", "--tokens", "/no/folder/tokens.json"),
        ("search", "{index}", "--json"),
        ("search", "{index}", "--json", "-k", EVIL),
    ],
)
def test_a_refusal_is_json_too_where_that_was_asked_for(words: tuple[str, ...], index: Path) -> None:
    ran = command_line(*[word.replace("{index}", str(index)) for word in words])
    message = json.loads(ran.stdout)["error"]["message"]
    assert ran.returncode in (1, 2)
    assert is_visible(message)
    assert message[-30:] in ran.stderr.decode()
    assert b"Traceback" not in ran.stderr


def test_a_refusal_without_json_leaves_stdout_empty(index: Path) -> None:
    assert command_line("search", str(index), "--study", "no").stdout == b""
    assert command_line("search", str(index), "--study", "no", "--", "--json").stdout == b""


def command_line(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Return what the command line, a process of its own, printed."""
    environ = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-m", "scripts.cli", *words], env=environ, capture_output=True, check=False)


@pytest.mark.parametrize("columns", ["20", "40", "80"])
def test_a_narrow_terminal_and_a_pipe_get_every_hit_whole_on_its_line(
    columns: str, tmp_path: Path, unit_vectors: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"{'long' * 30}{number}/study{number}" for number in range(3)]
    named = {"frontal_path": "a.png", "other_paths": [], **dict.fromkeys(FINDINGS[1:], 1)}
    rows = [dict.fromkeys(studies_schema().names) | named | {"study_id": one, "patient_id": one} for one in ids]
    export = save_export(tmp_path / "export", pa.Table.from_pylist(rows, studies_schema()), unit_vectors[:3])
    build_collection(export, tmp_path / "index")
    monkeypatch.setenv("COLUMNS", columns)
    said = done("search", tmp_path / "index", "--study", ids[0]).stdout
    for one in ids[1:]:
        assert re.search(rf"^ +\d +-?0\.\d{{4}} +{one} .*{', '.join(FINDINGS[1:])} *$", said, re.MULTILINE)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_that_is_not_utf_8_is_written_what_it_can_show(
    encoding: str, tmp_path: Path, unit_vectors: Embeddings
) -> None:
    ids = ["pé/漢🫁", "pé/other"]
    named = {"frontal_path": "a.png", "other_paths": []}
    rows = [dict.fromkeys(studies_schema().names) | named | {"study_id": one, "patient_id": one} for one in ids]
    export = save_export(tmp_path / "export", pa.Table.from_pylist(rows, studies_schema()), unit_vectors[:2])
    build_collection(export, tmp_path / "index")
    ran = command_line("search", str(tmp_path / "index"), "--study", ids[1], PYTHONIOENCODING=encoding, LC_ALL="C")
    said = ran.stdout.decode(encoding)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ids[0].encode(encoding, "backslashreplace").decode(encoding) in said
    assert ("\u2500" in said) == (encoding == "utf-8")


def test_a_cell_keeps_its_place_where_its_signs_are_written_plainer() -> None:
    assert written("0.61 (0.40\u20130.78) \u00b1 0.01", "ascii") == "0.61 (0.40-0.78) +- 0.01"
    assert written("漢 \u00b1", "latin-1") == "\\u6f22 +-"
    assert written("漢 \u2013", "utf-8") == "漢 \u2013"
    assert written("漢", "no such encoding") == "\\u6f22"


def test_who_stops_reading_ends_a_verb_without_a_traceback(index: Path) -> None:
    words = [sys.executable, "-m", "scripts.cli", "search", str(index), "--study", "[/evil]1"]
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert ran.stderr == b""


AT_WORK = "import time\nfrom scripts.terminal import at_work, say\nwith at_work('at work'):\n    time.sleep(2.5)\n    say('done')"


@pytest.mark.slow
@pytest.mark.parametrize(("term", "shown"), [("xterm", True), ("dumb", False)])
def test_a_silent_start_is_seen_on_a_terminal_and_nowhere_else(term: str, shown: bool) -> None:
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": term, "NO_COLOR": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", AT_WORK], env=environ, stdout=subprocess.PIPE, stderr=theirs, check=True
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        seen = os.read(ours, 1 << 16).decode()
    except OSError:  # nothing was written
        seen = ""
    os.close(ours)
    assert ran.stdout == b"done\n"
    assert ("at work (1 s)" in seen) == shown
    assert "\x1b[3" not in seen  # no colour
    assert subprocess.run([sys.executable, "-c", AT_WORK], capture_output=True, check=True).stderr == b""


def test_a_search_in_json_is_ascii(index: Path) -> None:
    said = done("search", index, "--study", "[/evil]1", "--json").stdout
    assert said.isascii()
    assert json.loads(said)["hits"][0]["sex"] == EVIL


@pytest.mark.parametrize(
    "words",
    [
        ("search", "{index}", "--study", EVIL),
        ("search", "{index}", "--study", "[/evil]1", "--where", f"x{EVIL}=1"),
        ("search", f"/no/{EVIL}", "--study", "a"),
        ("delete", "{index}", EVIL),
        ("encoder", "info", f"/no/{EVIL}"),
        ("export", f"/no/{EVIL}", "--images", "/", "--encoder", "e", "--out", "/no"),
    ],
)
def test_a_refusal_is_one_line_in_which_all_can_be_seen(words: tuple[str, ...], index: Path) -> None:
    line = refusal(*[word.replace("{index}", str(index)) for word in words])
    assert is_visible(line)
    assert "evil]" in line


@pytest.mark.parametrize(
    "words",
    [
        [EVIL],
        ["search", "--no" + EVIL],
        ["search", "i", "-k", EVIL],
        ["import", "nih", "a", "--images", EVIL, "--out", EVIL],
    ],
)
def test_a_wrong_word_is_answered_with_text(words: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-m", "scripts.cli", *words], capture_output=True, text=True, check=False)
    assert ran.returncode in (1, 2)
    assert all(is_visible(line) for line in ran.stderr.split("\n"))
    assert "Traceback" not in ran.stderr


def test_what_libraries_warn_of_is_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())
    show_libraries_words()
    assert warnings.formatwarning(EVIL, UserWarning, "a.py", 1) == f"UserWarning: {SHOWN} (a.py:1)\n"
    assert logging.lastResort is not None
    logging.lastResort.emit(record(EVIL))
    assert capsys.readouterr().err == f"warning: precedent.a: {SHOWN}\n"


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, None)
    return logging.LogRecord("precedent.a", logging.WARNING, __file__, 1, message, None, info)


def test_a_log_line_is_one_whatever_an_error_holds() -> None:
    told = record(EVIL, StudiesError(f"a\n2026-01-01 info precedent.requests: forged{EVIL}"))
    lines = TextLines().format(told).split("\n")
    assert len(lines) == 2
    assert all(map(is_visible, lines))
    assert "\n" not in JsonLines().format(told)
    assert JsonLines().format(told).isascii()


def test_a_report_shows_names_as_text(tmp_path: Path) -> None:
    found: dict[str, Any] = {"low": 0.1, "high": 0.3, "value": 0.2, "chance": 0.1, "queries": 3, "left_out": 0}
    spaces = {EVIL: {"rules": {"<script>" + EVIL: {"figures": {"precision@1": found}}}}}
    save_page(tmp_path / "a.html", EVIL, [EVIL], [(EVIL, table([EVIL], [["<b>" + EVIL]]) + _glance(spaces))])
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "<b>" not in page
    assert all(map(is_visible, page.split("\n")))


def test_a_header_that_names_a_patient_by_escapes_is_written_as_what_can_be_seen(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    for number, patient in enumerate(["P1", "/evil", "a\x1b[31m", "a/../b", "", "p" * 600]):
        ids: dict[str, Any] = {
            "PatientID": patient,
            "StudyInstanceUID": f"1.{number}",
            "SOPInstanceUID": f"1.{number}.1",
        }
        with pydicom.config.disable_value_validation():
            (tmp_path / "films" / f"{number}[evil]\x1b").write_bytes(dicom(ViewPosition="PA", **ids))
    said = done("import", "dicom", tmp_path / "films", "--out", tmp_path / "studies.parquet")
    assert "their header names no patient or no study: 1 (4[evil]\\x1b)" in said.stderr
    assert "their ids are too long; --pseudonymise replaces them: 1 (5[evil]\\x1b)" in said.stderr
    patients = load_studies(tmp_path / "studies.parquet")["patient_id"].to_pylist()
    assert patients == ["P1", "%2Fevil", "a%1B[31m", "a/%2E%2E/b"]
