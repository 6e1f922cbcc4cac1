"""The routes that turn films into vectors and vectors into similar cases."""

from typing import Any

from flask import request
from flask_openapi3 import APIBlueprint
from werkzeug.exceptions import HTTPException

from encoder.films.dicom_elements import read_header
from index.importing.pairing import require_one_patient
from index.search.answer import Answer
from service.api.answers import EmbeddingAnswer, SearchAnswer, SearchesAnswer
from service.api.openapi import SEARCH, film_body, json_body, refusals
from service.api.requests import (
    FilmOptions,
    GivenFilms,
    Search,
    Searches,
    parse_films,
    parse_search,
    parse_searches,
)
from service.errors import TABLE, ClientGone, error_body, refusal_of
from service.guard.access import require, require_rate
from service.guard.disclosure import rounded
from service.served.mounted import MountedCollection, current
from service.served.queries import recalled

api = APIBlueprint(
    "search", __name__, abp_tags=[SEARCH], abp_responses=refusals(400, 409, 413, 415, 422, 429, 500, 503)
)
_REFUSALS: tuple[type[Exception], ...] = (*TABLE, HTTPException)


@api.post(
    "/v1/search",
    responses={200: SearchAnswer, **refusals(404)},
    openapi_extensions=film_body(FilmOptions, Search),
)
def search() -> dict[str, Any]:
    """Similar cases of one or two films, of an embedding, or of a stored study"""
    asked = parse_search(request)
    if asked.embedding is not None:
        require("vectors")  # enough similarities to chosen vectors would tell a stored one
    asked, kept = recalled(asked)
    answered: dict[str, Any] = rounded(
        SearchAnswer.of(current(asked.collection).answer(asked, kept.look if kept else None))
    )
    return answered


@api.post("/v1/searches", responses={200: SearchesAnswer, **refusals(404)}, openapi_extensions=json_body(Searches))
def searches() -> dict[str, Any]:
    """The answers to several searches; each counts as one for the token's rate and its queries a day"""
    asked = parse_searches(request)
    if any(search.embedding is not None for search in asked.searches):
        require("vectors")
    require_rate(len(asked.searches) - 1)
    collection = current(asked.collection)
    answers = [_answer_or_refusal(collection, search) for search in asked.searches]
    answered: dict[str, Any] = rounded(SearchesAnswer.of({"answers": answers}))
    return answered


def _answer_or_refusal(collection: MountedCollection, asked: Search) -> Answer | dict[str, Any]:
    """Return an answer, or the body of what refuses this one search; what fails of the service itself is raised."""
    try:
        require_one_patient(asked.frontal, asked.lateral, read_header)
        asked, kept = recalled(asked, collection.name)
        return collection.answer(asked, kept.look if kept else None)
    except _REFUSALS as error:
        status, code, message = refusal_of(error)
        if status >= 500 or isinstance(error, ClientGone):
            raise
        return error_body(code, message)


@api.post("/v1/embeddings", responses={200: EmbeddingAnswer}, openapi_extensions=film_body(body=GivenFilms))
def embeddings() -> dict[str, Any]:
    """The unit vector of one or two films; it can identify a patient, so treat it as health data"""
    films = parse_films(request)
    collection = current(films.collection)
    vector, embedder = collection.embed(films.frontal, films.lateral), collection.embedder
    facts = {"fingerprint": embedder.fingerprint, "embedding_dim": embedder.embedding_dim}
    return EmbeddingAnswer.of({"embedding": vector.tolist(), **facts})
