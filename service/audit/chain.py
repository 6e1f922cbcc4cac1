"""The lines of an audit log, each sealed with the hash of the line before, so that an edit shows.

It knows bytes and hashes, and of what lines tell only which of them ends what another announced.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.errors import ArtefactError
from index.storage.files import open_regular
from service.errors import AuditError

MOST_LINE = 1 << 24
"""Bytes of a line, of which a longer one is none."""
MOST_HEAD = 1 << 10
ORIGIN = "0" * 64
"""What the first line holds as the hash of the line before."""


@dataclass(frozen=True)
class Head:
    """How far a log goes: the number of its lines, and the hash of the last."""

    lines: int = 0
    sha256: str = ORIGIN

    def __str__(self) -> str:
        return f"{self.lines:020d}:{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Return the head that `str` wrote. Raises ValueError."""
        number, sign, sha256 = text.strip().partition(":")
        if not (sign and number.isdecimal() and len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")):
            raise ValueError(f"expected a head, LINES:SHA256, got {text[:100]!r}")
        return cls(int(number), sha256)


def head_path(path: Path) -> Path:
    """Return the file beside a log that says how far it goes, without which a shortened log would look whole."""
    return path.with_name(path.name + ".head")


def read_head(path: Path) -> Head:
    """Return the head beside a log. Raises AuditError."""
    beside = head_path(path)
    try:
        with open_regular(beside) as file:
            return Head.parse(file.read(MOST_HEAD).decode("ascii"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AuditError(
            f"cannot read {str(beside)!r}, which holds the log's head: {reason}; keep the log and start a new one"
        ) from error


def sealed(record: dict[str, Any], before: Head) -> tuple[bytes, Head]:
    """Return the line of a record that follows `before`, and the head it makes.

    The hash is SHA-256 over the line without it: JSON with sorted keys and no spaces, the hash before included.
    """
    record = record | {"line": before.lines + 1, "previous": before.sha256}
    own = hashlib.sha256(_canonical(record)).hexdigest()
    return _canonical(record | {"hash": own}) + b"\n", Head(before.lines + 1, own)


def _canonical(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def followed(line: bytes, before: Head | None) -> Head:
    """Return the head that a line, with its end, makes; `before` None takes the line's word for what went before.

    Raises:
        ValueError: the line is not as it was written, or does not follow `before`; the sentence says which.
    """
    try:
        record = json.loads(line)
        claimed = Head(record["line"] - 1, record["previous"])
        written, head = sealed({name: value for name, value in record.items() if name != "hash"}, claimed)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("it is no line of an audit log") from None
    if written != line:
        raise ValueError("it was edited")
    if before is not None and claimed != before:
        raise ValueError(f"it does not follow line {before.lines}; lines were removed, added or moved")
    return head


def verify(path: Path, expected: Head | None = None) -> Head:
    """Return how far a log goes, after looking at every line and at the head beside it.

    Args:
        expected: a head noted elsewhere, which the log must go through; it also finds a log that somebody has
            written anew from some line on, together with the head beside it.

    Raises:
        AuditError: the first line that is wrong, or lines missing at the end.
    """
    beside, head = read_head(path), Head()  # the head first: a running service writes lines before it
    passed = {head}
    for number, line in enumerate(_lines(path), start=1):
        try:
            head = followed(line, head)
        except ValueError as reason:
            raise AuditError(f"line {number} of {str(path)!r} is wrong: {reason}") from None
        if head in (beside, expected):
            passed.add(head)
    for noted in (beside, expected):
        if noted is not None and noted not in passed:
            raise AuditError(
                f"expected {str(path)!r} to contain the head {noted}, got {head.lines} lines without it; lines at the "
                "end were removed or replaced"
            )
    return head


def unfinished(path: Path) -> list[dict[str, Any]]:
    """Return the intents of a log that no result follows, in order; with `ended`, whether their process has ended.

    Raises:
        AuditError: it cannot be read, or holds what is no line of an audit log.
    """
    at_work = _is_written(path)
    intents: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            record = json.loads(line)
            event, asked = record["event"], str(record.get("request_id"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise AuditError(f"line {number} of {str(path)!r} is wrong: it is no line of an audit log") from None
        if event == "intent":
            intents[asked] = record | {"ended": not at_work}
        elif event == "start":
            intents = {name: intent | {"ended": True} for name, intent in intents.items()}
        elif event in ("call", "done"):  # of a request, and of what follows a PACS
            intents.pop(asked, None)
    return list(intents.values())


def _is_written(path: Path) -> bool:
    """Return whether a process holds the log to write it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise AuditError(f"cannot read the audit log {str(path)!r}: {error.strerror}") from error
    return False


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path) as file:
            yield from iter(lambda: file.readline(MOST_LINE), b"")
    except ArtefactError as refusal:
        raise AuditError(str(refusal)) from refusal
    except OSError as error:
        raise AuditError(f"cannot read the audit log {str(path)!r}: {error.strerror}") from error
