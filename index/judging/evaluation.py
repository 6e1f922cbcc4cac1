"""Evaluation of retrieval: exact ranking of a pool of studies, hits judged by a rule, metrics with intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from index.built.gpu import Scan, scan_for
from index.errors import VectorsError
from index.judging.bootstrap import Draws, Estimate, estimates
from index.judging.metrics import METRICS, Judged, chance_of_reciprocal_rank, reciprocal_rank
from index.judging.relevance import Rule
from index.search.retriever import SIMILARITY_DECIMALS
from index.vectors import Embeddings, Rows

Excluded = Literal["patient", "study"]
_BLOCK_CELLS = 8_000_000
_PART = 1 << 18
"""Rows that go to a GPU at a time."""


@dataclass(frozen=True)
class Pool:
    """Studies that are queries, candidates, or both. A candidate of the query's own patient is never its hit."""

    embeddings: Embeddings
    """(N, D)"""
    patients: Rows
    """(N,) a number for each patient."""
    order: Rows
    """(N,) position of each study in the order of study ids, which breaks ties."""
    queries: Rows
    candidates: Rows
    groups: Rows | None = None
    """(N,) a number for each group, of which no candidate of the query's own is its hit; None where there are none."""
    device: str = "cpu"
    """What neighbours are found on, of `index.built.gpu.DEVICES`; which they are does not depend on it."""

    @classmethod
    def of(
        cls,
        embeddings: Embeddings,
        study_ids: Sequence[str],
        patient_ids: Sequence[str],
        queries: Rows | None = None,
        candidates: Rows | None = None,
    ) -> Self:
        """Return the pool of studies, row for row; by default every study is both query and candidate."""
        every = np.arange(len(embeddings))
        order = np.empty(len(embeddings), dtype=np.int64)
        order[np.argsort(np.asarray(study_ids, dtype=str), kind="stable")] = every
        patients = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)[1]
        return cls(
            embeddings,
            patients,
            order,
            every if queries is None else queries,
            every if candidates is None else candidates,
        )

    def seen_by(self, embeddings: Embeddings) -> Self:
        """Return the same pool with other vectors of the same studies."""
        return replace(self, embeddings=embeddings)

    def differing(self, groups: Rows) -> Self:
        """Return the same pool, where a hit differs from its query in the group (N,)."""
        return replace(self, groups=groups)

    def prefix(self, dim: int) -> Self:
        """Return the same pool with the first `dim` numbers of each vector, made unit again. Raises VectorsError."""
        short = self.embeddings[:, :dim]
        norms = np.linalg.norm(short, axis=1, keepdims=True)
        if not norms.all():
            raise VectorsError(f"expected vectors whose first {dim} numbers are not all 0")
        return self.seen_by(np.ascontiguousarray(short / norms))


def rank(pool: Pool, k: int, exclude: Excluded = "patient") -> Rows:
    """Return the rows of the k nearest candidates of each query, (Q, k), most similar first, -1 where there are none.

    As `Retriever.search` orders them: by cosine to six decimals, ties by study id; exact.

    Args:
        exclude: patient leaves out all studies of the query's patient and group, study only the query itself.

    Raises:
        NoGpu: one is asked for and cannot be had.
    """
    ranked, left = np.full((len(pool.queries), k), -1, dtype=np.int64), np.arange(len(pool.queries))
    if not len(pool.candidates):
        return ranked
    if (scan := scan_for(pool.device, _parts(pool), len(pool.candidates), pool.embeddings.shape[1])) is not None:
        ranked, left = _ranked_by(scan, pool, k, exclude)
    last, order = max(len(pool.candidates) - k, 0), pool.order[pool.candidates]
    for block, _, similar in _similarities(replace(pool, queries=pool.queries[left]), exclude):
        cut = np.partition(similar, last, axis=1)[:, last]
        for row, similarities, lowest in zip(left[block], similar, cut, strict=True):
            nearest = _nearest(order, similarities, lowest, k)
            ranked[row, : len(nearest)] = pool.candidates[nearest]
    return ranked


