"""Every refusal of the service: one table from an error's class to a status and a code, one body for all.

A route raises and never builds an error body; sentences about the server's own state name no path. Who asks for HTML
rather than JSON, as a person's browser does for an address, is answered with a page that says the same.
"""

import json
import logging
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, jsonify, make_response, render_template, request
from markupsafe import escape
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Request as BaseRequest
from werkzeug.wrappers import Response as BaseResponse

from encoder.errors import EncoderError, ImageError, NotAnImage
from index.errors import (
    BackendLoading,
    BackendUnavailable,
    BeyondBackend,
    CollectionError,
    FilterError,
    FingerprintMismatch,
    MixedPatients,
    PlaceError,
    ReadingMismatch,
    RegionError,
    RegionsMissing,
    StudiesError,
    StudyExists,
    StudyNotFound,
    TextNotFound,
    VectorsError,
    WriteFailed,
)
from service.context import request_id
from service.paths import MAX_WORDS, words_of

log = logging.getLogger("precedent.service")


class RequestError(ValueError):
    """A request that breaks the syntax of the API."""


class ImageMissing(LookupError):
    """A film that a study does not have, or whose file is not in the image root."""


class QueryGone(LookupError):
    """A query that is not kept here any more, never was, or is another's."""


class ProbeMissing(LookupError):
    """A probe that the service was started without."""


class EncoderMissing(LookupError):
    """An encoder that the service was started without, and that the request needs."""


class TextsMissing(LookupError):
    """Vectors of texts that the service was started without, and no embedder to make one."""


class RemoteMissing(LookupError):
    """A policy for other hospitals that the service was started without."""


class SitesUnavailable(RuntimeError):
    """Other hospitals of which none answered."""


class EmbedderUnavailable(RuntimeError):
    """A remote encoder that does not answer, or not as it should."""


class MountError(ValueError):
    """Collections that cannot be served together, or words that do not name them."""


class CollectionNotFound(LookupError):
    """The name of a collection that is not served."""


class NotWritable(LookupError):
    """A collection that no study can be added to or deleted from, as it is served."""


class MapMissing(LookupError):
    """A map of the collection that has not been computed."""


class NotReady(RuntimeError):
    """The service cannot embed or search at present."""


class Busy(RuntimeError):
    """More requests of one kind than may run at a time; the same request may succeed a little later."""


class Stopping(RuntimeError):
    """The service is stopping and accepts nothing new."""


class TokensError(ValueError):
    """A file of tokens that cannot be used, or a token that cannot be made."""


class SessionsError(RuntimeError):
    """Sessions of browsers that cannot be read or kept."""


class AuditError(RuntimeError):
    """An audit log that cannot be continued, or that was edited."""


class ResultNotWritten(AuditError):
    """A change that the audit log announces and whose result could not be written to it."""


class ClientGone(RuntimeError):
    """The client has gone before the answer."""


@dataclass(frozen=True)
class Refusal:
    """How one class of error is answered: status, code, and a message where the error's own must not be shown."""

    status: int
    code: str
    message: str | None = None
    retry_after: int | None = None
    """Seconds after which it is worth asking again."""


TABLE: dict[type[Exception], Refusal] = {
    RequestError: Refusal(400, "bad_request"),
    FilterError: Refusal(400, "bad_filter"),
    RegionError: Refusal(400, "bad_region"),
    CollectionNotFound: Refusal(404, "collection_not_found"),
    StudyNotFound: Refusal(404, "study_not_found"),
    TextNotFound: Refusal(404, "text_not_found"),
    ImageMissing: Refusal(404, "image_missing"),
    MapMissing: Refusal(404, "map_missing"),
    QueryGone: Refusal(404, "query_gone"),
    ProbeMissing: Refusal(409, "no_probe"),
    EncoderMissing: Refusal(409, "no_encoder"),
    TextsMissing: Refusal(409, "no_texts"),
    RegionsMissing: Refusal(409, "no_regions"),
    RemoteMissing: Refusal(409, "no_remote"),
    NotWritable: Refusal(409, "not_writable"),
    PlaceError: Refusal(409, "not_writable", "an index at an address is searched and not changed; copy it to a disk"),
    StudyExists: Refusal(409, "study_exists"),
    FingerprintMismatch: Refusal(409, "fingerprint_mismatch"),
    ReadingMismatch: Refusal(409, "reading_mismatch"),
    NotAnImage: Refusal(415, "not_an_image"),
    ImageError: Refusal(422, "image_not_usable"),
    MixedPatients: Refusal(422, "two_patients"),
    VectorsError: Refusal(422, "embedding_not_usable"),
    StudiesError: Refusal(422, "study_not_usable"),
    BeyondBackend: Refusal(422, "beyond_backend"),
    Busy: Refusal(429, "busy", retry_after=1),
    ClientGone: Refusal(499, "client_gone", "the client went away before the answer"),
    NotReady: Refusal(503, "not_ready"),
    EmbedderUnavailable: Refusal(
        503, "embedder_unavailable", "the remote embedder gave no vector of this; it was asked once, see the log"
    ),
    SitesUnavailable: Refusal(503, "sites_unavailable", retry_after=5),
    Stopping: Refusal(503, "stopping", retry_after=5),
    TokensError: Refusal(503, "not_ready", "the tokens cannot be read at present; see the log"),
    SessionsError: Refusal(503, "not_ready", "nobody can be signed in or out at present; see the log"),
    ResultNotWritten: Refusal(
        503,
        "result_not_written",
        "this change was announced in the audit log, but its result could not be written there; check if it was made",
    ),
    AuditError: Refusal(503, "not_ready", "the audit log cannot be written at present; see the log"),
    BackendLoading: Refusal(
        503, "backend_loading", "the server that keeps this collection is still loading it into memory", 5
    ),
    BackendUnavailable: Refusal(
        503, "backend_unavailable", "a server that this one keeps its data on does not answer at present", 5
    ),
    WriteFailed: Refusal(503, "not_written", "the change could not be written to disk, so nothing was changed"),
    CollectionError: Refusal(503, "not_ready", "the collection cannot be read at present; see the log"),
    EncoderError: Refusal(503, "not_ready", "the encoder cannot be used at present; see the log"),
    OSError: Refusal(503, "not_ready", "a file cannot be read or written at present; see the log"),
}

