"""A thousand small collections with ties, blanks and depths beyond their size: judged by loops and by torchmetrics."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import (
    RetrievalMAP,
    RetrievalMRR,
    RetrievalNormalizedDCG,
    RetrievalPrecision,
    RetrievalRecall,
)

from index.judging.bootstrap import Estimate, patient_draws
from index.judging.evaluation import Pool, figures, rank
from index.judging.relevance import Rule, collection_rules
from index.table.studies import COMPETITION_FINDINGS

CASES = 1000
NAMES = [*COMPETITION_FINDINGS[:2], "Fracture"]


@dataclass(frozen=True)
class Case:
    vectors: np.ndarray
    ids: list[str]
    patients: list[str]
    sets: list[set[str]]
    k: int

    def targets(self) -> np.ndarray:
        return np.array([[float(name in held) for name in NAMES] for held in self.sets], np.float32)

    def pool(self) -> Pool:
        return Pool.of(self.vectors, self.ids, self.patients)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Yield collections of 2 to 14 studies whose few directions tie, some without any label."""
    for _ in range(CASES):
        count = int(rng.integers(2, 15))
        vectors = rng.integers(0, 3, size=(count, 3)).astype(np.float32) + np.eye(3, dtype=np.float32)[0]
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        ids = [f"s{number:02d}" for number in rng.permutation(count)]
        patients = [f"p{number}" for number in rng.integers(0, max(count // 2, 1) + 1, size=count)]
        density = rng.choice([0.0, 0.15, 0.4, 0.8])
        sets = [{name for name in NAMES if rng.random() < density} for _ in range(count)]
        yield Case(vectors, ids, patients, sets, int(rng.integers(1, 20)))


def gain_by_hand(rule: str, query: set[str], hit: set[str]) -> float:
    if rule == "any of five":
        return float(bool(query & hit & set(COMPETITION_FINDINGS)))
    if rule == "any finding":
        return float(bool(query & hit))
    if rule == "exact set":
        return float(query == hit)
    return len(query & hit) / max(len(query | hit), 1)


def ordered_gains(case: Case, query: int, rule: str) -> list[float]:
    """Return the gains of all candidates, nearest first, ties by study id."""
    others = [row for row in range(len(case.ids)) if case.patients[row] != case.patients[query]]
    near = {row: round(float(case.vectors[query].astype(float) @ case.vectors[row].astype(float)), 6) for row in others}
    others.sort(key=lambda row: (-near[row], case.ids[row]))
    return [gain_by_hand(rule, case.sets[query], case.sets[row]) for row in others]


def asks(rule: str, labels: set[str]) -> bool:
    return bool(labels & set(COMPETITION_FINDINGS)) if rule == "any of five" else bool(labels)


def by_hand(figure: str, gains: list[float], k: int) -> float:
    ranks = [place for place, gain in enumerate(gains, 1) if gain > 0]
    found = [place for place in ranks if place <= k]
    if figure == "mrr":
        return 1 / ranks[0]
    metric = figure.partition("@")[0]
    if metric == "precision":
        return len(found) / k
    if metric == "recall":
        return len(found) / len(ranks)
    if metric == "map":
        return sum(hit / place for hit, place in enumerate(found, 1)) / min(k, len(ranks))
    if metric == "mrr":
        return 1 / found[0] if found else 0.0
    first, best = (
        sum(gain / math.log2(1 + place) for place, gain in enumerate(order[:k], 1))
        for order in (gains, sorted(gains, reverse=True))
    )
    return first / best


def judged(case: Case, rule: Rule) -> dict[str, Estimate]:
    pool = case.pool()
    return figures(pool, rank(pool, case.k), rule, [case.k], patient_draws(case.patients, 1, 0))


def test_every_figure_of_every_rule_equals_loops_in_a_thousand_cases(rng: np.random.Generator) -> None:
    undefined = beyond = 0
    for case in cases(rng):
        for rule in collection_rules(case.targets(), NAMES):
            queries = [row for row, labels in enumerate(case.sets) if asks(rule.name, labels)]
            lists = [ordered_gains(case, row, rule.name) for row in queries]
            defined = [gains for gains in lists if any(gains)]
            for figure, estimate in judged(case, rule).items():
                assert (estimate.queries, estimate.left_out) == (len(defined), len(case.ids) - len(defined))
                expected = np.mean([by_hand(figure, gains, case.k) for gains in defined]) if defined else math.nan
                assert estimate.value == pytest.approx(expected, abs=1e-6, nan_ok=True), (rule.name, figure)
            undefined += not defined
            beyond += any(len(gains) < case.k for gains in defined)
    assert min(undefined, beyond) > 200


THEIRS = {
    "precision": RetrievalPrecision,
    "recall": RetrievalRecall,
    "ndcg": RetrievalNormalizedDCG,
    "mrr@": RetrievalMRR,
    "mrr": RetrievalMRR,
    "map": RetrievalMAP,
}


@pytest.mark.parametrize("name", THEIRS)
def test_torchmetrics_agrees_in_a_thousand_cases(name: str, rng: np.random.Generator) -> None:
    """At a cut torchmetrics' MAP divides by the hits found, not by those there are, so it is compared without one."""
    for case in cases(rng):
        whole = name in ("mrr", "map")
        case = replace(case, k=len(case.ids)) if name == "map" else case
        rule = next(one for one in collection_rules(case.targets(), NAMES) if one.name == "any finding")
        lists = [ordered_gains(case, row, rule.name) for row, labels in enumerate(case.sets) if labels]
        estimate = judged(case, rule)["mrr" if name == "mrr" else f"{name.removesuffix('@')}@{case.k}"]
        if not any(map(any, lists)):
            assert math.isnan(estimate.value)
            continue
        theirs = THEIRS[name](top_k=None if whole else case.k, empty_target_action="skip")
        scores = torch.cat([torch.linspace(1, 0.1, len(gains)) for gains in lists])
        places = torch.cat([torch.full((len(gains),), place) for place, gains in enumerate(lists)])
        wanted = torch.tensor([gain > 0 for gains in lists for gain in gains])
        assert estimate.value == pytest.approx(float(theirs(scores, wanted, indexes=places)), abs=1e-5)


def test_nearest_first_is_the_order_of_the_loops(rng: np.random.Generator) -> None:
    tied = 0
    for case in list(cases(rng))[:200]:
        ranked = rank(case.pool(), len(case.ids))
        rule = Rule("any finding", "", lambda queries, candidates: queries @ candidates.T, case.targets(), ())
        for query, hits in enumerate(ranked):
            rows = hits[hits >= 0]
            gains = rule.gain(rule.labels[[query]], rule.labels[rows])[0] > 0
            assert gains.tolist() == [gain > 0 for gain in ordered_gains(case, query, "any finding")]
            near = case.vectors[rows] @ case.vectors[query]
            tied += bool((np.diff(np.round(near, 6)) == 0).any())
    assert tied > 100