def _ranked_by(scan: Scan, pool: Pool, k: int, exclude: Excluded) -> tuple[Rows, Rows]:
    """Return the ranked rows as `rank` does, and the positions of the queries that it has to rank otherwise."""

    def compare(asked: Rows, places: Rows) -> npt.NDArray[np.float64]:
        queries, rows = pool.queries[asked], pool.candidates[places]
        vectors = pool.embeddings[rows].astype(np.float64)
        similar = np.matmul(vectors, pool.embeddings[queries].astype(np.float64)[:, :, None])[:, :, 0]
        return np.where(_barred(pool, queries, rows, exclude), -np.inf, np.round(similar, SIMILARITY_DECIMALS))

    nearest, _, left = scan.first(
        pool.embeddings[pool.queries].astype(np.float32), k, compare, pool.order[pool.candidates]
    )
    return np.where(nearest < 0, -1, pool.candidates[nearest]), left


def _parts(pool: Pool) -> Iterator[Embeddings]:
    for start in range(0, len(pool.candidates), _PART):
        yield pool.embeddings[pool.candidates[start : start + _PART]].astype(np.float32)


def judge(pool: Pool, ranked: Rows, rule: Rule) -> tuple[Rows, Judged]:
    """Return which queries the rule applies to (positions in `pool.queries`), and their hits judged by it."""
    asked = np.flatnonzero(rule.labels[pool.queries].any(axis=1))
    depth = ranked.shape[1]
    part = replace(pool, queries=pool.queries[asked])
    gains, ideal = np.zeros((2, len(asked), depth))
    relevant, count = np.zeros((2, len(asked)), dtype=np.int64)
    mean_gain = np.zeros(len(asked))
    kept = min(depth, len(pool.candidates))
    for block, queries in _blocks(part):
        all_gains = rule.gain(rule.labels[queries], rule.labels[pool.candidates])
        excluded = _excluded(pool, queries, "patient")
        all_gains[excluded] = 0
        hits = ranked[asked[block]]
        gains[block] = np.where(hits >= 0, _gains_of(rule, queries, hits), 0)
        if kept:
            ideal[block, :kept] = -np.sort(np.partition(-all_gains, kept - 1, axis=1)[:, :kept], axis=1)
        relevant[block] = (all_gains > 0).sum(1)
        count[block] = (~excluded).sum(1)
        mean_gain[block] = all_gains.sum(1, dtype=np.float64) / np.maximum(count[block], 1)
    return asked, Judged(gains, ideal, relevant, count, mean_gain)


def figures(pool: Pool, ranked: Rows, rule: Rule, ks: Sequence[int], draws: Draws) -> dict[str, Estimate]:
    """Return each metric of the rule at each k, by name such as "precision@5"; "mrr" is over the whole order.

    Args:
        draws: (B + 1, Q) of `patient_draws` over the patients of `pool.queries`.
    """
    asked, judged = judge(pool, ranked, rule)
    wanted = {f"{name}@{k}": (METRICS[name], k) for name in rule.metrics for k in ks}
    values = {name: metric(judged, k) for name, ((metric, _), k) in wanted.items()}
    chances = {name: chance(judged, k) for name, ((_, chance), k) in wanted.items()}
    if "mrr" in rule.metrics:
        values["mrr"] = reciprocal_rank(judged, first_relevant(pool, asked, judged, rule))
        chances["mrr"] = chance_of_reciprocal_rank(judged, len(pool.candidates))
    bounded = estimates(list(values.values()), list(chances.values()), draws[:, asked])
    others = len(pool.queries) - len(asked)
    return {
        name: replace(estimate, left_out=estimate.left_out + others)
        for name, estimate in zip(values, bounded, strict=True)
    }


