"""The application: its routes, its limits, the headers of every answer.

It is given its state ready made, and reads no environment.
"""

from functools import partial

from flask import Response
from flask_openapi3 import Info, OpenAPI

from service import errors, prefix
from service.api.answers import ErrorBody
from service.api.openapi import FiniteJSON, every_path
from service.api.requests import InMemory, refuse_validation
from service.context import KEY
from service.guard import access
from service.limits import Limits
from service.routes import login, operations, page, queries, readings, remote, search, studies
from service.routes import map as maps
from service.served import static_files
from service.served.disconnect import require_body
from service.state import State
from service.watch import requests

ROOMS = (page, login, search, remote, queries, readings, studies, maps, operations)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # "no-referrer" would hide from our own forms where they come from
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_app(state: State) -> OpenAPI:
    """Return the application of a state, complete. Raises MountError where its prefix is a route's own first word."""
    app = OpenAPI(
        "service",
        info=Info(
            title="Precedent",
            version="1",
            description="Similar-case search for chest X-rays. Whoever accepts text/html rather than application/json "
            "gets a refusal as a page.",
        ),
        doc_ui=False,
        validation_error_status=400,
        validation_error_model=ErrorBody,
        validation_error_callback=refuse_validation,
    )
    app.json = FiniteJSON(app)
    app.extensions[KEY] = state
    _limit(app, state.limits)
    app.url_map.converters["study"] = studies.StudyIdOfPath
    for room in ROOMS:
        app.register_api(room.api)
    app.paths.update(every_path(room.api for room in ROOMS))
    app.register_blueprint(page.swagger)
    errors.register(app)
    requests.register(app)
    access.register(app)
    static_files.register(app)
    app.before_request(require_body)
    prefix.register(app, state.limits.prefix)
    app.after_request(_protect)
    if state.trail is not None:
        app.after_request(state.trail.record)  # before the headers are set, for it may put a refusal in its place
    headers = HEADERS | {"Cache-Control": "no-store"}
    count = partial(state.metrics.count, "unmatched", "any", seconds=0.0)
    app.wsgi_app = errors.LastResort(app.wsgi_app, headers, count)  # type: ignore[method-assign]
    return app


def _limit(app: OpenAPI, limits: Limits) -> None:
    app.config.update(
        MAX_CONTENT_LENGTH=limits.body_bytes,
        MAX_FORM_MEMORY_SIZE=limits.form_bytes,
        MAX_FORM_PARTS=limits.parts,
    )
    app.url_map.merge_slashes = False
    app.request_class = InMemory


def _protect(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    return response
