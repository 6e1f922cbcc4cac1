"""The page, the documentation of the API with the guide to the service, and the API's own description.

The page is rendered here, whole, with a refusal as a sentence; its scripts add what needs a mouse, and ask the API.
"""

import json
from contextlib import suppress
from functools import cache, partial
from importlib.resources import files
from typing import Any, Literal, Self

from flask import Blueprint, Response, current_app, jsonify, redirect, render_template, request, url_for
from flask_openapi3 import APIBlueprint
from markdown_it import MarkdownIt
from markupsafe import Markup
from pydantic import Field, model_validator
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from encoder.errors import EncoderError
from index.built.regions import Region
from index.errors import BeyondBackend, CollectionError
from index.table.studies import Study
from service.api.answers import SearchAnswer
from service.api.csv import as_csv
from service.api.openapi import SERVICE, content, film_body, refusals, with_scopes
from service.api.openapi import pages as as_pages
from service.api.page_filters import PageFilters
from service.api.requests import (
    VIEWS,
    FilmOptions,
    ImageQuery,
    InCollection,
    QueryId,
    Search,
    SearchOptions,
    StudyId,
    StudyPath,
    parse_search,
)
from service.errors import CollectionNotFound, EncoderMissing, QueryGone, RequestError, refusal_of
from service.guard.access import locked, scopes
from service.guard.disclosure import SIMILARITY_DECIMALS, exact, rounded
from service.served.mounted import MountedCollection, current, mounted
from service.served.pictures import film_path, thumbnail_response
from service.served.queries import keep_query, recalled
from service.served.sites import MountedSites
from service.viewer import viewer_url

REFUSED = (
    EncoderError,
    EncoderMissing,
    CollectionError,
    CollectionNotFound,
    QueryGone,
    RequestError,
    HTTPException,
)
"""What the page says in words, beside what it shows in any case."""
PAGE_HITS = 12
EXAMPLES = 4
"""Studies that the empty page offers."""
COUNTS = (12, 24, 48, 96)
PART = {"region", "region_view"}
"""The words that name a part of the query's film."""

api = APIBlueprint("pages", __name__, abp_tags=[SERVICE], abp_responses=refusals(400, 404, 500))
swagger = Blueprint(
    "swagger",
    __name__,
    static_folder=str(files("flask_openapi3_swagger") / "templates" / "swagger"),
    static_url_path="/docs/static",
)


class PageQuery(SearchOptions, PageFilters):
    """A stored study, or films, whose similar cases the page shows, and what is open there; without, the empty page."""

    study: StudyId | None = None
    query: QueryId | None = Field(None, description="films that were sent before, in the place of a study")
    k: int = Field(PAGE_HITS, ge=1, le=100)
    one_a_patient: bool = Field(True, description="the most similar study of each patient only")
    hit: StudyId | None = Field(None, description="the study that is compared with the query")
    view: Literal["frontal", "lateral", "both"] | None = Field(None, description="which films are compared")
    why: str | None = Field(None, max_length=200, description="the heat map over them: 'similar', or a finding")

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if self.study is not None and self.query is not None:
            raise ValueError("expected a study or a query, got both")
        return self

    def search(self) -> Search:
        """Return the search that the page's words mean."""
        group_by: Literal["patient"] | None = "patient" if self.one_a_patient else None
        options = self.model_copy(update={"filter": self.narrowed(self.filter), "group_by": group_by})
        return Search.of(options, self.study, self.query)


class FilmsQuery(InCollection, PageFilters):
    """Where and among what the page searches for the films of its form."""


@api.get("/", responses={200: content("text/html"), **as_pages(400, 404, 429)})
def page(query: PageQuery) -> tuple[str, int]:
    """The page: similar cases of a stored study, or of films that were sent, or a form for films"""
    shown: dict[str, Any] = {"asked": query.study, "filters": query, "k": query.k, "each": not query.one_a_patient}
    try:
        shown["collection"] = current(query.collection)
        search, kept = recalled(query.search())
        collection = shown["collection"] = current(search.collection)
        if search.study_id is not None:
            shown["asked"] = search.study_id
            shown["study"] = collection.retriever.study(search.study_id)
            shown["films"] = _stored(shown["study"], _spoken(collection))
        elif query.query is not None:
            shown |= {"query": query.query, "kept": kept, "films": _sent(query.query, search)}
        if "films" in shown:
            shown["part"] = query.model_dump(include=PART) if query.region else {}
            shown["answer"] = collection.answer(search, kept.look if kept else None)
            if query.region:
                shown["region"] = Region.parse(query.region, query.region_view)
    except REFUSED as error:
        shown["refused"] = error
    return _render(**shown)


