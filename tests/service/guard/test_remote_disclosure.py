"""Whose record another hospital can tell from what a policy lets out, and how far it can compute a stored vector."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from command_line import done
from flask.testing import FlaskClient
from folders import ROOT
from service_world import FakeEmbedder, app_over, study_row, with_tokens

from index.built.collection import Collection
from index.built.vector_index import VectorIndex
from index.export.shards import load_embeddings
from index.importing.pseudonyms import make_key
from index.search.retriever import Retriever
from index.table.studies import as_studies, studies_schema
from service.guard.policy import OLDEST, RemotePolicy, band
from service.guard.tokens import create_token
from service.limits import Limits
from service.served.mounted import MountedCollection

WRONGLY = 0.05
"""Of the persons who are not in the collection, how many the attacker is content to name."""
STEP = 0.5
"""Length of the step from a film's vector to a vector that is made up beside it."""
A_DAY = 200


@dataclass(frozen=True)
class Known:
    """Whom the attacker knows: a film's vector of each person, with sex and age, and whether he is in the collection."""

    vectors: np.ndarray
    """(P, D)."""
    records: list[str]
    """The study that is stored of each."""
    inside: np.ndarray
    """(P,) bool."""
    facts: list[tuple[str, float]]


@dataclass(frozen=True)
class World:
    """A collection, and two attackers: one has another film of each person, one the very film that is stored."""

    rows: list[dict[str, Any]]
    vectors: np.ndarray
    another: Known
    same: Known


@dataclass(frozen=True)
class Rule:
    """What is let out beside the hits' order."""

    decimals: int | None
    """Of similarities; None lets out the order alone, which no policy can, for answers are merged by similarity."""
    ids: bool = True
    facts: bool = False
    """Sex, and ages in bands of ten years."""


def world_of(rows: list[dict[str, Any]], vectors: np.ndarray) -> World:
    """Return a world of studies: of every second patient with several all but the first are left out of it."""
    studies: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        studies.setdefault(row["patient_id"], []).append(at)
    persons = [own for own in studies.values() if len(own) > 1]
    inside = np.arange(len(persons)) % 2 == 0
    away = {at for own, there in zip(persons, inside, strict=True) for at in (own if not there else own[:1])}
    kept = [at for at in range(len(rows)) if at not in away]
    facts = [(str(rows[own[0]]["sex"]), float(rows[own[0]]["age"])) for own in persons]
    records = [rows[own[1]]["study_id"] for own in persons]
    first, second = (np.stack([vectors[own[at]] for own in persons]) for at in (0, 1))
    known = (Known(asked, records, inside, facts) for asked in (first, second))
    return World([rows[at] for at in kept], vectors[kept], *known)


