"""Drift: false alarms as often as said, shifts found as often as said, and no word about who arrives."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index.built.collection import Collection
from index.built.vector_index import VectorIndex
from index.errors import StudiesError
from index.judging import drift
from index.judging.drift import Arriving, drift_of
from index.vectors import Embeddings


def cone(rng: np.random.Generator, count: int, shift: float = 0.0, dim: int = 12) -> Embeddings:
    """Return unit vectors (N, D) around the first axis, moved along the second."""
    vectors = 0.3 * rng.normal(size=(count, dim)) * np.linspace(1.5, 0.5, dim)
    vectors[:, 0] += 1
    vectors[:, 1] += shift
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def collection_of(vectors: Embeddings, studies_a_patient: int = 2, layouts: pa.Table | None = None) -> Collection:
    owners = [f"p{row // studies_a_patient:04d}" for row in range(len(vectors))]
    return Collection({}, pa.table({"patient_id": owners}), VectorIndex.build(vectors), layouts)


def arriving(vectors: Embeddings, **more: Any) -> Arriving:
    return Arriving(vectors, [f"new{row // 2:04d}" for row in range(len(vectors))], **more)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "DEALINGS", 399)
    monkeypatch.setattr(drift, "_TRIALS", 1)


@pytest.mark.slow
def test_the_same_population_gives_false_alarms_as_often_as_said() -> None:
    alarms = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        found = drift_of(collection_of(cone(rng, 160)), arriving(cone(rng, 80)), alpha=0.1, seed=seed)
        alarms += bool(found.moved)
    assert 0.03 <= alarms / 120 <= 0.17  # 95 % of 120 draws at 0.1


def test_axes_of_few_studies_and_many_dimensions_give_no_alarm() -> None:
    rng = np.random.default_rng(3)
    found = drift_of(collection_of(cone(rng, 200, dim=300)), arriving(cone(rng, 100, dim=300)))
    assert found.moved == ()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_shift_is_found_and_where_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    collection = collection_of(cone(rng, 400))
    moved, strange = cone(rng, 160, shift=0.5), cone(rng, 160)
    strange[::2] = np.eye(12, dtype=np.float32)[-1]
    found, other = drift_of(collection, arriving(moved)), drift_of(collection, arriving(strange))
    assert any(name.startswith("axis") for name in found.moved)
    assert (found.patients, found.held_back) == (80, 100)
    assert "familiarity" in other.moved
    assert other.measures[0].shift < -0.5
    assert drift_of(collection, arriving(cone(rng, 160))).moved == ()


@pytest.mark.slow
def test_what_is_said_to_be_found_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_TRIALS", 100)
    rng = np.random.default_rng(0)
    power = drift_of(collection_of(cone(rng, 600)), arriving(cone(rng, 240))).power
    assert power.shift is not None
    assert power.foreign is not None
    few = drift_of(collection_of(cone(rng, 600)), arriving(cone(rng, 60))).power
    assert 0.2 < power.shift < (few.shift or 9)
    assert 0.05 < power.foreign < (few.foreign or 9) < 1

    hits = 0
    monkeypatch.setattr(drift, "_TRIALS", 1)
    for seed in range(30):
        chance = np.random.default_rng(seed)
        vectors = cone(chance, 240)
        vectors[: int(240 * 1.3 * power.foreign)] = np.eye(12, dtype=np.float32)[-1]
        found = drift_of(collection_of(cone(chance, 600)), arriving(chance.permutation(vectors)), seed=seed)
        hits += "familiarity" in found.moved
    assert hits >= 24


def test_a_patient_is_no_neighbour_of_its_own_and_counts_once() -> None:
    rng = np.random.default_rng(1)
    collection = collection_of(cone(rng, 400))
    vectors = cone(rng, 120)
    known = Arriving(vectors, [f"p{row // 2:04d}" for row in range(120)])
    found = drift_of(collection, known)
    assert found.moved == ()
    assert (found.patients, found.held_back) == (60, 70)  # half of the 140 patients that do not arrive


def test_the_same_studies_give_the_same_figures_and_a_seed_others() -> None:
    rng = np.random.default_rng(2)
    collection, new = collection_of(cone(rng, 200)), arriving(cone(rng, 80))
    first, again, other = (drift_of(collection, new, seed=seed) for seed in (0, 0, 1))
    assert [(one.p, one.distance) for one in first.measures] == [(one.p, one.distance) for one in again.measures]
    assert first.power == again.power
    assert [one.distance for one in first.measures] != [one.distance for one in other.measures]


def test_films_of_other_looks_are_found_though_their_vectors_are_alike() -> None:
    rng = np.random.default_rng(4)
    sample = [rng.integers(-20, 20, 16).astype(np.int8) for _ in range(200)]
    table = pa.table({"patient_id": [f"p{row:04d}" for row in range(200)], "layout": [one.tobytes() for one in sample]})
    collection = collection_of(cone(rng, 200), 1, table)
    alike = [rng.integers(-20, 20, 16).astype(np.int8) for _ in range(80)]
    strange = [np.full(16, 60, np.int8) + one for one in alike]
    vectors = cone(rng, 80)
    assert drift_of(collection, arriving(vectors, layouts=alike)).moved == ()
    assert drift_of(collection, arriving(vectors, layouts=strange)).moved == ("film looks",)


@pytest.mark.parametrize(("own", "new"), [(200, 8), (18, 200)], ids=["arriving", "collection"])
def test_too_few_patients_are_refused(own: int, new: int) -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(StudiesError, match="at least 10 patients"):
        drift_of(collection_of(cone(rng, own)), arriving(cone(rng, new)))