@api.post(
    "/",
    responses={
        303: {"description": "the films are kept: the page with their similar cases"},
        **as_pages(400, 404, 409, 413, 415, 422, 429, 503),
    },
    openapi_extensions=film_body(FilmOptions),
)
def page_of_films(query: FilmsQuery) -> tuple[str, int] | BaseResponse:
    """Keep one or two films, and go on to the page with their similar cases"""
    shown: dict[str, Any] = {"filters": query}
    try:
        shown["collection"] = current(query.collection)
        search = parse_search(request)
        shown |= {"k": search.k, "each": search.group_by is None}
        search = search.model_copy(update={"collection": search.collection or query.collection})
        shown["collection"] = current(search.collection)
        if search.study_id is None and search.frontal is None and search.lateral is None:
            raise RequestError("expected films; vectors, texts and kept queries are for POST /v1/search")
        return redirect(url_for("pages.page", query=keep_query(search).id, **_words_of(search, query)), 303)
    except REFUSED as error:
        shown["refused"] = error
    return _render(**shown)


class HitsQuery(PageQuery):
    """What the page shows, and in which form its hits are taken along."""

    form: Literal["csv", "json"] = Field("csv", description="a table, or the answer of POST /v1/search")


@api.get("/hits", responses={200: content("text/csv", "application/json"), **refusals(409, 415, 422, 429, 503)})
def hits(query: HitsQuery) -> Response:
    """The hits of the page's address as a file: a table that no spreadsheet takes for formulas, or JSON"""
    search, kept = recalled(query.search())
    if search.study_id is None and kept is None:
        raise RequestError("expected a study or a query whose hits are wanted, got neither")
    answer = rounded(SearchAnswer.of(current(search.collection).answer(search, kept.look if kept else None)))
    response = jsonify(answer) if query.form == "json" else Response(as_csv(answer["hits"]), mimetype="text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="similar-cases.{query.form}"'
    return response


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


def _words_of(search: Search, filters: PageFilters) -> dict[str, Any]:
    """Return what a search and the filters beside it are as words of the page's address; what is usual is left out."""
    fields = {"k", "collection", "exclude_same_patient", "min_similarity", "exact", *PART}
    words = search.model_dump(include=fields, exclude_defaults=True) | filters.words()
    where = {"filter": json.dumps(search.filter)} if search.filter else {}
    return words | where | ({"one_a_patient": "false"} if search.group_by is None else {}) | {"k": search.k}


def _sent(name: str, search: Search) -> list[dict[str, str]]:
    address = partial(url_for, "queries.image", query_id=name)
    return [
        {"view": view, "small": address(view=view, small="true"), "whole": address(view=view)}
        for view in VIEWS
        if getattr(search, view) is not None
    ]


def _spoken(collection: MountedCollection) -> str | None:
    """Return the name by which addresses must tell a collection; None where it is the only one."""
    return collection.name if len(mounted().names) > 1 else None


def _stored(study: Study, name: str | None) -> list[dict[str, str]]:
    def address(route: str, view: str) -> str:
        return url_for(route, study_id=study.study_id, view=view, collection=name)

    return [
        {"view": view, "small": address("pages.thumbnail", view), "whole": address("studies.image", view)}
        for view in study.views
    ]


def _examples(collection: MountedCollection) -> list[Study]:
    """Return a few studies to begin with, of as many findings; none where the collection cannot be listed."""
    found: dict[str, Study] = {}
    with suppress(BeyondBackend):
        for finding in [*collection.choices.findings[:EXAMPLES], ""]:
            if len(found) < EXAMPLES:
                studies = collection.retriever.now().listed(finding, [finding] if finding else [], limit=EXAMPLES)
                found |= {study.study_id: study for study in studies[: 1 if finding else EXAMPLES] if study.views}
    return list(found.values())[:EXAMPLES]


def _named(shown: dict[str, Any]) -> dict[str, Any]:
    """Return the query that a page shows as a word of an address."""
    if shown.get("query"):
        return {"query": shown["query"]}
    return {"study": shown["asked"]} if shown.get("asked") else {}


def _render(
    collection: MountedCollection | None = None, refused: Exception | None = None, **shown: Any
) -> tuple[str, int]:
    collection = collection or current()
    name = _spoken(collection)
    status, code, message = refusal_of(refused) if refused else (200, "", "")
    filters: PageFilters = shown["filters"]
    given: dict[str, Any] = {"k": PAGE_HITS, "each": False, "part": {}} | shown
    named = _named(given)
    carried = filters.words() | ({"k": given["k"]} if given["k"] != PAGE_HITS else {})
    carried |= {"collection": name} if name else {}
    carried |= {"one_a_patient": "false"} if given["each"] else {}
    html = render_template(
        "page.html",
        rows=len(collection.retriever),
        fingerprint=collection.retriever.fingerprint,
        choices=collection.retriever.choices,
        counts=sorted({*COUNTS, given["k"]}),
        carried=carried,
        films_of=partial(_stored, name=name),
        here=named | carried | given["part"],
        whole_film=named | carried,
        marks=collection.regions and (collection.reader is not None or "study" in named),
        viewer_url=viewer_url,
        examples=[] if named or message else _examples(collection),
        pictured=collection.image_root is not None,
        mapped=collection.map is not None,
        embeds=collection.embeds,
        explains=collection.explains,
        warning=collection.warning,
        collection=name,
        collections=mounted().names,
        sites=[remote.last for remote in collection.sites.remotes] if isinstance(collection, MountedSites) else (),
        decimals=3 if exact() else SIMILARITY_DECIMALS,
        code=code,
        message=message,
        **given,
    )
    return html, status
