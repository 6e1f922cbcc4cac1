"""Four hospitals, each a real server in a network of its own, behind TLS: beside one collection of all their studies."""

import json
import signal
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cryptography", reason="certificates need cryptography: pip install 'cxr-precedent[pacs]'")
from hospitals import (
    DIM,
    OURS,
    STUDIES,
    THEIRS,
    Hospital,
    certify,
    hospital,
    joined,
    networks,
    retriever,
    save_hospital,
    started,
    studies_of,
    write_sites,
)

from index.importing.pseudonyms import make_key
from index.search.answer import Answer, Query, Subject
from index.search.searchable import Searchable
from service.audit.chain import verify
from service.served.sites import Sites, SitesAnswer, SitesCollection, SitesFile

NUMBERS = {"south": 0, "north": 1, "west": 2, "east": 3}
OTHERS = ("north", "west", "east")
AGES = {"must": [{"key": "age", "range": {"gte": 50, "lt": 70}}]}
MEN = {"must_not": [{"key": "sex", "match": {"value": "Female"}}]}
OPTIONS: list[dict[str, Any]] = [
    {"k": 10},
    {"k": 100, "exclude_same_patient": False},
    {"k": 25, "group_by": "patient"},
    {"k": 20, "filter": MEN, "group_by": "patient"},
    {"k": 30, "filter": AGES, "min_similarity": 0.1},
]


def asked(url: str, path: str, **body: Any) -> dict[str, Any]:
    """Return what a service without tokens answers."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


def hits(answer: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return number and similarity of each hit of a service's answer, in order."""
    return [(hit["extra"]["Number"], hit["similarity"]) for hit in answer["hits"]]


def expected(whole: Searchable, options: Mapping[str, Any], study: str | None, vector: Any = None) -> Answer:
    """Return what one collection answers to the same."""
    words = {name: value for name, value in options.items() if name != "filter"}
    query = Query(vector, where=options.get("filter"), **words)
    return whole.answer(query.of(*whole.stored(study)) if study is not None else query)


def same(url: str, whole: Searchable) -> int:
    """Assert that a service answers as a collection does, and return how many hits were compared."""
    rng, compared = np.random.default_rng(5), 0
    vectors = rng.standard_normal((3, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    stored = [row["study_id"] for row in studies_of(NUMBERS["south"])[0][:6]]
    for options in OPTIONS:
        for study, vector in [*((name, None) for name in stored), *((None, vector) for vector in vectors)]:
            query = {"study_id": study} if study is not None else {"embedding": vector.tolist()}
            answer = asked(url, "/v1/search", collection="sites", **query, **options)
            truth = expected(whole, options, None if study is None else f"south/{study}", vector)
            found = [(hit.study.extra["Number"], hit.similarity) for hit in truth.hits]
            assert hits(answer) == found, (options, study)
            compared += len(found)
    return compared


def states(answer: Mapping[str, Any]) -> dict[str, str]:
    return {one["name"]: one["state"] for one in answer["sites"]}


@pytest.mark.slow
def test_hospitals_answer_as_one_collection_would_and_one_that_fails_is_named(tmp_path: Path) -> None:
    make_key(tmp_path / "shared.key")
    for name, number in NUMBERS.items():
        save_hospital(tmp_path / name, number, **({"fingerprint": THEIRS} if name == "east" else {}))
    study = studies_of(0)[0][0]["study_id"]
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        three = stack.enter_context(networks(len(OTHERS)))
        certify(tmp_path, *{network.address for network in three})
        others = [Hospital(name, network, tmp_path / name) for name, network in zip(OTHERS, three, strict=True)]
        file = write_sites(tmp_path, others, tmp_path, seconds=60)
        south = (tmp_path / "south" / "index", "--sites", file, "--audit", tmp_path / "south" / "audit.jsonl")
        starting = [pool.submit(stack.enter_context, hospital(one, tmp_path)) for one in others]
        _, url = stack.enter_context(started(*south))
        north, west, _ = (one.result() for one in starting)

        assert same(url, joined({name: NUMBERS[name] for name in ("south", "north", "west")})) > 500
        first = asked(url, "/v1/search", collection="sites", study_id=study, k=100)
        assert states(first) == {"south": "answered", "north": "answered", "west": "answered", "east": "resting"}
        assert "its vectors are of encoder bbbbbbbbbbbb, ours of aaaaaaaaaaaa" in first["sites"][3]["reason"]
        north.kill()
        north.wait()
        told = asked(url, "/v1/search", collection="sites", study_id=study, k=50)
        assert states(told) == states(first) | {"north": "away"}
        own = f"south/{study}"
        left = joined({name: NUMBERS[name] for name in ("south", "west")}).answer(
            Query(subject=Subject(study_id=own), k=50)
        )
        assert hits(told) == [(hit.study.extra["Number"], hit.similarity) for hit in left.hits]

        west.send_signal(signal.SIGSTOP)
        impatient = Sites(replace(SitesFile.load(file, {}), seconds=1.0))
        here = retriever(*studies_of(0))
        alone = SitesCollection(impatient, here, OURS, DIM).answer(Query(subject=Subject(study_id=study), k=50))
        assert isinstance(alone, SitesAnswer)
        assert [one.state for one in alone.sites] == ["answered", "away", "slow", "unusable"]
        assert [hit.study for hit in alone.hits] == [hit.study for hit in here.similar(study, 50).hits]
        west.send_signal(signal.SIGCONT)
        info = asked(url, "/info")

    policy = {one["name"]: one["about"] for one in info["sites"]["sites"]}["west"]
    assert (policy["studies"], policy["policy"]["ages"], policy["policy"]["pictures"]) == (STUDIES, 10, False)
    logs = {name: (tmp_path / name / "audit.jsonl").read_text().splitlines() for name in ("south", "west")}
    ours = [json.loads(line) for line in logs["south"] if '"sites"' in line]
    theirs = {line.get("asked_as"): line for line in map(json.loads, logs["west"])}
    assert (theirs[ours[0]["request_id"]]["principal"], theirs[ours[0]["request_id"]]["let_out"]) == ("south", 10)
    assert ours[-1]["sites"] == states(told)
    for name in logs:
        verify(tmp_path / name / "audit.jsonl")