def drawn_world(patients: int = 60, dim: int = 24) -> World:
    """Return a world of drawn vectors: those of a patient lie nearer to each other than to others'."""
    rng = np.random.default_rng(3)
    middle = np.repeat(rng.standard_normal((patients, dim)), 2, axis=0)
    vectors = middle + 0.7 * rng.standard_normal((2 * patients, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"patient{at // 2:05d}/study{at % 2 + 1}" for at in range(2 * patients)]
    ages, sexes = rng.integers(20, 89, patients), rng.choice(["Female", "Male"], patients)
    facts = [{"age": float(ages[at // 2]), "sex": str(sexes[at // 2])} for at in range(2 * patients)]
    return world_of([study_row(name, **more) for name, more in zip(names, facts, strict=True)], vectors)


def phantom_world(folder: Path, patients: int = 200) -> World:
    """Return a world of simulated films, as the encoder of the demo embeds them."""
    films, studies, embeddings = folder / "films", folder / "studies.parquet", folder / "embeddings"
    done("phantom", "--patients", patients, "--seed", 11, "--jobs", 1, "--out", films)
    done("import", "chexpert", films / "train.csv", "--images", films, "--out", studies)
    encoder = ROOT / "scripts" / "demo_encoder.safetensors"
    done("export", studies, "--images", films, "--encoder", encoder, "--out", embeddings)
    table, vectors = load_embeddings(embeddings)
    facts = table.select(["study_id", "age", "sex"]).to_pylist()
    rows = [study_row(row["study_id"], age=row["age"], sex=row["sex"]) for row in facts]
    return world_of(rows, vectors)


class Attacker:
    """Another hospital with a token, and what it does not have: the ids behind the hits that it is told."""

    def __init__(self, client: FlaskClient, secret: str, retriever: Retriever) -> None:
        self._client, self._own = client, {"Authorization": f"Bearer {secret}"}
        self.retriever = retriever

    def ask(self, vector: np.ndarray) -> list[tuple[dict[str, Any], str]]:
        """Return what a search by a vector tells of each hit, and beside it whose study it is in truth."""
        asked = {"embedding": vector.tolist(), "k": 20}
        answer = self._client.post("/v1/remote/search", json=asked, headers=self._own)
        assert answer.status_code == 200, answer.text
        truth = [hit.study.study_id for hit in self.retriever.search(vector, 20).hits]
        return list(zip(answer.get_json()["hits"], truth, strict=True))


def attacker(world: World, folder: Path, decimals: int) -> Attacker:
    """Return one whose hospital is told of hashed ids, sex, ages in bands of ten years, and similarities as given."""
    folder.mkdir()
    make_key(folder / "own.key")
    policy = RemotePolicy(
        ids="hashed", key=folder / "own.key", columns=("sex",), ages=10, decimals=decimals, least_patients=1
    )
    studies = as_studies(pa.Table.from_pylist(world.rows, studies_schema([pa.field("Etiology", pa.string())])))
    manifest = {"fingerprint": "f" * 64, "kind": "flat", "recall_at_10": 1.0}
    retriever = Retriever(Collection(manifest, studies, VectorIndex.build(world.vectors, "flat")))
    secret = create_token(folder / "tokens.json", "attacker", ["remote"])
    limits = Limits(calls_at_once=10**6, queries_a_day=10**6)
    app = app_over(MountedCollection("main", retriever, FakeEmbedder()), limits=limits, remote=policy)
    return Attacker(with_tokens(app, folder / "tokens.json").test_client(), secret, retriever)


def named(known: Known, answers: list[list[tuple[dict[str, Any], str]]], rule: Rule) -> tuple[float, float]:
    """Return the share of persons in the collection whose record is named, and of others who are named though not in it.

    The attacker takes each person's nearest hit that fits what is let out of sex and age. Where a record is known
    again by its hash, and several persons claim it, the most similar keeps it. A person is named where the similarity
    is above a bound that at most WRONGLY of the persons outside pass; where there is none, everybody is.
    """
    claims: list[tuple[float, str, str] | None] = []
    for (sex, age), hits in zip(known.facts, answers, strict=True):
        fitting = [
            (0.0 if rule.decimals is None else hit["similarity"], str(hit["study"]), truth)
            for hit, truth in hits
            if not rule.facts or (hit["facts"]["sex"], tuple(hit["ages"] or ())) == (sex, band(min(age, OLDEST), 10))
        ]
        claims.append(fitting[0] if fitting else None)
    if rule.ids:
        best: dict[str, float] = {}
        for claim in filter(None, claims):
            best[claim[1]] = max(best.get(claim[1], -1.0), claim[0])
        claims = [claim if claim is not None and claim[0] == best[claim[1]] else None for claim in claims]
    scores = np.array([-2.0 if claim is None else claim[0] for claim in claims])
    outside = np.sort(scores[~known.inside])[::-1]
    bound = -1.5 if rule.decimals is None else outside[int(WRONGLY * len(outside))]
    right = np.array([claim is not None and claim[2] == own for claim, own in zip(claims, known.records, strict=True)])
    passed = scores > bound
    return float((passed & right)[known.inside].mean()), float(passed[~known.inside].mean())


def computed(who: Attacker, known: Known, decimals: int, queries: int, persons: int = 8) -> tuple[float, float]:
    """Return the mean cosine to a stored vector of the film's that is nearest, and of what queries beside it compute.

    From answers to vectors a step away from the film's, the similarities of the record that is nearest to it are taken,
    which its hash tells; the guess is the nearest vector to the film's that gives them.
    """
    rng, begun, reached = np.random.default_rng(7), [], []
    for start in known.vectors[known.inside][:persons].astype(np.float64):
        record = who.ask(start.astype(np.float32))[0][1]
        stored = who.retriever.embedding(record).astype(np.float64)
        made_up = start + STEP * len(start) ** -0.5 * rng.standard_normal((queries, len(start)))
        made_up = (made_up / np.linalg.norm(made_up, axis=1, keepdims=True)).astype(np.float32)
        answers = [{truth: hit["similarity"] for hit, truth in who.ask(one)} for one in made_up]
        told = [(one, answer[record]) for one, answer in zip(made_up, answers, strict=True) if record in answer]
        asked, seen = np.array([one for one, _ in told], np.float64), np.array([similarity for _, similarity in told])
        noise = 10.0 ** (-2 * decimals) / 12 * len(start) * np.eye(len(asked))
        guess = start + asked.T @ np.linalg.solve(asked @ asked.T + noise, seen - asked @ start)
        begun.append(start @ stored)
        reached.append(guess @ stored / np.linalg.norm(guess))
    return float(np.mean(begun)), float(np.mean(reached))


RULES = [
    *(Rule(decimals, ids, facts) for ids in (True, False) for decimals in (6, 2, 1, None) for facts in (False, True)),
]


def rates(world: World, folder: Path) -> Iterator[tuple[str, Rule, tuple[float, float]]]:
    """Yield for both attackers and each rule how many are named rightly and wrongly."""
    for kind, known in (("another film", world.another), ("the very film", world.same)):
        answers = {}
        for decimals in (6, 2, 1):
            who = attacker(world, folder / f"{kind}{decimals}", decimals)
            answers[decimals] = [who.ask(vector) for vector in known.vectors]
        for rule in RULES:
            yield kind, rule, named(known, answers[rule.decimals or 6], rule)


def words_of(rule: Rule) -> str:
    similarity = "order alone" if rule.decimals is None else f"{rule.decimals} decimals"
    return f"{similarity:12} ids {'hashed' if rule.ids else 'absent'}, {'sex and age bands' if rule.facts else 'no columns':18}"


def test_the_very_film_names_its_record_whatever_is_rounded_and_order_alone_names_everybody(tmp_path: Path) -> None:
    found = {(kind, rule): shares for kind, rule, shares in rates(drawn_world(), tmp_path)}

    for rule in RULES:
        assert found["the very film", rule][1] <= WRONGLY or rule.decimals is None
    assert found["the very film", Rule(6)][0] == found["the very film", Rule(2)][0] == 1.0
    assert found["another film", Rule(6, facts=True)][0] >= found["another film", Rule(6)][0] > 0.2
    assert found["the very film", Rule(None, ids=False)][1] == 1.0


def test_vectors_made_up_beside_a_film_compute_the_stored_one_where_similarities_are_exact(tmp_path: Path) -> None:
    world = drawn_world()
    exact = computed(attacker(world, tmp_path / "exact", 6), world.another, 6, 40)
    rough = computed(attacker(world, tmp_path / "rough", 2), world.another, 2, 40)

    assert exact[1] > 0.999
    assert rough[0] < rough[1] < exact[1]


@pytest.mark.long
def test_who_is_named_by_films_of_phantoms(tmp_path: Path) -> None:
    world = phantom_world(tmp_path)
    inside = world.another.inside
    print(
        f"\n{len(world.rows)} studies, {inside.sum()} known persons in the collection and {(~inside).sum()} who are not"
    )
    for kind, rule, (right, wrong) in rates(world, tmp_path):
        print(f"{kind:14} {words_of(rule)} named rightly {right:.2f}, wrongly {wrong:.2f}")
        assert wrong <= WRONGLY or rule.decimals is None
    for decimals in (6, 2):
        who = attacker(world, tmp_path / f"computed{decimals}", decimals)
        for queries in (A_DAY, 3 * A_DAY):
            begun, reached = computed(who, world.another, decimals, queries)
            print(
                f"{decimals} decimals, {queries} queries: cosine {begun:.3f} of the film known, {reached:.4f} computed"
            )
            assert reached > begun
