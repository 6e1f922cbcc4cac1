"""The routes that other hospitals ask: what they may search here, and similar cases as the policy lets them out."""

import base64
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from flask import request
from flask_openapi3 import APIBlueprint
from werkzeug.exceptions import Forbidden

from encoder.errors import ImageError
from index.search.answer import Answer, Hit, Query, Subject
from index.search.searchable import Searchable
from index.table.studies import Study
from index.vectors import as_embedding
from service.api.answers import RemoteAnswer, RemoteInfoAnswer
from service.api.openapi import SEARCH, json_body, refusals
from service.api.requests import RemoteSearch, parse_remote
from service.context import call
from service.errors import ImageMissing, RemoteMissing
from service.guard import disclosure
from service.guard.policy import RemotePolicy
from service.served.mounted import MountedCollection, current
from service.served.pictures import film_path, small_picture
from service.served.sites import ASKED_AS
from service.state import state
from service.watch.metrics import stage

api = APIBlueprint("remote", __name__, abp_tags=[SEARCH], abp_responses=refusals(400, 409, 429, 500, 503))
SIDE = 320
"""Pixels of the long side of a picture that is let out: enough to recognise what a film shows."""
_NUMBER = re.compile(r"[0-9a-f]{16}")


@api.get("/v1/remote", responses={200: RemoteInfoAnswer})
def about() -> dict[str, Any]:
    """What other hospitals may search here, and what they are told"""
    policy, collection = _policy()
    facts = {
        "fingerprint": collection.fingerprint,
        "embedding_dim": collection.retriever.embedding_dim,
        "studies": policy.count(collection.rows),
        "policy": policy,
        "queries_today": state().budget.asked(call.principal or ""),
        "queries_a_day": state().limits.queries_a_day,
    }
    return RemoteInfoAnswer.of(facts)


@api.post(
    "/v1/remote/search",
    responses={200: RemoteAnswer, **refusals(403, 413, 415, 422)},
    openapi_extensions=json_body(RemoteSearch),
)
def search() -> dict[str, Any]:
    """Similar cases for another hospital: no more of them than the policy lets out"""
    policy, collection = _policy()
    asked = parse_remote(request)
    _note(collection)
    vector = _vector(policy, collection, asked)
    here = collection.retriever.now()
    where = policy.narrowed(asked.filter, here)
    facts: dict[str, Any] = {"fingerprint": collection.fingerprint, "shares_patients": policy.shares_patients}
    state().metrics.asked_by(call.principal or "")
    with stage("search"):
        k = min(asked.k, policy.most_hits)
        query = Query(vector, k=k, where=where, group_by=asked.group_by, exact=asked.exact)
        answer = _answer(policy, here, query, asked.patient)
        if not policy.patients_enough(here, vector, where):
            return RemoteAnswer.of(facts | {"exact": answer.exact, "matched": None, "hits": []})
    asker = call.principal or ""
    hits = [policy.let_out(hit, asker) | {"pictures": _pictures(policy, collection, hit.study)} for hit in answer.hits]
    call.noted["let_out"] = len(hits)
    return RemoteAnswer.of(facts | {"exact": answer.exact, "matched": policy.count(answer.matched_total), "hits": hits})


def _policy() -> tuple[RemotePolicy, MountedCollection]:
    policy = state().remote
    if policy is None:
        raise RemoteMissing("this service answers no other hospital; start it with --remote-policy")
    return policy, current(policy.collection)


def _note(collection: MountedCollection) -> None:
    """Have the audit log name the collection that is searched, and the request as the asker's own log names it."""
    call.fields = {"collection": collection.name}
    if _NUMBER.fullmatch(number := request.headers.get(ASKED_AS, "")):
        call.noted["asked_as"] = number


def _vector(policy: RemotePolicy, collection: MountedCollection, asked: RemoteSearch) -> Any:
    """Return the vector that is searched by, once it is counted among the token's queries of the day."""
    kind = "vectors" if asked.embedding is not None else "films"
    if policy.queries not in (kind, "both"):
        raise Forbidden(f"expected {policy.queries} to search by, got {kind}; this hospital's policy says so")
    if asked.embedding is None:
        disclosure.count(asked.frontal, asked.lateral)
        return collection.embed(asked.frontal, asked.lateral)
    vector = as_embedding(np.asarray(asked.embedding, np.float32), collection.retriever.embedding_dim)
    disclosure.count(vector.tobytes())
    return vector


def _answer(policy: RemotePolicy, here: Searchable, query: Query, patient: str | None) -> Answer:
    """Return an answer without the studies of the patient whose hash is given, where hospitals share the key of it.

    Where he is not among the first hits, they are the same with him left out.
    """
    answer = here.answer(query)
    if patient is None or not policy.shares_patients:
        return answer
    own = next((hit for hit in answer.hits if _is_of(policy, hit, patient)), None)
    if own is None:
        return answer
    return here.answer(replace(query, subject=Subject(patient_id=own.study.patient_id)))


def _is_of(policy: RemotePolicy, hit: Hit, patient: str) -> bool:
    return policy.patient_hash(call.principal or "", hit.study.patient_id) == patient


def _pictures(policy: RemotePolicy, collection: MountedCollection, study: Study) -> dict[str, str]:
    """Return small pictures of a study's films in base64, by view; none of a film that is lost or cannot be read."""
    pictures: dict[str, str] = {}
    for view in study.views if policy.pictures else ():
        with suppress(ImageMissing, ImageError, OSError):
            film = film_path(collection.image_root, study, view)
            pictures[view] = base64.b64encode(small_picture(film, view, SIDE)).decode()
    return pictures
