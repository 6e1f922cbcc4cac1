"""What a call was, for the audit log: who asked what about which study, when, and with what result.

Nothing of the answer is written down: no vector, hit or film, and of a body only names of studies that are there.
"""

import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Response, current_app, request

from index.errors import CollectionError
from service.audit.log import AuditLog
from service.context import call, running
from service.errors import AuditError, CollectionNotFound, ResultNotWritten
from service.guard.origins import SAFE
from service.limits import MAX_DRAWN
from service.served.mounted import MountedCollection, mounted
from service.watch.requests import path_template

SILENT = frozenset({"/healthz", "/static/{filename}", "/docs/static/{filename}"})
"""What says nothing of any study, to anybody."""
UNKNOWN = "unknown"
"""In place of a name that nothing here has, or that cannot be looked up: a caller may write anything there."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MOST_REFUSED = 8
"""Studies that a line names of a call that was refused: who sends some thousand names fills no disk with them."""
_STUDY_FIELDS = ("study_id", "study", "hit")


class AuditTrail:
    """Writes a line a call, and one before each change: what is about to be done, as far as it is known.

    Refusals beyond a rate, of callers without a valid token, are counted into the next line. The result of a change
    that found no room is written before any later line: until then, and for ever if the process ends, the line of the
    intent alone tells of it.
    """

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._uncounted, self._lock = 0, threading.Lock()
        self._owed: deque[dict[str, Any]] = deque()
        self._log.append({"time": _moment(), "event": "start", "torn_bytes": log.torn_bytes})

    def announce(self, collection: str, studies: Sequence[str]) -> None:
        """Return when it is on disk what the running request is about to change. Raises AuditError."""
        self._append(_facts("intent", collection, studies))
        call.announced = (collection, list(studies))

    def record(self, response: Response) -> Response:
        """Return the answer once it is written down, or a refusal where it cannot be."""
        route = _route()
        if route in SILENT:
            return response
        if call.over_rate:
            with self._lock:
                self._uncounted += 1
            return response
        record = _call(response.status_code)
        try:
            self._append(record)
        except AuditError as error:
            if call.announced is not None:
                self._owed.append(record)
                error = ResultNotWritten(str(error))
            return current_app.make_response(current_app.handle_user_exception(error))
        return response

    def around(self, signal: str, change: Callable[[], int]) -> None:
        """Make a change that a signal asks for, of every collection, announced and recorded as that of a request.

        Args:
            change: makes it and returns what status a request would be answered with.

        Raises:
            AuditError: it could not be announced and was not begun, or its result could not be written.
        """
        facts: dict[str, Any] = {
            "request_id": secrets.token_hex(8),
            "principal": None,
            "method": signal,
            "route": None,
            "collection": None,
            "studies": [],
        }
        self._append({"time": _moment(), "event": "intent", **facts})
        status = change()
        result = {"time": _moment(), "event": "call", **facts, "status": status}
        try:
            self._append(result)
        except AuditError:
            self._owed.append(result)
            raise

    def _append(self, record: dict[str, Any]) -> None:
        with self._lock:
            while self._owed:
                self._log.append(self._owed[0])
                self._owed.popleft()
            count, self._uncounted = self._uncounted, 0
        try:
            self._log.append(record | ({"further_refusals": count} if count else {}))
        except AuditError:
            with self._lock:
                self._uncounted += count
            raise


def announce(collection: MountedCollection, studies: Sequence[str] = ()) -> None:
    """Write down what the running request is about to change; whatever changes something calls this first.

    Args:
        studies: names that the collection holds, or is to hold.

    Raises:
        AuditError: it cannot be written, so nothing may be changed.
    """
    trail: AuditTrail | None = running.trail
    if trail is not None:
        trail.announce(collection.name, studies)


def _route() -> str | None:
    return path_template(request.url_rule.rule) if request.url_rule is not None else None


def _call(status: int) -> dict[str, Any]:
    collection, studies = call.announced or _asked_about(MAX_DRAWN if status < 400 else MOST_REFUSED)
    return _facts("call", collection, studies) | call.noted | {"status": status}


def _facts(event: str, collection: str, studies: Sequence[str]) -> dict[str, Any]:
    return {
        "time": _moment(),
        "event": event,
        "request_id": call.request_id,
        "principal": call.principal,
        "method": request.method if request.method in METHODS else UNKNOWN,
        "route": _route(),
        "collection": collection,
        "studies": list(studies),
    }


def _asked_about(most: int) -> tuple[str, list[str]]:
    """Return the collection and the first studies of a request, each by a name that is known here."""
    path = {"collection": name} if (name := (request.view_args or {}).get("name")) else {}
    named = (request.args.to_dict() | call.fields | path).get("collection")
    names = _study_names()[:most]
    try:
        collection = mounted().collection(named if isinstance(named, str) else None)
    except CollectionNotFound:
        return UNKNOWN, [UNKNOWN for _ in names]
    studies = collection.retriever.now()
    try:
        return collection.name, [name if name in studies else UNKNOWN for name in names]
    except CollectionError:  # nobody can tell now; the call is recorded all the same
        return collection.name, [UNKNOWN for _ in names]


def _study_names() -> list[str]:
    given = dict(request.view_args or {}) | call.fields
    several = given.get("searches")
    each = [given, *(search for search in (several if isinstance(several, list) else []) if isinstance(search, dict))]
    names = [search.get(field) for search in each for field in _STUDY_FIELDS]
    if request.method in SAFE:
        names += [name for field in ("study", "hit") for name in request.args.getlist(field)]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _moment() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
