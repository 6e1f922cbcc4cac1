"""The routes that say what a film shows and why: predictions with the neighbours' vote, and maps."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from flask import request
from flask_openapi3 import APIBlueprint

from encoder.maps.passes import PASS
from index.search.answer import Subject
from service.api.answers import ExplainAnswer, PredictAnswer
from service.api.openapi import SEARCH, film_body, refusals
from service.api.requests import Explain, ExplainOptions, Predict, PredictOptions, parse_query
from service.errors import ClientGone, NotReady, ProbeMissing, RequestError
from service.guard import disclosure
from service.served.disconnect import disconnect_check
from service.served.mounted import MountedCollection, current
from service.served.pictures import film_path, read_film
from service.served.queries import KeptQuery, Work, recalled
from service.served.sites import MountedSites
from service.state import state
from service.watch.metrics import stage

api = APIBlueprint(
    "readings", __name__, abp_tags=[SEARCH], abp_responses=refusals(400, 404, 409, 413, 415, 422, 429, 500, 503)
)


@api.post("/v1/predict", responses={200: PredictAnswer}, openapi_extensions=film_body(PredictOptions, Predict))
def predict() -> dict[str, Any]:
    """Probability and call of each finding, the neighbours' vote, and whether the films are familiar"""
    asked, kept = recalled(parse_query(request, PredictOptions, Predict))
    disclosure.require_hits(asked.k)
    collection = current(asked.collection)
    if asked.finding is not None and asked.finding not in collection.columns:
        raise RequestError(f"finding: expected a label of this collection, got {asked.finding!r}")
    reader = _reader(collection)
    if asked.map:
        _require_probe(reader)
    heavy = asked.tta or asked.map or bool(asked.dropout_passes)
    if heavy:
        reader.require_network()
    with _turn("predict", kept) if heavy else nullcontext():
        query = query_of(collection, asked, kept, films=heavy)
        reading = reader.predict(
            query, k=asked.k, tta=asked.tta, passes=asked.dropout_passes, finding=asked.finding, mapped=asked.map
        )
    if asked.study_id is None:
        collection.count_familiarity(reading.familiarity)
    answered: dict[str, Any] = disclosure.rounded(PredictAnswer.of(replace(reading, warning=collection.warning)))
    return answered


@api.post("/v1/explain", responses={200: ExplainAnswer}, openapi_extensions=film_body(ExplainOptions, Explain))
def explain() -> dict[str, Any]:
    """Heat maps of what speaks for a finding, or of what makes the films similar to a stored study"""
    asked, kept = recalled(parse_query(request, ExplainOptions, Explain))
    collection = current(asked.collection)
    reader = _reader(collection)
    reader.require_network()
    if asked.finding is not None:
        _require_probe(reader)
        if asked.finding not in reader.probe.findings:
            known = ", ".join(reader.probe.findings)
            raise RequestError(f"finding: expected one of the probe ({known}), got {asked.finding!r}")
    options = {"method": asked.method, "stage": asked.stage, "trust": asked.trust}
    with _turn("explain", kept):
        query = query_of(collection, asked, kept, films=True)
        hit = stored_query(collection, asked.hit, films=True) if asked.hit is not None else None
        explained = reader.explain(query, hit, finding=asked.finding, **options)
    explained |= {"finding": asked.finding, "hit": asked.hit, "warning": collection.warning}
    answered: dict[str, Any] = disclosure.rounded(ExplainAnswer.of(explained))
    return answered


@contextmanager
def _turn(name: str, kept: KeptQuery | None) -> Iterator[None]:
    """Wait for a turn at work that keeps every core busy, few at a time, so that searches are answered meanwhile.

    The work is timed as that stage, without the wait, and shown at the query that is kept. It is given up between two
    passes of the network where the client has gone.

    Raises:
        Busy: too many wait. ClientGone.
    """
    gone, work = disconnect_check(), Work(name)

    def next_pass() -> None:
        if gone():
            raise ClientGone
        work.passes += 1

    with nullcontext() if kept is None else kept.at(work), state().readings:
        if gone():
            raise ClientGone
        work.state = "running"
        before = PASS.set(next_pass)
        try:
            with stage(name):
                yield
        finally:
            PASS.reset(before)


def query_of(collection: MountedCollection, asked: Predict | Explain, kept: KeptQuery | None, *, films: bool) -> Any:
    """Return the study that is asked about, with its films where they are needed.

    Args:
        kept: of which its films are, where they are kept and may have been looked at before.

    Raises:
        StudyNotFound: no such study. ImageMissing: a film of it is not to be had. TooManyRequests: it is a query more
            than the token may ask today.
    """
    from service.served.film_reader import GivenStudy

    if asked.study_id is None:
        disclosure.count(asked.frontal, asked.lateral)
        sources = {view: film for view in ("frontal", "lateral") if (film := getattr(asked, view)) is not None}
        subject = Subject(patient_id=asked.patient_id, views=tuple(sources))
        if kept is not None:
            subject = replace(subject, sex=kept.facts.sex, age=kept.facts.age, projection=kept.facts.projection)
        return GivenStudy(sources, subject, look=None if kept is None else kept.look(collection)[0])
    disclosure.count(collection.name, collection.retriever.study(asked.study_id).study_id)
    return stored_query(collection, asked.study_id, films=films)


def stored_query(collection: MountedCollection, study_id: str, *, films: bool) -> Any:
    """Return a stored study, with the bytes of its films where they are needed. Raises StudyNotFound, ImageMissing."""
    from service.served.film_reader import GivenStudy

    study = collection.retriever.study(study_id)
    views = study.views if films else ()
    sources = {view: read_film(film_path(collection.image_root, study, view), view) for view in views}
    return GivenStudy(sources, Subject.of(study), collection.retriever.embedding(study_id))


def _require_probe(reader: Any) -> None:
    if reader.probe is None:
        raise ProbeMissing("the service was started without a probe; start it with --probe to explain findings")


def _reader(collection: MountedCollection) -> Any:
    if collection.reader is None and isinstance(collection, MountedSites):
        raise ProbeMissing("this service has no collection of its own, from which findings would be predicted")
    if collection.reader is None:
        raise NotReady("this service was started without an encoder; start it with precedent serve")
    return collection.reader
