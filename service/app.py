"""The application: its routes, its limits, the headers of every answer.

It is given its collections and their embedder ready made, and reads no environment.
"""

import secrets
from functools import partial

from flask import Response, g, request
from flask_openapi3 import Info, OpenAPI

from service import errors, prefix
from service.api.answers import ErrorBody, FiniteJSON
from service.api.openapi import every_path
from service.api.parsing import InMemory, refuse_validation
from service.guard import access as doors
from service.guard import disclosure
from service.limits import DEFAULT_LIMITS, Limits
from service.routes import login as entry
from service.routes import map as maps
from service.routes import operations as health
from service.routes import page as pages
from service.routes import readings, search, studies
from service.routes.readings import TURNSTILE
from service.served import decoding, pictures
from service.served.decoding import Decoding
from service.served.departure import require_body
from service.served.mounted import EXTENSION, Mounted
from service.served.readiness import Readiness
from service.served.turnstile import Turnstile
from service.watch import closing
from service.watch import requests as watch
from service.watch.metrics import Metrics

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # "no-referrer" would hide from our own forms where they come from
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_app(
    mounted: Mounted, limits: Limits = DEFAULT_LIMITS, metrics: Metrics | None = None, films: Decoding | None = None
) -> OpenAPI:
    """Return the application over collections whose fingerprint is their embedder's (`service.loader` sees to that).

    Its embedders may count in the `metrics`, and decode `films`, already.
    """
    metrics = metrics or Metrics()
    app = OpenAPI(
        "service",
        info=Info(
            title="Precedent",
            version="1",
            description="Similar-case search for chest X-rays. Whoever accepts text/html rather than application/json "
            "is told a refusal as a page.",
        ),
        doc_ui=False,
        validation_error_status=400,
        validation_error_model=ErrorBody,
        validation_error_callback=refuse_validation,
    )
    app.json = FiniteJSON(app)
    _limit(app, limits)
    app.extensions[EXTENSION] = mounted
    app.extensions[health.READINESS] = Readiness(metrics.ready)
    app.extensions[decoding.EXTENSION] = films or Decoding(limits)
    app.extensions[pictures.EXTENSION] = pictures.SmallPictures()
    app.extensions[TURNSTILE] = Turnstile("maps and predictions with dropout", limits.readings, limits.readings_waiting)
    app.url_map.converters["study"] = studies.StudyIdOfPath
    rooms = (pages, entry, search, readings, studies, maps, health)
    for room in rooms:
        app.register_api(room.api)
    app.paths.update(every_path(room.api for room in rooms))
    app.register_blueprint(pages.swagger)
    errors.register(app)
    app.before_request(_number)
    metrics.tell_of(lambda: app.extensions[EXTENSION].finders, health.installed_version())
    watch.register(app, metrics)
    closing.register(app)
    doors.register(app, limits)
    app.before_request(require_body)
    prefix.register(app, limits.prefix)
    disclosure.register(app, limits.queries_a_day)
    app.after_request(_protect)
    headers = HEADERS | {"Cache-Control": "no-store"}
    count = partial(metrics.count, "unmatched", "any", seconds=0.0)
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


def _number() -> None:
    g.request_id = request.environ[errors.REQUEST_ID] = secrets.token_hex(8)


def _protect(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-Id"] = g.get("request_id", "")
    response.headers.setdefault("Cache-Control", "no-store")
    return response
