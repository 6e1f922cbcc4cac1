"""Metrics against loops written out by hand and against torchmetrics; chance against real shuffles."""

import math
from collections.abc import Callable

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

from index.judging.metrics import METRICS, Judged

Case = tuple[list[float], int]


def random_case(rng: np.random.Generator) -> Case:
    """Return gains in ranked order, often none or graded, and a k that may lie beyond them."""
    count = int(rng.integers(1, 15))
    kind = rng.integers(4)
    gains = rng.choice([0.0, 0.25, 0.5, 1.0], count) if kind == 0 else (rng.random(count) < 0.3 * kind).astype(float)
    return gains.tolist(), int(rng.integers(1, 20))


def judged_of(gains: list[float], depth: int) -> Judged:
    """Return the one query of a full ranking, cut or padded to a depth."""
    padded = np.zeros((2, 1, depth))
    padded[0, 0, : len(gains)] = gains[:depth]
    padded[1, 0, : len(gains)] = sorted(gains, reverse=True)[:depth]
    relevant = sum(gain > 0 for gain in gains)
    return Judged(*padded, np.array([relevant]), np.array([len(gains)]), np.array([np.mean(gains)]))


def by_hand(name: str, gains: list[float], k: int) -> float:
    relevant = [rank for rank, gain in enumerate(gains, 1) if gain > 0]
    found = [rank for rank in relevant if rank <= k]
    if not relevant:
        return math.nan
    if name == "precision":
        return len(found) / k
    if name == "recall":
        return len(found) / len(relevant)
    if name == "map":
        return sum((place + 1) / rank for place, rank in enumerate(found)) / min(k, len(relevant))
    if name == "mrr":
        return 1 / found[0] if found else 0.0
    best = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(sorted(gains, reverse=True)[:k], 1))
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:k], 1)) / best


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_equals_its_definition_written_out(name: str, rng: np.random.Generator) -> None:
    for _ in range(1000):
        gains, k = random_case(rng)
        for depth in (k, k + 3):
            value = METRICS[name][0](judged_of(gains, depth), k)[0]
            assert value == pytest.approx(by_hand(name, gains, k), nan_ok=True)


TORCHMETRICS: dict[str, Callable[[int], torch.nn.Module]] = {
    "precision": lambda k: RetrievalPrecision(top_k=k, empty_target_action="skip"),
    "recall": lambda k: RetrievalRecall(top_k=k, empty_target_action="skip"),
    "mrr": lambda k: RetrievalMRR(top_k=k, empty_target_action="skip"),
    "ndcg": lambda k: RetrievalNormalizedDCG(top_k=k, empty_target_action="skip"),
    "map": lambda k: RetrievalMAP(top_k=None, empty_target_action="skip"),  # it divides otherwise at a cut
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_equals_torchmetrics(name: str, rng: np.random.Generator) -> None:
    for _ in range(200):
        gains, k = random_case(rng)
        if not any(gains):
            continue
        k = len(gains) if name == "map" else k
        graded = name == "ndcg"
        target = torch.tensor(gains if graded else [gain > 0 for gain in gains])
        scores = torch.linspace(1, 0.1, len(gains))  # torchmetrics takes a score of 0 for "not found"
        expected = TORCHMETRICS[name](k)(scores, target, indexes=torch.zeros(len(gains), dtype=torch.long))
        assert METRICS[name][0](judged_of(gains, k), k)[0] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("k", [1, 3, 12])
def test_chance_is_the_mean_over_random_orders(name: str, k: int, rng: np.random.Generator) -> None:
    gains = [1.0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]
    metric, chance = METRICS[name]
    shuffled = [metric(judged_of(rng.permutation(gains).tolist(), k), k)[0] for _ in range(3000)]
    assert chance(judged_of(gains, k), k)[0] == pytest.approx(np.mean(shuffled), abs=4 * np.std(shuffled) / 3000**0.5)


@pytest.mark.parametrize("relevant", [1, 30])
def test_chance_over_a_long_order_is_near_its_closed_form(relevant: int) -> None:
    count = 5000
    judged = judged_of([1.0] * relevant + [0.0] * (count - relevant), 10)
    chances, none_yet = 0.0, 1.0
    for rank in range(1, count - relevant + 2):
        here = relevant / (count - rank + 1)
        chances, none_yet = chances + none_yet * here / rank, none_yet * (1 - here)
    assert METRICS["mrr"][1](judged, count)[0] == pytest.approx(chances, abs=1e-4)


@pytest.mark.parametrize("name", METRICS)
def test_a_query_without_anything_relevant_has_no_figure(name: str) -> None:
    assert np.isnan(METRICS[name][0](judged_of([0.0, 0.0], 2), 2)).all()
