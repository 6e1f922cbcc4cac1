"""Ranking and judgement against the retriever and against loops; floors, chance and privacy."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from gpu_world import play_gpu
from unit_vectors_world import retriever_of

from index.built import gpu
from index.judging.bootstrap import estimates, patient_draws
from index.judging.evaluation import Excluded, Pool, figures, judge, rank, same_patient_first
from index.judging.metrics import METRICS
from index.judging.relevance import Rule, collection_rules, jaccard, same_set, single_rules
from index.table.labels import LabelPolicy, finding_targets
from index.table.studies import FINDINGS
from index.vectors import Embeddings


def pool_of(studies: pa.Table, vectors: Embeddings, **roles: np.ndarray) -> Pool:
    return Pool.of(vectors, studies["study_id"].to_pylist(), studies["patient_id"].to_pylist(), **roles)


def rules_of(studies: pa.Table) -> list[Rule]:
    return collection_rules(finding_targets(studies, FINDINGS, LabelPolicy()), FINDINGS)


@pytest.fixture
def tied(unit_vectors: Embeddings) -> Embeddings:
    """Return vectors of which every fifth is a copy of another, so that similarities tie."""
    vectors = unit_vectors.copy()
    vectors[::5] = vectors[1]
    return vectors


def test_a_ranking_is_the_retrievers(studies: pa.Table, tied: Embeddings) -> None:
    retriever, names = retriever_of(studies, tied), studies["study_id"].to_pylist()
    for row, hits in enumerate(rank(pool_of(studies, tied), 10)):
        expected = [hit.study.study_id for hit in retriever.similar(names[row], 10).hits]
        assert [names[hit] for hit in hits] == expected


@pytest.mark.parametrize("exclude", ["patient", "study"])
def test_a_gpu_ranks_as_the_processor_does(
    exclude: Excluded, studies: pa.Table, tied: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_gpu(monkeypatch)
    close = (1 + 0.02 * tied).astype(np.float32)
    for vectors in (tied, close, np.repeat(tied[:1], 200, axis=0)):
        pool = pool_of(studies, vectors, candidates=np.arange(20, 200))
        for k in (1, 10, 190):
            np.testing.assert_array_equal(rank(replace(pool, device="gpu"), k, exclude), rank(pool, k, exclude))


def test_queries_that_a_gpu_leaves_are_ranked_by_the_processor(
    studies: pa.Table, tied: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_gpu(monkeypatch)
    monkeypatch.setattr(gpu, "MOST_NEAREST", 40)
    pool = pool_of(studies, tied)
    np.testing.assert_array_equal(rank(replace(pool, device="gpu"), 8), rank(pool, 8))


def test_a_collapsed_space_is_ranked_by_study_id(studies: pa.Table, unit_vectors: Embeddings) -> None:
    same = np.repeat(unit_vectors[:1], 200, axis=0)
    names, patients = (studies[name].to_pylist() for name in ("study_id", "patient_id"))
    for row, hits in enumerate(rank(pool_of(studies, same), 5)):
        others = sorted(name for name, patient in zip(names, patients, strict=True) if patient != patients[row])
        assert [names[hit] for hit in hits] == others[:5]


def test_k_beyond_the_candidates_leaves_places_empty(studies: pa.Table, unit_vectors: Embeddings) -> None:
    pool = pool_of(studies, unit_vectors, queries=np.arange(9), candidates=np.arange(100, 104))
    ranked = rank(pool, 6)
    assert ranked.shape == (9, 6)
    assert (ranked[:, 4:] == -1).all()
    assert set(ranked.ravel()) <= {-1, 100, 101, 102, 103}


def test_judgement_equals_loops_over_all_candidates(studies: pa.Table, tied: Embeddings) -> None:
    pool = pool_of(studies, tied)
    ranked, full = rank(pool, 10), rank(pool, 200)
    for rule in rules_of(studies):
        asked, judged = judge(pool, ranked, rule)
        for place, row in enumerate(asked):
            candidates = full[row][full[row] >= 0]
            gains = [float(rule.gain(rule.labels[[row]], rule.labels[[hit]])[0, 0]) for hit in candidates]
            assert judged.gains[place].tolist() == gains[:10]
            assert judged.ideal[place].tolist() == sorted(gains, reverse=True)[:10]
            assert judged.relevant[place] == sum(gain > 0 for gain in gains)
            assert judged.candidates[place] == len(candidates)
            assert judged.mean_gain[place] == pytest.approx(np.mean(gains))


def test_the_rules_judge_as_sets_do(rng: np.random.Generator) -> None:
    labels = (rng.random((40, 5)) < 0.4).astype(np.float32)
    sets = [set(np.flatnonzero(row)) for row in labels]
    both = [[(one, other) for other in sets] for one in sets]
    assert np.array_equal(same_set(labels, labels), [[one == other for one, other in row] for row in both])
    expected = [[len(one & other) / max(len(one | other), 1) for one, other in row] for row in both]
    assert jaccard(labels, labels) == pytest.approx(np.array(expected))


def test_only_labels_of_1_make_a_hit_relevant(studies: pa.Table) -> None:
    (rule,) = single_rules(finding_targets(studies, ["Edema"], LabelPolicy()), ["Edema"])
    assert rule.labels[:, 0].tolist() == [float(label == 1) for label in studies["Edema"].to_pylist()]


def test_random_vectors_reach_chance(studies: pa.Table, unit_vectors: Embeddings) -> None:
    pool = pool_of(studies, unit_vectors)
    draws = patient_draws(studies["patient_id"].to_pylist(), 500, 0)
    for rule in rules_of(studies):
        for one in figures(pool, rank(pool, 10), rule, [5, 10], draws).values():
            assert one.low <= one.value <= one.high
            assert one.queries + one.left_out == 200
            assert one.queries < 50 or one.low - 0.03 <= one.chance <= one.high + 0.03


def test_a_rule_without_queries_has_no_figure(studies: pa.Table, unit_vectors: Embeddings) -> None:
    pool = pool_of(studies, unit_vectors)
    rule = Rule("none", "", jaccard, np.zeros((200, 1), np.float32), tuple(METRICS))
    draws = patient_draws(studies["patient_id"].to_pylist(), 500, 0)
    for one in figures(pool, rank(pool, 5), rule, [5], draws).values():
        assert np.isnan([one.value, one.low, one.high, one.chance]).all()
        assert (one.queries, one.left_out) == (0, 200)


def test_a_patients_own_studies_are_found_only_by_the_privacy_figure(
    studies: pa.Table, rng: np.random.Generator
) -> None:
    patients = studies["patient_id"].to_pylist()
    centres = {patient: rng.normal(size=16) for patient in sorted(set(patients))}
    vectors = np.stack([centres[patient] for patient in patients]) + rng.normal(size=(200, 16)) * 0.01
    pool = pool_of(studies, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    found = same_patient_first(pool, patient_draws(patients, 500, 0))
    alone = sum(patients.count(patient) == 1 for patient in patients)
    assert found.value == 1
    assert found.chance < 0.05
    assert (found.queries, found.left_out) == (200 - alone, alone)
    assert all(patients[hit] != patients[row] for row, hits in enumerate(rank(pool, 10)) for hit in hits)


def test_a_prefix_is_made_unit_again(studies: pa.Table, unit_vectors: Embeddings) -> None:
    short = pool_of(studies, unit_vectors).prefix(5).embeddings
    assert short.shape == (200, 5)
    assert np.linalg.norm(short, axis=1) == pytest.approx(np.ones(200))


def test_the_interval_covers_the_mean_of_patients_as_often_as_it_says(rng: np.random.Generator) -> None:
    covered = 0
    for seed in range(200):
        patients = np.repeat(np.arange(60), 3).astype(str)
        values = np.repeat(rng.normal(size=60), 3)  # studies of a patient are alike
        one = estimates([values], [values * 0], patient_draws(list(patients), 500, seed))[0]
        covered += one.low <= 0 <= one.high
    assert covered / 200 == pytest.approx(0.95, abs=0.05)


def test_the_seed_moves_the_interval_and_not_the_figure(studies: pa.Table, unit_vectors: Embeddings) -> None:
    pool, patients = pool_of(studies, unit_vectors), studies["patient_id"].to_pylist()
    rule = rules_of(studies)[0]
    first, again, other = (
        figures(pool, rank(pool, 5), rule, [5], patient_draws(patients, 500, seed))["precision@5"] for seed in (0, 0, 1)
    )
    assert first == again
    assert first.value == other.value
    assert first.low != other.low
