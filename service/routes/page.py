"""The page, the documentation of the API with the guide to the service, and the API's own description.

The page is rendered here, whole, with a refusal as a sentence; its scripts add what needs a mouse, and ask the API.
"""

from functools import cache, partial
from importlib.resources import files
from typing import Any, Literal

from flask import Blueprint, Response, current_app, render_template, request, url_for
from flask_openapi3 import APIBlueprint
from markdown_it import MarkdownIt
from markupsafe import Markup
from pydantic import Field
from werkzeug.exceptions import HTTPException

from encoder.errors import EncoderError
from index.errors import CollectionError
from index.table.studies import Study
from service.api.openapi import SERVICE, content, film_body, refusals, with_scopes
from service.api.openapi import pages as as_pages
from service.api.page_filters import PageFilters
from service.api.requests import (
    FilmOptions,
    ImageQuery,
    InCollection,
    Search,
    SearchOptions,
    StudyId,
    StudyPath,
    parse_search,
)
from service.errors import CollectionNotFound, EncoderMissing, RequestError, refusal_of
from service.guard.access import locked, require, scopes
from service.guard.disclosure import SIMILARITY_DECIMALS, exact
from service.served.mounted import MountedCollection, current, mounted
from service.served.pictures import data_url, film_path, thumbnail_response
from service.viewer import viewer_url

PAGE_HITS = 12
COUNTS = (12, 24, 48, 96)

api = APIBlueprint("pages", __name__, abp_tags=[SERVICE], abp_responses=refusals(400, 404, 500))
swagger = Blueprint(
    "swagger",
    __name__,
    static_folder=str(files("flask_openapi3_swagger") / "templates" / "swagger"),
    static_url_path="/docs/static",
)


class PageQuery(SearchOptions, PageFilters):
    """A stored study whose similar cases the page shows, and what is open there; without one, the empty page."""

    study: StudyId | None = None
    k: int = Field(PAGE_HITS, ge=1, le=100)
    one_a_patient: bool = Field(True, description="the most similar study of each patient only")
    hit: StudyId | None = Field(None, description="the study that is compared with the query")
    view: Literal["frontal", "lateral", "both"] | None = Field(None, description="which films are compared")
    why: str | None = Field(None, max_length=200, description="the heat map over them: 'similar', or a finding")

    def options(self) -> SearchOptions:
        """Return the search that the page's words mean."""
        group_by: Literal["patient"] | None = "patient" if self.one_a_patient else None
        return self.model_copy(update={"filter": self.narrowed(self.filter), "group_by": group_by})


class FilmsQuery(InCollection, PageFilters):
    """Where and among what the page searches for the films of its form."""


@api.get("/", responses={200: content("text/html"), **as_pages(400, 404, 429)})
def page(query: PageQuery) -> tuple[str, int]:
    """The page: similar cases of a stored study, or a form for films"""
    shown: dict[str, Any] = {"asked": query.study, "filters": query, "k": query.k, "each": not query.one_a_patient}
    try:
        collection = shown["collection"] = current(query.collection)
        if query.study is not None:
            shown["study"] = collection.retriever.study(query.study)
            shown["films"] = _stored(shown["study"], _spoken(collection))
            shown["answer"] = collection.answer(Search.of_study(query.study, query.options()))
    except (CollectionError, CollectionNotFound, RequestError, HTTPException) as error:
        shown["refused"] = error
    return _render(**shown)


@api.post(
    "/",
    responses={200: content("text/html"), **as_pages(400, 404, 409, 413, 415, 422, 429, 503)},
    openapi_extensions=film_body(FilmOptions),
)
def page_of_films(query: FilmsQuery) -> tuple[str, int]:
    """The page with the similar cases of one or two films"""
    shown: dict[str, Any] = {"filters": query}
    try:
        shown["collection"] = current(query.collection)
        search = parse_search(request)
        if search.embedding is not None:
            require("vectors")
        collection = shown["collection"] = current(search.collection or query.collection)
        shown |= {"k": search.k, "each": search.group_by is None}
        search = search.model_copy(update={"filter": query.narrowed(search.filter)})
        shown["answer"] = collection.answer(search)
        shown["films"] = _uploaded(search)
    except (EncoderError, EncoderMissing, CollectionError, CollectionNotFound, RequestError, HTTPException) as error:
        shown["refused"] = error
    return _render(**shown)


