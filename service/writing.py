"""The routes that change a collection: a study is added with its films, or deleted.

They answer when the change is on the disk and the next search finds it; they must not know how it gets there.
"""

from typing import Any

from flask import Response, request
from flask_openapi3 import APIBlueprint

from encoder.untagged import untagged
from index.added import Addition
from index.places import is_local
from index.studies import FINDINGS, Study
from service.answers import StudyAnswer, study_answer
from service.decoding import decoding
from service.errors import NotWritable
from service.finder import Finder, current
from service.openapi import STUDIES, film_body, refusals
from service.parsing import parse_addition
from service.schemas import AddStudy, InCollection, StudyOptions, StudyPath
from service.witness import UNKNOWN, announce

api = APIBlueprint("writing", __name__, abp_tags=[STUDIES], abp_responses=refusals(400, 404, 409, 429, 500, 503))


@api.post(
    "/v1/studies",
    responses={201: StudyAnswer, 200: StudyAnswer, **refusals(413, 415, 422)},
    openapi_extensions=film_body(StudyOptions, AddStudy),
)
def add() -> tuple[dict[str, Any], int]:
    """Add a study with its films: 201 once it is on the disk, 200 where the same content was there before"""
    asked = parse_addition(request)
    finder = current(asked.collection)
    fresh = _added(finder, asked)
    return study_answer(finder.retriever.study(asked.study.study_id)), 201 if fresh else 200


@api.delete("/v1/studies/<study:study_id>", responses={204: {"description": "deleted"}})
def delete(path: StudyPath, query: InCollection) -> Response:
    """Delete a study; it is found no more, and its added films are removed by the next compaction"""
    finder = current(query.collection)
    living = finder.living
    announce(finder, [path.study_id] if finder.has(path.study_id) else [UNKNOWN])
    living.delete([path.study_id], finder.image_root)
    return Response(status=204)


def _added(finder: Finder, asked: AddStudy) -> bool:
    """Add a study and its films, of which the pixels alone are kept; return whether it was new.

    Raises:
        NotWritable, ImageError, StudiesError, StudyExists, WriteFailed, AuditError.
    """
    living, root = finder.living, finder.image_root
    if root is None or not is_local(root) or not root.is_dir():
        raise NotWritable(
            f"collection {finder.name!r} has no image root on a disk to keep films in; start it with --images"
        )
    given = {"frontal": asked.frontal, "lateral": asked.lateral}
    embedding = finder.embed(asked.frontal, asked.lateral, asked.study.projection)
    with decoding().place():
        films = {view: untagged(film, view) for view, film in given.items() if film is not None}
    paths = {view: living.film_path(film, suffix) for view, (film, suffix) in films.items()}
    contents = {paths[view]: film for view, (film, _) in films.items()}
    addition = Addition(_study(asked, paths), tuple(films), embedding)
    announce(finder, [asked.study.study_id])
    return living.add([addition], replace=asked.replace, films=contents, image_root=root)[0]


def _study(asked: AddStudy, paths: dict[str, str]) -> Study:
    new = asked.study
    labels = new.findings | new.extra
    return Study(
        new.study_id, new.patient_id, paths.get("frontal"), paths.get("lateral"),
        projection=new.projection, sex=new.sex, age=new.age, split=new.split,
        findings=dict.fromkeys(FINDINGS) | {name: new.findings[name] for name in FINDINGS if name in new.findings},
        extra={name: value for name, value in labels.items() if name not in FINDINGS},
    )  # fmt: skip
