"""The service's log: a JSON object a line, or a line a person reads, with the request at hand.

Only the service's own sentences are written out, without paths: what another library says may quote a film's header.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from flask import g, has_request_context

from encoder.errors import EncoderError
from index.errors import CollectionError
from index.printable import visible
from service.paths import without_paths
from service.watch import rule

OWN = "precedent"
Format = Literal["json", "text"]
_LEFT_OUT = "(left out: words of another library)"


def configure(form: Format) -> None:
    """Send the process's log to stderr: as JSON from INFO up, as text, for a terminal, from WARNING up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(OWN).setLevel(logging.INFO if form == "json" else logging.WARNING)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """A record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(_facts(record))


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
        return "\n".join(visible(one) for one in lines if one)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """Return what is told of a record; the request's part is missing outside of a request."""
    own = record.name.split(".")[0] == OWN
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    facts: dict[str, Any] = {
        "time": time,
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": without_paths(record.getMessage()) if own else f"{_LEFT_OUT} {record.module}:{record.lineno}",
    }
    facts |= _of_request()
    facts |= {name: record.__dict__[name] for name in ("method", "status", "ms") if name in record.__dict__}
    if record.exc_info and record.exc_info[1] is not None:
        facts["traceback"] = "\n".join(_told(record.exc_info[1]))
    return facts


def _of_request() -> dict[str, str]:
    """Return the request at hand, without anything it carried."""
    if not has_request_context():
        return {}
    about = {"request_id": g.get("request_id", ""), "route": rule()}
    principal = g.get("principal")
    return about | ({"principal": str(principal)} if principal is not None else {})


def _told(error: BaseException) -> Iterator[str]:
    """Yield an error's causes, first the one it began with: each as a headline and its calls by module and line."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _told(cause)
    yield _headline(error)
    for frame, line in traceback.walk_tb(error.__traceback__):
        yield f"  {frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_name}"


def _headline(error: BaseException) -> str:
    kind = type(error)
    ours = isinstance(error, EncoderError | CollectionError) or kind.__module__.startswith("service.")
    if ours:
        return f"{kind.__name__}: {visible(without_paths(str(error)))}"
    if isinstance(error, OSError):
        return f"{kind.__name__}: {without_paths(error.strerror or 'no reason given')}"  # its own words name the file
    return f"{kind.__name__} {_LEFT_OUT}"