@api.get("/film/<path:study_id>", responses={200: content("image/jpeg"), **refusals(415, 422, 429)})
def thumbnail(path: StudyPath, query: ImageQuery) -> Response:
    """A small picture of one film of a study, for the page's cards"""
    collection = current(query.collection)
    film = film_path(collection.image_root, collection.retriever.study(path.study_id), query.view)
    return thumbnail_response(film, query.view)


@api.get("/docs", responses={200: content("text/html")})
def docs() -> str:
    """The documentation of the API, to read and to try"""
    return render_template("docs.html")


@api.get("/docs/guide", responses={200: content("text/html")})
def guide() -> str:
    """The guide to the service: requests, tokens, limits, audit"""
    return render_template("guide.html", guide=_guide())


@api.get("/openapi.json", responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}})
def openapi_json() -> dict[str, Any]:
    """This document"""
    document: dict[str, Any] = current_app.api_doc  # type: ignore[attr-defined]  # flask_openapi3.OpenAPI's own member
    document["components"].pop("securitySchemes", None)  # which that library leaves at null
    if request.script_root:
        document = document | {"servers": [{"url": request.script_root}]}
    return with_scopes(document, scopes()) if locked() else document


@cache
def _guide() -> Markup:
    """Return service/README.md as HTML; a tag in it is shown as text."""
    text = (files("service") / "README.md").read_text(encoding="utf-8")
    return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))


def _uploaded(search: Search) -> list[dict[str, str]]:
    given = {"frontal": search.frontal, "lateral": search.lateral}
    films = {view: data_url(film, view) for view, film in given.items() if film is not None}
    return [{"view": view, "small": src, "whole": ""} for view, src in films.items()]


def _spoken(collection: MountedCollection) -> str | None:
    """Return the name by which addresses must tell a collection; None where it is the only one."""
    return collection.name if len(mounted().collections) > 1 else None


def _stored(study: Study, name: str | None) -> list[dict[str, str]]:
    def address(route: str, view: str) -> str:
        return url_for(route, study_id=study.study_id, view=view, collection=name)

    return [
        {"view": view, "small": address("pages.thumbnail", view), "whole": address("studies.image", view)}
        for view in study.views
    ]


def _render(
    collection: MountedCollection | None = None, refused: Exception | None = None, **shown: Any
) -> tuple[str, int]:
    collection = collection or current()
    name = _spoken(collection)
    status, _, message = refusal_of(refused) if refused else (200, "", "")
    filters: PageFilters = shown["filters"]
    given: dict[str, Any] = {"k": PAGE_HITS, "each": False} | shown
    carried = filters.words() | ({"k": given["k"]} if given["k"] != PAGE_HITS else {})
    carried |= {"collection": name} if name else {}
    html = render_template(
        "page.html",
        rows=len(collection.retriever),
        fingerprint=collection.retriever.fingerprint,
        choices=collection.retriever.choices,
        counts=sorted({*COUNTS, given["k"]}),
        carried=carried | ({"one_a_patient": "false"} if given["each"] else {}),
        films_of=partial(_stored, name=name),
        viewer_url=viewer_url,
        mapped=collection.map is not None,
        embeds=collection.embeds,
        explains=collection.explains,
        warning=collection.warning,
        collection=name,
        collections=mounted().names,
        decimals=3 if exact() else SIMILARITY_DECIMALS,
        message=message,
        **given,
    )
    return html, status
