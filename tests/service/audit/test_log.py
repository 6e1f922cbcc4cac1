"""The audit log: any edit is found, a kill loses no line that was answered for, a full disk answers nothing."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from folders import ROOT

from scripts.cli import precedent
from service.audit.chain import Head, head_path, read_head, sealed, verify
from service.audit.log import AuditLog
from service.errors import AuditError

KILLS = 6
KILLS_LONG = 300
WRITER = """
import sys
from pathlib import Path
from service.audit.log import AuditLog
log = AuditLog(Path(sys.argv[1]))
while True:
    log.append({"event": "call", "studies": ["patient00001/study1"] * 20})
    print(log.head, flush=True)
"""


def written(path: Path, lines: int = 6) -> Head:
    """Write a log of that many lines and return its head."""
    log = AuditLog(path)
    for number in range(lines):
        log.append({"event": "call", "status": 200, "studies": [f"patient{number:05d}/study1"]})
    return log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_a_log_is_continued_where_it_ended(path: Path) -> None:
    first, second = written(path), written(path)

    assert (first.lines, second.lines) == (6, 12)
    assert verify(path) == read_head(path) == second
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_change_of_a_byte_is_found(path: Path) -> None:
    written(path, lines=3)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(AuditError, match=r"line|contain the head"):
            verify(path)


EDITS = {
    "a line removed": lambda lines: lines[:2] + lines[3:],
    "the first line removed": lambda lines: lines[1:],
    "the last line removed": lambda lines: lines[:-1],
    "all lines removed": lambda lines: [],
    "two lines exchanged": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "a line doubled": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "a line of its own": lambda lines: [*lines[:3], b'{"event":"call"}\n', *lines[3:]],
    "an empty line": lambda lines: [*lines[:3], b"\n", *lines[3:]],
    "spaces": lambda lines: [*lines[:3], lines[3].replace(b",", b", "), *lines[4:]],
    "a field twice": lambda lines: [*lines[:3], lines[3].replace(b"{", b'{"status":500,'), *lines[4:]],
    "a name written otherwise": lambda lines: [*lines[:3], lines[3].replace(b"patient", b"\\u0070atient"), *lines[4:]],
    "half of the last line": lambda lines: [*lines[:-1], lines[-1][:40]],
    "other ends of lines": lambda lines: [line.replace(b"\n", b"\r\n") for line in lines],
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_is_found(path: Path, edit: str) -> None:
    written(path)
    path.write_bytes(b"".join(EDITS[edit](path.read_bytes().splitlines(keepends=True))))

    with pytest.raises(AuditError, match=r"line|contain the head"):
        verify(path)


def test_a_log_written_anew_with_its_head_is_found_by_a_head_noted_elsewhere(path: Path) -> None:
    noted = written(path)
    path.write_bytes(sealed({"event": "other"}, Head())[0])
    head_path(path).unlink()
    head_path(path).write_text(f"{sealed({'event': 'other'}, Head())[1]}\n")

    verify(path)
    with pytest.raises(AuditError, match=f"contain the head {noted}"):
        verify(path, noted)


def test_a_head_noted_earlier_is_gone_through(path: Path) -> None:
    noted = written(path)
    written(path)

    assert verify(path, noted).lines == 12
    assert verify(path, Head()).lines == 12


@pytest.mark.parametrize("edit", [edit for edit in EDITS if edit not in ("half of the last line",)])
def test_a_log_with_a_broken_end_is_not_continued(path: Path, edit: str) -> None:
    written(path)
    path.write_bytes(spoilt := b"".join(EDITS[edit](path.read_bytes().splitlines(keepends=True))))

    with pytest.raises(AuditError, match=r"was edited or damaged .* start a new file"):
        AuditLog(path)
    assert path.read_bytes() == spoilt


@pytest.mark.parametrize("head", [None, b"", b"6\n", b"x" * 86])
def test_a_log_without_its_head_is_not_continued(path: Path, head: bytes | None) -> None:
    written(path)
    head_path(path).unlink() if head is None else head_path(path).write_bytes(head)

    for look in (AuditLog, verify):
        with pytest.raises(AuditError, match="holds the log's head"):
            look(path)


def test_half_a_line_is_put_aside_and_the_whole_ones_are_continued(path: Path) -> None:
    before = written(path)
    with path.open("ab") as file:
        file.write(b'{"event":"ca')
    log = AuditLog(path)

    assert (log.torn_bytes, log.close()) == (12, before)
    assert path.with_name("audit.jsonl.torn").read_bytes() == b'{"event":"ca\n'
    assert verify(path) == before


def test_a_head_that_a_power_cut_left_behind_is_brought_up(path: Path) -> None:
    written(path, lines=2)
    early = head_path(path).read_bytes()
    late = written(path)
    head_path(path).write_bytes(early)

    assert AuditLog(path).close() == late == read_head(path)


def test_one_process_writes_a_log(path: Path) -> None:
    log = AuditLog(path)
    with pytest.raises(AuditError, match="another process is writing"):
        AuditLog(path)
    log.close()
    AuditLog(path).close()


def test_threads_write_every_line_once(path: Path) -> None:
    log = AuditLog(path)

    def write(name: int) -> None:
        for number in range(20):
            log.append({"thread": name, "number": number})

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(path) == log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(line["thread"], line["number"]) for line in lines} == {(a, b) for a in range(8) for b in range(20)}


def test_a_line_that_half_fits_on_the_disk_does_not_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path)
    log.append({"event": "call"})
    with monkeypatch.context() as patch:
        write = os.write
        patch.setattr(os, "write", lambda handle, line: write(handle, line[:30]))
        with pytest.raises(AuditError, match="only 30 bytes"):
            log.append({"event": "call"})
    log.append({"event": "call"})

    assert verify(path) == log.close() == Head(2, log.head.sha256)


def test_after_a_line_that_did_not_reach_the_disk_none_is_promised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path)
    log.append({"event": "call"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(AuditError, match="Input/output error"):
            log.append({"event": "call"})
    with pytest.raises(AuditError, match="start the service again"):
        log.append({"event": "call"})
    log.close()

    again = AuditLog(path)
    again.append({"event": "call"})
    assert verify(path) == again.close() == Head(3, again.head.sha256)


def _survives(path: Path, kills: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number in range(kills):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(1 + number * 7 % 40)]
            process.send_signal(signal.SIGKILL)
            said += process.stdout.readlines()
        acknowledged = Head.parse([line for line in said if line.endswith("\n")][-1])
        AuditLog(path).close()
        assert verify(path, acknowledged).lines >= acknowledged.lines


def test_a_kill_loses_no_line_that_was_answered_for(path: Path) -> None:
    _survives(path, KILLS)


@pytest.mark.long
def test_many_kills_lose_no_line_that_was_answered_for(path: Path) -> None:
    _survives(path, KILLS_LONG)


def run(*words: Any) -> tuple[int, str]:
    result = CliRunner().invoke(precedent, ["audit", "verify", *map(str, words)])
    return result.exit_code, result.output


def test_the_command_names_the_first_line_that_is_wrong(path: Path) -> None:
    head = written(path)
    assert run(path) == (0, f"{path}: 6 lines, none edited; head {head}\n")
    assert run(path, "--expect", head)[0] == 0
    path.write_bytes(path.read_bytes().replace(b"patient00003", b"patient00004"))

    assert run(path) == (1, f"Error: line 4 of {str(path)!r} is wrong: it was edited\n")
    assert run(path, "--expect", "6:abc")[0] == 2
    assert run(path.with_name("nothing"))[0] == 1
