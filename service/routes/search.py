"""The routes that turn films into vectors and vectors into similar cases."""

from typing import Any

from flask import request
from flask_openapi3 import APIBlueprint

from service.api.answers import EmbeddingAnswer, SearchAnswer
from service.api.openapi import SEARCH, film_body, refusals
from service.api.requests import FilmOptions, GivenFilms, Search, parse_films, parse_search
from service.guard.access import require
from service.guard.disclosure import rounded
from service.served.mounted import current

api = APIBlueprint("search", __name__, abp_tags=[SEARCH], abp_responses=refusals(400, 413, 415, 422, 429, 500, 503))


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
    answered: dict[str, Any] = rounded(SearchAnswer.of(current(asked.collection).answer(asked)))
    return answered


@api.post("/v1/embeddings", responses={200: EmbeddingAnswer}, openapi_extensions=film_body(body=GivenFilms))
def embeddings() -> dict[str, Any]:
    """The unit vector of one or two films; it can identify a patient, so treat it as health data"""
    films = parse_films(request)
    collection = current(films.collection)
    vector, embedder = collection.embed(films.frontal, films.lateral), collection.embedder
    facts = {"fingerprint": embedder.fingerprint, "embedding_dim": embedder.embedding_dim}
    return EmbeddingAnswer.of({"embedding": vector.tolist(), **facts})