REQUEST_ID = "precedent.request_id"
"""In a request's environment, where what fails after it can still be named by its number."""
UNEXPECTED = Refusal(500, "internal_error", "the service failed on this request; its log holds the details")


def refusal_of(error: Exception) -> tuple[int, str, str]:
    """Return status, code and sentence of `error`, by its nearest class in the table."""
    if isinstance(error, HTTPException):
        code = error.name.lower().replace(" ", "_")
        return error.code or 500, code, (error.description or error.name)[:MAX_WORDS]
    row = _row_of(error)
    return row.status, row.code, row.message or words_of(error) or "the reason cannot be shown; see the log"


def _row_of(error: Exception) -> Refusal:
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), UNEXPECTED)


def error_body(code: str, message: str, number: str | None = None) -> dict[str, dict[str, str]]:
    """Return the one error body, of the running request where no id is given."""
    return {"error": {"code": code, "message": message, "request_id": number or request_id()}}


def as_sentence(message: str) -> str:
    """Return a message with a capital and a full stop."""
    return message[:1].upper() + message[1:] + ("" if message.endswith((".", "!", "?")) else ".")


def _is_page(request: BaseRequest) -> bool:
    """Return whether HTML is asked for rather than JSON, as a browser does for an address and a script does not."""
    return request.accept_mimetypes["text/html"] > request.accept_mimetypes["application/json"]


def _refusal(status: int, code: str, message: str) -> Response:
    """Return a refusal: a page where that is what was asked for, and else the one body."""
    if _is_page(request):
        phrase = HTTP_STATUS_CODES.get(status, "Refused")
        page = render_template("refused.html", status=status, phrase=phrase, message=as_sentence(message))
        response = make_response(page)
    else:
        response = jsonify(error_body(code, message))
    response.vary.add("Accept")
    return response


def _answer(error: Exception) -> tuple[Response, int]:
    status, code, message = refusal_of(error)
    if status >= 500 and not isinstance(error, Stopping):
        log.error("request %s: %s", request_id(), code, exc_info=error)
    response = _refusal(status, code, message)
    if (seconds := _row_of(error).retry_after) is not None:
        response.headers["Retry-After"] = str(seconds)
    return response, status


def _http(error: HTTPException) -> BaseResponse:
    """Keep the headers of the protocol (Allow, Retry-After), replace the body."""
    response = BaseResponse.force_type(error.get_response(), {})
    if error.response is None and response.status_code >= 400:
        refused = _refusal(*refusal_of(error))
        response.data, response.content_type = refused.data, refused.content_type
        response.headers["Vary"] = refused.headers["Vary"]
    return response


def register(app: Flask) -> None:
    """Make every error of `app` leave as the one body, or as a page."""
    for kind in TABLE:
        app.register_error_handler(kind, _answer)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _answer)
    app.config["PROPAGATE_EXCEPTIONS"] = True  # what these fail on is the last resort's


class LastResort:
    """A WSGI application that raises nothing: what another one raises becomes the one body, and a line of the log.

    Such are errors of what runs after a handler, and what no handler is asked about, as SystemExit of a library.
    """

    def __init__(
        self, app: Callable[..., Iterable[bytes]], headers: dict[str, str], count: Callable[[int], object]
    ) -> None:
        """Answer in the place of `app`, with these headers; `count` gets the status of each such answer."""
        self._app, self._headers, self._count = app, headers, count

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Return the application's answer, or that of an unexpected error."""
        try:
            return self._app(environ, start_response)
        except BaseException as error:
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise  # a signal's, to end the process
            number = environ.get(REQUEST_ID) or secrets.token_hex(8)
            log.error("request %s: %s outside of its handler", number, UNEXPECTED.code, exc_info=error)
            self._count(UNEXPECTED.status)
            body, kind = _last_words(environ, number)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Request-Id": number}
            start_response("500 INTERNAL SERVER ERROR", [*(self._headers | headers).items()], sys.exc_info())
            return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


_LAST_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Precedent</title></head>
<body><p>{message}</p><p><a href="{home}/">Back to the page</a></p><p>Request {number}</p></body></html>
"""
"""Needs no template and no application, for these may be what has failed."""


def _last_words(environ: dict[str, Any], number: str) -> tuple[bytes, str]:
    """Return body and content type of an unexpected error."""
    message = str(UNEXPECTED.message)
    if not _is_page(BaseRequest(environ)):
        return json.dumps(error_body(UNEXPECTED.code, message, number)).encode(), "application/json"
    home = escape(environ.get("SCRIPT_NAME", ""))
    page = _LAST_PAGE.format(message=as_sentence(message), home=home, number=escape(number))
    return page.encode(), "text/html; charset=utf-8"
