"""The routes of one stored study: what is known of it, its films, its similar cases.

A study's paths are looked up here and never answered.
"""

import time
from typing import Any

from flask import Response
from flask_openapi3 import APIBlueprint
from werkzeug.routing import PathConverter

from index.table.studies import ID_ENDINGS
from service.api.answers import SearchAnswer, StudyAnswer, search_answer, study_answer
from service.api.openapi import STUDIES, content, refusals
from service.api.requests import ImageQuery, InCollection, SearchOptions, StudyPath
from service.guard import disclosure
from service.served.films import film_path, film_response
from service.served.mounted import current

api = APIBlueprint("studies", __name__, abp_tags=[STUDIES], abp_responses=refusals(400, 404, 500, 503))


class StudyIdOfPath(PathConverter):
    """A study id with its slashes, and with no ending that a study id never has."""

    regex = "[^/].*?" + "".join(f"(?<!{ending})" for ending in ID_ENDINGS)


@api.get("/v1/studies/<path:study_id>", responses={200: StudyAnswer})
def study(path: StudyPath, query: InCollection) -> dict[str, Any]:
    """What is known of a study"""
    return study_answer(current(query.collection).retriever.study(path.study_id))


@api.get(
    "/v1/studies/<path:study_id>/image",
    responses={200: content("image/png"), **refusals(415, 422, 429)},
)
def image(path: StudyPath, query: ImageQuery) -> Response:
    """One film of a study, as the encoder reads it: a PNG of 8 bits"""
    finder = current(query.collection)
    film = film_path(finder.image_root, finder.retriever.study(path.study_id), query.view)
    return film_response(film, query.view)


@api.get("/v1/studies/<path:study_id>/similar", responses={200: SearchAnswer})
def similar(path: StudyPath, query: SearchOptions) -> dict[str, Any]:
    """Similar cases of a stored study; its own patient's are left out unless asked for"""
    started = time.perf_counter()
    finder = current(query.collection)
    answer = finder.similar(path.study_id, query)
    found = search_answer(answer, finder.retriever.fingerprint, time.perf_counter() - started)
    return found | {"familiarity": disclosure.rounded(finder.familiarity(answer, query))}
