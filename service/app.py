"""The application: its routes, its limits, the headers of every answer.

It is given an index and an embedder ready made, and reads no environment.
"""

import secrets
from pathlib import Path
from typing import Any

from flask import Response, g
from flask_openapi3 import Info, OpenAPI

from index.retriever import Retriever
from service import errors, health, maps, pages, readings, search, studies
from service.embedder import Embedder
from service.finder import EXTENSION, Finder
from service.limits import Limits
from service.parsing import refuse_validation
from service.schemas import ErrorBody

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
DEFAULT_LIMITS = Limits()


def create_app(
    retriever: Retriever,
    embedder: Embedder,
    image_root: Path | None,
    limits: Limits = DEFAULT_LIMITS,
    reader: Any = None,
) -> OpenAPI:
    """Return the application over one collection.

    Args:
        retriever: the index; its fingerprint is the embedder's (`service.loader` sees to that).
        embedder: makes the vector of uploaded films.
        image_root: the folder that the studies' paths are relative to; None serves no films.
        reader: predicts and explains; None leaves that out.
    """
    app = OpenAPI(
        "service",
        info=Info(title="Precedent", version="1", description="Similar-case search for chest X-rays."),
        doc_ui=False,
        validation_error_status=400,
        validation_error_model=ErrorBody,
        validation_error_callback=refuse_validation,
    )
    _limit(app, limits)
    app.extensions[EXTENSION] = Finder(retriever, embedder, image_root, reader)
    app.extensions["precedent_readiness"] = health.Readiness()
    for room in (pages, search, readings, studies, maps, health):
        app.register_api(room.api)
    app.register_blueprint(pages.swagger)
    errors.register(app)
    app.before_request(_number)
    app.after_request(_protect)
    return app


def _limit(app: OpenAPI, limits: Limits) -> None:
    app.config.update(
        MAX_CONTENT_LENGTH=limits.body_bytes,
        MAX_FORM_MEMORY_SIZE=limits.form_bytes,
        MAX_FORM_PARTS=limits.parts,
        TRUSTED_HOSTS=list(limits.hosts),
    )
    app.url_map.merge_slashes = False


def _number() -> None:
    g.request_id = secrets.token_hex(8)


def _protect(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-Id"] = g.get("request_id", "")
    response.headers.setdefault("Cache-Control", "no-store")
    return response
