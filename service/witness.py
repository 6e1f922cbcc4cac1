"""What a call was, for the audit log: who asked what about which study, when, and with what result.

It must not know the answer: no vector, no hit, no film, no word of a body but names of studies that are there.
"""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, current_app, g, request

from service.audit import AuditLog
from service.doors import template
from service.errors import AuditError, CollectionNotFound
from service.finder import mounted
from service.origins import SAFE

EXTENSION = "precedent_audit"
SILENT = frozenset({"/healthz", "/static/{filename}", "/docs/static/{filename}"})
"""What says nothing of any study, to anybody."""
UNKNOWN = "unknown"
"""In place of a name that nothing here has: a caller may write anything there."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STUDY_FIELDS = ("study_id", "study", "hit")


class Witness:
    """Writes a line a call. Those beyond a pace, of callers without a valid token, are counted into the next."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._uncounted, self._lock = 0, threading.Lock()
        self._log.append({"time": _moment(), "event": "start", "torn_bytes": log.torn_bytes})

    def tell(self, response: Response) -> Response:
        """Return the answer once it is written down, or a refusal where it cannot be."""
        route = template(request.url_rule) if request.url_rule is not None else None
        if route in SILENT:
            return response
        if g.get("beyond_pace"):
            with self._lock:
                self._uncounted += 1
            return response
        try:
            self._log.append(_call(route, response.status_code) | self._counted())
        except AuditError as error:
            return current_app.make_response(current_app.handle_user_exception(error))
        return response

    def _counted(self) -> dict[str, int]:
        with self._lock:
            count, self._uncounted = self._uncounted, 0
        return {"further_refusals": count} if count else {}


def register(app: Flask, log: AuditLog) -> None:
    """Have every call of `app` but the silent ones told to a log, before it is answered."""
    app.extensions[EXTENSION] = log
    app.after_request(Witness(log).tell)


def _call(route: str | None, status: int) -> dict[str, Any]:
    collection, studies = _asked_about(status)
    return {
        "time": _moment(),
        "event": "call",
        "request_id": g.get("request_id", ""),
        "principal": g.get("principal"),
        "method": request.method if request.method in METHODS else UNKNOWN,
        "route": route,
        "collection": collection,
        "studies": studies,
        "status": status,
    }


def _asked_about(status: int) -> tuple[str, list[str]]:
    """Return the collection and the studies of a request, each by a name that is known here."""
    path = {"collection": name} if (name := (request.view_args or {}).get("name")) else {}
    collection = (request.args.to_dict() | g.get("fields", {}) | path).get("collection")
    try:
        finder = mounted().finder(collection if isinstance(collection, str) else None)
    except CollectionNotFound:
        return UNKNOWN, [UNKNOWN for _ in _study_names()]
    done = request.method not in SAFE and status < 300  # what was just removed is not there any more
    return finder.name, [name if done or finder.has(name) else UNKNOWN for name in _study_names()]


def _study_names() -> Iterator[str]:
    given = dict(request.view_args or {}) | g.get("fields", {})
    names = [given.get(field) for field in _STUDY_FIELDS]
    if request.method in SAFE:
        names += [name for field in ("study", "hit") for name in request.args.getlist(field)]
    yield from dict.fromkeys(name for name in names if isinstance(name, str))


def _moment() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
