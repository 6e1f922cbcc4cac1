"""The page, the reading room of the API's documentation, and the API's own description.

The page is rendered here, whole; its script only saves a reload. It shows a refusal as a sentence.
"""

from importlib.resources import files
from typing import Any, Literal

from flask import Blueprint, current_app, render_template, request, url_for
from flask_openapi3 import APIBlueprint
from pydantic import Field
from werkzeug.exceptions import HTTPException

from encoder.errors import EncoderError
from index.errors import CollectionError
from index.studies import Study
from service.errors import RequestError, refusal_of
from service.films import preview
from service.finder import current
from service.openapi import SERVICE, content, film_body, refusals
from service.parsing import parse_search
from service.schemas import FilmOptions, Search, SearchOptions, StudyId

PAGE_HITS = 12

api = APIBlueprint("pages", __name__, abp_tags=[SERVICE], abp_responses=refusals(400, 404, 500))
swagger = Blueprint(
    "swagger",
    __name__,
    static_folder=str(files("flask_openapi3_swagger") / "templates" / "swagger"),
    static_url_path="/docs/static",
)


class PageQuery(SearchOptions):
    """A stored study whose similar cases the page shows; without it, the empty page."""

    study: StudyId | None = None
    k: int = Field(PAGE_HITS, ge=1, le=100)
    group_by: Literal["patient"] | None = "patient"


@api.get("/", responses={200: content("text/html")})
def page(query: PageQuery) -> tuple[str, int]:
    """The page: similar cases of a stored study, or two places to drop films"""
    if query.study is None:
        return _render()
    finder = current()
    try:
        study = finder.retriever.study(query.study)
        answer = finder.similar(query.study, query)
    except (CollectionError, RequestError) as error:
        return _render(asked=query.study, refused=error)
    return _render(asked=query.study, title=query.study, study=study, films=_stored(study), answer=answer)


@api.post(
    "/",
    responses={200: content("text/html"), **refusals(413, 415, 422)},
    openapi_extensions=film_body(FilmOptions),
)
def page_of_films() -> tuple[str, int]:
    """The page with the similar cases of one or two films"""
    finder = current()
    try:
        search = parse_search(request)
        answer = finder.find(search)
        films = _uploaded(search)
    except (EncoderError, CollectionError, RequestError, HTTPException) as error:
        return _render(refused=error)
    return _render(title="your films", films=films, answer=answer)


@api.get("/docs", responses={200: content("text/html")})
def docs() -> str:
    """The documentation of the API, to read and to try"""
    return render_template("docs.html")


@api.get("/openapi.json")
def openapi_json() -> dict[str, Any]:
    """This document"""
    return current_app.api_doc  # type: ignore[attr-defined]  # flask_openapi3.OpenAPI's own member


def _uploaded(search: Search) -> list[dict[str, str]]:
    given = {"frontal": search.frontal, "lateral": search.lateral}
    return [{"view": view, "src": preview(film, view)} for view, film in given.items() if film is not None]


def _stored(study: Study) -> list[dict[str, str]]:
    return [{"view": view, "src": url_for("studies.image", study_id=study.study_id, view=view)} for view in study.views]


def _render(refused: Exception | None = None, **shown: Any) -> tuple[str, int]:
    finder = current()
    status, _, message = refusal_of(refused) if refused else (200, "", "")
    html = render_template(
        "page.html",
        rows=len(finder.retriever),
        fingerprint=finder.retriever.fingerprint,
        films_of=_stored,
        message=message,
        **shown,
    )
    return html, status
