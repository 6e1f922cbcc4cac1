"""The service's log: a JSON object a line, or a line a person reads, with the request at hand.

Only the service's own sentences are written out, without paths: what another library says may quote a film's header.
"""

import json
import logging
import sys
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, TextIO

from flask import g, has_request_context

from encoder.errors import EncoderError
from index.errors import CollectionError
from index.printable import visible
from service.context import call, request_id
from service.paths import words_of
from service.watch.requests import rule

OWN = "precedent"
Format = Literal["json", "text"]
_LEFT_OUT = "(left out: words of another library)"
_CANNOT_BE_TOLD = "(its words cannot be read)"
_MOST_ERRORS, _MOST_CALLS = 8, 32
"""Logged of the first and as many of the last, of an error's causes and of each one's calls."""
_MOST_FOLLOWED = 10_000
_CAUSE, _CONTEXT, _SUPPRESSED, _TRACEBACK = (
    vars(BaseException)[name].__get__ for name in ("__cause__", "__context__", "__suppress_context__", "__traceback__")
)
_MEMBERS = vars(BaseExceptionGroup)["exceptions"].__get__


def configure(form: Format) -> None:
    """Send the process's log to stderr: as JSON from INFO up, as text, for a terminal, from WARNING up."""
    handler = _Lines(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(OWN).setLevel(logging.INFO if form == "json" else logging.WARNING)
    logging.captureWarnings(True)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes lines and raises nothing: whoever logs is amid something else, or a thread that would end."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record; a failure to write is passed over, for it could not be logged either."""
        with suppress(Exception):
            self.stream.write(self.format(record) + self.terminator)
            self.flush()


class JsonLines(logging.Formatter):
    """A record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(_facts(record), default=lambda value: type(value).__name__)


class TextLines(logging.Formatter):
    """A record as one line, a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line or lines."""
        facts = _facts(record)
        trace = facts.pop("traceback", None)
        head = " ".join(str(facts.pop(name)) for name in ("time", "level", "logger"))
        line = f"{head}: {facts.pop('message')}"
        about = " ".join(f"{name}={value}" for name, value in facts.items())
        lines = [line + (f" [{about}]" if about else ""), *(trace or "").split("\n")]
        return "\n".join(visible(line) for line in lines if line)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """Return what is logged of a record; the request's part is missing outside of a request."""
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    facts: dict[str, Any] = {
        "time": time,
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _sentence(record),
    }
    facts |= _of_request()
    facts |= {name: record.__dict__[name] for name in ("method", "status", "ms") if name in record.__dict__}
    if record.exc_info and record.exc_info[1] is not None:
        facts["traceback"] = _traceback(record.exc_info[1])
    return facts


def _sentence(record: logging.LogRecord) -> str:
    if record.name.split(".")[0] != OWN:
        return f"{_LEFT_OUT} {record.module}:{record.lineno}"
    return words_of(record, logging.LogRecord.getMessage) or f"{_CANNOT_BE_TOLD} {record.module}:{record.lineno}"


def _of_request() -> dict[str, str]:
    """Return the request at hand, without anything it carried."""
    if not has_request_context():
        return {}
    about = {"request_id": request_id(), "route": rule()}
    principal = call.principal if "call" in g else None
    return about | ({"principal": str(principal)} if principal is not None else {})


def _traceback(error: BaseException) -> str:
    try:
        return "\n".join(_lines_of(error))
    except BaseException as fault:  # noqa: BLE001 - a class may raise anything of its own while it is looked at
        return f"{_CANNOT_BE_TOLD} {type(fault).__name__}"


def _lines_of(error: BaseException) -> Iterator[str]:
    """Yield an error's causes, first the one it began with: each as a headline and its calls by module and line."""
    known = list(islice(_with_causes(error), _MOST_FOLLOWED))[::-1]
    shown = known if len(known) <= 2 * _MOST_ERRORS else known[:_MOST_ERRORS] + known[-_MOST_ERRORS:]
    if len(shown) < len(known):
        yield f"({len(known) - len(shown):,} errors between these left out)"
    for raised in shown:
        yield _headline(raised)
        calls = list(islice(_calls(raised), _MOST_FOLLOWED))
        yield from calls if len(calls) <= 2 * _MOST_CALLS else (*calls[:_MOST_CALLS], "  ...", *calls[-_MOST_CALLS:])


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from and the members of a group: each once, though it be its own cause."""
    waiting, seen = deque([error]), {id(error)}
    while waiting:
        error = waiting.popleft()
        yield error
        for cause in _causes(error):
            if id(cause) not in seen:
                seen.add(id(cause))
                waiting.append(cause)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what Python itself keeps of an error; what its class makes of these names may be anything."""
    cause = _CAUSE(error)
    if cause is None and not _SUPPRESSED(error):
        cause = _CONTEXT(error)
    if cause is not None:
        yield cause
    if issubclass(type(error), BaseExceptionGroup):
        yield from _MEMBERS(error)


def _calls(error: BaseException) -> Iterator[str]:
    for frame, line in traceback.walk_tb(_TRACEBACK(error)):
        yield f"  {frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_name}"


def _headline(error: BaseException) -> str:
    kind = type(error)
    if issubclass(kind, EncoderError | CollectionError) or str(kind.__module__).startswith("service."):
        words = words_of(error)
        return f"{kind.__name__}: {_CANNOT_BE_TOLD if words is None else visible(words)}"
    if issubclass(kind, OSError):  # its own words name the file
        return f"{kind.__name__}: {words_of(error, _reason) or 'no reason given'}"
    return f"{kind.__name__} {_LEFT_OUT}"


def _reason(error: OSError) -> str:
    return str(error.strerror or "")
