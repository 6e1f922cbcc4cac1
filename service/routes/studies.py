"""The routes of stored studies: what is known of one, its films and its similar cases; adding and deleting one.

A study's paths are looked up here and never answered. A change is answered when it is on the disk and the next search
finds it.
"""

from typing import Any

from flask import Response, request
from flask_openapi3 import APIBlueprint
from werkzeug.routing import PathConverter

from encoder.films.bare import untagged
from encoder.films.image import READING
from index.errors import StudyExists
from index.export.reliability import require_reading
from index.living.additions import VIEWS, Addition, joined
from index.storage.places import Place
from index.table.studies import FINDINGS, ID_ENDINGS, Study
from service.api.answers import SearchAnswer, StudiesAnswer, StudyAnswer
from service.api.openapi import STUDIES, content, film_body, refusals
from service.api.requests import (
    AddStudy,
    FilmQuery,
    InCollection,
    Search,
    SearchOptions,
    StudiesQuery,
    StudyOptions,
    StudyPath,
    parse_addition,
)
from service.audit.trail import UNKNOWN, announce
from service.errors import NotWritable
from service.guard.disclosure import rounded
from service.served.decoding import decoding
from service.served.mounted import MountedCollection, current
from service.served.pictures import film_path, film_response, read_film

api = APIBlueprint("studies", __name__, abp_tags=[STUDIES], abp_responses=refusals(400, 404, 500, 503))


class StudyIdOfPath(PathConverter):
    """A study id with its slashes, and with no ending that a study id never has."""

    regex = "[^/].*?" + "".join(f"(?<!{ending})" for ending in ID_ENDINGS)


@api.get("/v1/studies", responses={200: StudiesAnswer, **refusals(422)})
def studies(query: StudiesQuery) -> dict[str, Any]:
    """The stored studies, page by page; those that begin with what is typed, where something is"""
    collection = current(query.collection)
    page = collection.retriever.now().listed(
        query.prefix, collection.columns, after=query.cursor, limit=query.limit + 1
    )
    shown, more = page[: query.limit], len(page) > query.limit
    return StudiesAnswer.of({"studies": shown, "next": shown[-1].study_id if more else None})


@api.get("/v1/studies/<path:study_id>", responses={200: StudyAnswer})
def study(path: StudyPath, query: InCollection) -> dict[str, Any]:
    """One stored study"""
    return StudyAnswer.of(current(query.collection).retriever.study(path.study_id))


@api.get(
    "/v1/studies/<path:study_id>/image",
    responses={200: content("image/png"), **refusals(415, 422, 429)},
)
def image(path: StudyPath, query: FilmQuery) -> Response:
    """One film of a study: a PNG of 8 bits as the encoder reads it, or its own values"""
    collection = current(query.collection)
    film = film_path(collection.image_root, collection.retriever.study(path.study_id), query.view)
    return film_response(film, query.view, whole=query.depth == "own")


@api.get("/v1/studies/<path:study_id>/similar", responses={200: SearchAnswer})
def similar(path: StudyPath, query: SearchOptions) -> dict[str, Any]:
    """Similar cases of a stored study, without those of its own patient unless asked for"""
    search = Search.of(query, path.study_id)
    answered: dict[str, Any] = rounded(SearchAnswer.of(current(query.collection).answer(search)))
    return answered


@api.post(
    "/v1/studies",
    responses={201: StudyAnswer, 200: StudyAnswer, **refusals(409, 413, 415, 422, 429)},
    openapi_extensions=film_body(StudyOptions, AddStudy),
)
def add() -> tuple[dict[str, Any], int]:
    """Add a study with its films, or a further film of one: 201 once it is on disk, 200 if it was stored already"""
    asked = parse_addition(request)
    collection = current(asked.collection)
    fresh = _added(collection, asked)
    return StudyAnswer.of(collection.retriever.study(asked.study.study_id)), 201 if fresh else 200


@api.delete("/v1/studies/<study:study_id>", responses={204: {"description": "deleted"}, **refusals(409, 429)})
def delete(path: StudyPath, query: InCollection) -> Response:
    """Delete a study; it is found no more, and its added films are removed by the next compaction"""
    collection = current(query.collection)
    living = collection.living
    announce(collection, [path.study_id] if collection.has(path.study_id) else [UNKNOWN])
    living.delete([path.study_id], collection.image_root)
    return Response(status=204)


def _added(collection: MountedCollection, asked: AddStudy) -> bool:
    """Add a study and its films, of which the pixels alone are kept; return whether anything was new.

    A study that is there and lacks one of the films is embedded anew with all of them, those it has from the disk.

    Raises:
        NotWritable, ReadingMismatch, ImageMissing, ImageError, StudiesError, StudyExists, WriteFailed, AuditError.
    """
    living, root = collection.living, collection.image_root
    if root is None or isinstance(root, Place) or not root.is_dir():
        raise NotWritable(
            f"collection {collection.name!r} has no image root on a disk to keep films in; start it with --images"
        )
    require_reading(living.manifest, READING)
    given = {view: film for view in VIEWS if (film := getattr(asked, view)) is not None}
    stored = _stored(collection, asked)
    embedding = None if stored is not None else collection.embed(asked.frontal, asked.lateral, asked.study.projection)
    with decoding().slot():
        films = {view: untagged(film, view, decoding().ignored_parts) for view, film in given.items()}
    paths = {view: living.film_path(film, suffix) for view, (film, suffix) in films.items()}
    contents = {paths[view]: film for view, (film, _) in films.items()}
    study = _study(asked, paths)
    whole = study if stored is None else joined(stored, study)
    if whole is not None and embedding is None:
        known = {view: read_film(film_path(root, whole, view), view) for view in whole.views if view not in given}
        both = given | known
        embedding = collection.embed(both.get("frontal"), both.get("lateral"), whole.projection)
    if whole is None or embedding is None:
        raise StudyExists(
            f"study {study.study_id!r} is stored already with other content; to replace it, pass replace=true"
        )
    announce(collection, [asked.study.study_id])
    joins = stored if stored is not None and whole != stored else None
    addition = Addition(whole, whole.views, embedding, joins)
    return living.add([addition], replace=asked.replace, films=contents, image_root=root)[0]


def _stored(collection: MountedCollection, asked: AddStudy) -> Study | None:
    """Return the study that is there and has not the views that are given, where they may be its further films."""
    now = collection.retriever.now()
    if asked.replace or asked.study.study_id not in now:
        return None
    stored = now.study(asked.study.study_id)
    given = tuple(view for view in VIEWS if getattr(asked, view) is not None)
    return None if stored.views == given else stored


def _study(asked: AddStudy, paths: dict[str, str]) -> Study:
    new = asked.study
    labels = new.findings | new.extra
    return Study(
        new.study_id,
        new.patient_id,
        paths.get("frontal"),
        paths.get("lateral"),
        projection=new.projection,
        sex=new.sex,
        age=new.age,
        split=new.split,
        findings=dict.fromkeys(FINDINGS) | {name: new.findings[name] for name in FINDINGS if name in new.findings},
        extra={name: value for name, value in labels.items() if name not in FINDINGS},
    )