def first_relevant(pool: Pool, asked: Rows, judged: Judged, rule: Rule) -> Rows:
    """Return the rank (A,), from 1, of the first relevant candidate of each query asked; 0 where there is none.

    Only the queries whose hits, as deep as they were judged, hold none are ranked again.
    """
    first = np.where(judged.hits.any(1), judged.hits.argmax(1) + 1, 0).astype(np.int64)
    deeper = np.flatnonzero((first == 0) & (judged.relevant > 0))
    order = pool.order[pool.candidates]
    for block, queries, similar in _similarities(replace(pool, queries=pool.queries[asked[deeper]]), "patient"):
        relevant = (rule.gain(rule.labels[queries], rule.labels[pool.candidates]) > 0) & np.isfinite(similar)
        nearest = np.where(relevant, similar, -np.inf).max(1, keepdims=True)
        tied = similar == nearest
        best = np.where(relevant & tied, order, len(pool.order)).min(1, keepdims=True)
        first[deeper[block]] = ((similar > nearest) | (tied & (order < best))).sum(1) + 1
    return first


def same_patient_first(pool: Pool, draws: Draws) -> Estimate:
    """Return how often the nearest other study is of the query's own patient: how well vectors identify people.

    Over the queries whose patient has another study among the candidates.
    """
    nearest = rank(pool, 1, exclude="study")[:, 0]
    own, count = np.empty((2, len(nearest)))
    for block, queries in _blocks(pool):
        itself = queries[:, None] == pool.candidates
        own[block] = (_excluded(pool, queries, "patient") & ~itself).sum(1)
        count[block] = len(pool.candidates) - itself.sum(1)
    is_nearest = (nearest >= 0) & (pool.patients[nearest] == pool.patients[pool.queries])
    values = np.where(own > 0, is_nearest, np.nan)
    return estimates([values], [own / np.maximum(count, 1)], draws)[0]


def _blocks(pool: Pool) -> Iterator[tuple[Rows, Rows]]:
    """Yield positions in `pool.queries`, and the rows there, few enough for a block against all candidates."""
    size = max(_BLOCK_CELLS // max(len(pool.candidates), 1), 1)
    for start in range(0, len(pool.queries), size):
        block = np.arange(start, min(start + size, len(pool.queries)))
        yield block, pool.queries[block]


def _similarities(pool: Pool, exclude: Excluded) -> Iterator[tuple[Rows, Rows, npt.NDArray[np.float64]]]:
    """Yield positions in `pool.queries`, the rows there, and their similarities (q, n), minus infinity if excluded."""
    candidates = pool.embeddings[pool.candidates].T.astype(np.float64)
    for block, queries in _blocks(pool):
        similar = pool.embeddings[queries].astype(np.float64) @ candidates
        np.round(similar, SIMILARITY_DECIMALS, out=similar)
        similar[_excluded(pool, queries, exclude)] = -np.inf
        yield block, queries, similar


def _excluded(pool: Pool, queries: Rows, exclude: Excluded) -> npt.NDArray[np.bool_]:
    return _barred(pool, queries, pool.candidates, exclude)


def _barred(pool: Pool, queries: Rows, rows: Rows, exclude: Excluded) -> npt.NDArray[np.bool_]:
    """Return which rows, (n,) or (q, n) of each query, may not be hits of the queries (q,)."""
    if exclude == "study":
        return queries[:, None] == rows
    barred = pool.patients[queries][:, None] == pool.patients[rows]
    return barred if pool.groups is None else barred | (pool.groups[queries][:, None] == pool.groups[rows])


def _nearest(order: Rows, similar: npt.NDArray[np.float64], lowest: np.float64, k: int) -> Rows:
    """Return the positions of the k most similar, by similarity and then by order; `lowest` is the kth similarity."""
    above, tied = np.flatnonzero(similar > lowest), np.flatnonzero((similar == lowest) & (lowest > -np.inf))
    if len(tied) > k:
        tied = tied[np.argpartition(order[tied], k - 1)[:k]]
    positions = np.concatenate([above, tied])
    return positions[np.lexsort((order[positions], -similar[positions]))][:k]


def _gains_of(rule: Rule, queries: Rows, hits: Rows) -> npt.NDArray[np.float32]:
    """Return the gains (q, K) of each query's own hits."""
    labels = rule.labels
    return np.stack([rule.gain(labels[[query]], labels[row])[0] for query, row in zip(queries, hits, strict=True)])
