"""The routes of queries that are kept: films are sent once, and everything else is asked by an id."""

from typing import Any

from flask import Response, request
from flask_openapi3 import APIBlueprint

from service.api.answers import QueryAnswer
from service.api.openapi import SEARCH, content, film_body, refusals
from service.api.requests import MendRequest, NewQuery, QueryImage, QueryOptions, QueryPath, parse_query
from service.context import running
from service.errors import ImageMissing
from service.served.pictures import film_png, picture_response, small_jpeg
from service.served.queries import keep_query, kept_query, mend_query

api = APIBlueprint("queries", __name__, abp_tags=[SEARCH], abp_responses=refusals(400, 404, 500))


@api.post(
    "/v1/queries",
    responses={201: QueryAnswer, **refusals(409, 413, 415, 422, 429, 503)},
    openapi_extensions=film_body(QueryOptions, NewQuery),
)
def keep() -> tuple[dict[str, Any], int]:
    """Send films once, or name a stored study, to ask about them by an id: an hour long, with the same token alone"""
    return QueryAnswer.of(keep_query(parse_query(request, QueryOptions, NewQuery))), 201


@api.get("/v1/queries/<query_id>", responses={200: QueryAnswer})
def state(path: QueryPath) -> dict[str, Any]:
    """A query that is kept, and what is being computed about it"""
    return QueryAnswer.of(kept_query(path.query_id))


@api.post(
    "/v1/queries/<query_id>/mend",
    responses={201: QueryAnswer, **refusals(409, 413, 415, 422, 429, 503)},
)
def mend(path: QueryPath, body: MendRequest) -> tuple[dict[str, Any], int]:
    """A new query with a film of this one turned or inverted, or with both films exchanged; this one stays"""
    return QueryAnswer.of(mend_query(kept_query(path.query_id), body.mend, body.view)), 201


@api.delete("/v1/queries/<query_id>", responses={204: {"description": "forgotten"}})
def forget(path: QueryPath) -> Response:
    """Forget a query and its films at once"""
    running.queries.drop(kept_query(path.query_id))
    return Response(status=204)


@api.get(
    "/v1/queries/<query_id>/image",
    responses={200: content("image/png", "image/jpeg"), **refusals(415, 422, 429)},
)
def image(path: QueryPath, query: QueryImage) -> Response:
    """One film of a query, as that of a stored study: a PNG of 8 bits or of its own depth; or a small JPEG"""
    film = kept_query(path.query_id).films.get(query.view)
    if film is None:
        raise ImageMissing(f"this query has no {query.view} film")
    if query.small:
        return picture_response(small_jpeg(film, query.view), "image/jpeg")
    return picture_response(film_png(film, query.view, whole=query.depth == "own"), "image/png")
