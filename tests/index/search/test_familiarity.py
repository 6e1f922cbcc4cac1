"""The familiarity gate against brute force: other patients only, percentiles, repeatability, and its false alarms."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from index.built.collection import Collection
from index.built.vector_index import VectorIndex
from index.search import familiarity
from index.search.familiarity import UNFAMILIAR_BELOW, Familiarity, FamiliarityGate, LayoutGate, are_alike
from index.vectors import Embeddings

Layouts = npt.NDArray[np.int8]
PATIENTS = [f"p{n:04d}" for n in range(2000)]


@pytest.fixture
def layouts(rng: np.random.Generator) -> Layouts:
    """Return 60 layouts (60, 12) of as many films, of columns with unlike spreads."""
    return np.rint(rng.normal(size=(60, 12)) * np.arange(1, 13) * 3).astype(np.int8)


def layouts_table(layouts: Layouts, patients: list[str]) -> pa.Table:
    return pa.table({"patient_id": patients, "layout": [row.tobytes() for row in layouts]})


def collection_of(vectors: Embeddings, patients: list[str], kind: str = "flat") -> Collection:
    return Collection({}, pa.table({"patient_id": patients}), VectorIndex.build(vectors, kind))


def cone(rng: np.random.Generator, count: int, dim: int = 16, width: float = 0.4) -> Embeddings:
    """Return unit vectors (N, D) around the first axis."""
    vectors = width * rng.normal(size=(count, dim))
    vectors[:, 0] += 1
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def nearest_of_others(vectors: Embeddings, patients: list[str]) -> np.ndarray:
    cosines = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    codes = np.array(patients)
    cosines[codes[:, None] == codes] = -2
    return cosines.max(axis=1)


def test_each_study_is_compared_with_other_patients_alone(rng: np.random.Generator) -> None:
    vectors = cone(rng, 300)
    vectors[100:200] = vectors[0]  # a patient with more studies than a first search returns, all alike
    patients = [f"p{n}" if not 100 <= n < 200 else "p0" for n in range(300)]
    gate = FamiliarityGate.build(collection_of(vectors, patients, "hnsw"))
    truth = nearest_of_others(vectors, patients)
    single = [truth[n] for n in range(300) if n < 100 or n >= 200]  # equal studies of p0 have equal figures
    assert gate.similarities == pytest.approx(np.sort(single), abs=1e-6)


def test_a_large_collection_is_searched_approximately(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(familiarity, "EXACT_UP_TO", 100)
    vectors = cone(rng, 2000)
    gate = FamiliarityGate.build(collection_of(vectors, PATIENTS, "hnsw"), sample=2000)
    truth = np.sort(nearest_of_others(vectors, PATIENTS))
    assert np.mean(np.abs(gate.similarities - truth) < 1e-6) > 0.95
    assert np.abs(gate.similarities - truth).max() < 0.05


def test_the_percentile_is_the_share_of_own_studies_no_nearer(rng: np.random.Generator) -> None:
    gate = FamiliarityGate(np.array([0.2, 0.4, 0.6, 0.8]))
    found = [gate.judge(similarity) for similarity in (0.1, 0.2, 0.5, 0.9)]
    assert [one and one.percentile for one in found] == [0, 25, 50, 100]
    assert [one and one.unfamiliar for one in found] == [True, False, False, False]


def test_the_sample_is_bounded_seeded_and_one_a_patient(rng: np.random.Generator) -> None:
    vectors, patients = cone(rng, 600), [f"p{n // 3}" for n in range(600)]
    collection = collection_of(vectors, patients)
    whole, first, again, other = (
        FamiliarityGate.build(collection, sample=sample, seed=seed)
        for sample, seed in ((1000, 0), (50, 0), (50, 0), (50, 1))
    )
    assert (len(whole.similarities), len(first.similarities)) == (200, 50)
    assert np.array_equal(first.similarities, again.similarities)
    assert not np.array_equal(first.similarities, other.similarities)
    assert set(np.round(first.similarities, 5)) <= set(np.round(nearest_of_others(vectors, patients), 5))


def test_foreign_vectors_are_flagged_and_new_ones_of_the_kind_hardly_ever(rng: np.random.Generator) -> None:
    vectors, new = np.split(cone(rng, 4000), 2)
    foreign = cone(rng, 200)
    foreign[:, 0] *= -1
    gate = FamiliarityGate.build(collection_of(vectors, PATIENTS))

    def flagged(queries: Embeddings) -> float:
        found = [gate.judge(float((vectors @ query).max())) for query in queries]
        return float(np.mean([one is not None and one.unfamiliar for one in found]))

    assert flagged(foreign) > 0.95
    assert flagged(new) == pytest.approx(UNFAMILIAR_BELOW / 100, abs=0.03)


def test_films_are_judged_by_their_layouts_and_studies_without_films_by_embeddings(rng: np.random.Generator) -> None:
    vectors, films = cone(rng, 200), rng.integers(-40, 40, size=(200, 24)).astype(np.int8)
    layouts = pa.table({"patient_id": PATIENTS[:200], "layout": [film.tobytes() for film in films]})
    gate = FamiliarityGate.build(replace(collection_of(vectors, PATIENTS[:200]), layouts=layouts))
    far = np.full(24, 100, dtype=np.int8)

    assert [one and one.measure for one in (gate.judge(0.9), gate.judge(0.9, [far]))] == ["embedding", "layout"]
    assert gate.judge(None) is None
    assert gate.judge(None, [films[0]]) == Familiarity(None, 100.0, 200, "layout")
    assert gate.judge(1.0, [far]) == Familiarity(1.0, 0.0, 200, "layout")


def test_the_less_familiar_of_two_films_counts_and_twice(rng: np.random.Generator) -> None:
    films = rng.integers(-40, 40, size=(200, 24)).astype(np.int8)
    layouts = pa.table({"patient_id": PATIENTS[:200], "layout": [film.tobytes() for film in films]})
    gate = FamiliarityGate(np.empty(0), LayoutGate.build(layouts))
    new = rng.integers(-40, 40, size=24).astype(np.int8)
    one, both = gate.judge(None, [new]), gate.judge(None, [films[0], new])

    assert one is not None
    assert both is not None
    assert 0 < one.percentile < 100
    assert both.percentile == min(100, 2 * one.percentile)
    assert both.sentence.startswith(f"{both.percentile:.1f} % of the collection's films look at least as unusual")


def test_one_patient_alone_gives_nothing_to_compare(rng: np.random.Generator) -> None:
    gate = FamiliarityGate.build(collection_of(cone(rng, 20), ["p"] * 20))
    assert gate.judge(0.9) is None


def test_a_percentile_is_the_share_of_films_as_far_from_other_patients(layouts: Layouts) -> None:
    patients = [f"p{n // 2}" for n in range(60)]
    gate = LayoutGate.build(layouts_table(layouts, patients))
    scaled = layouts.astype(float) / (layouts.astype(float).std(axis=0) + 1)
    apart = np.linalg.norm(scaled[:, None] - scaled, axis=2)
    own = np.where(np.arange(60)[:, None] // 2 == np.arange(60) // 2, np.inf, apart).min(axis=1)
    assert gate is not None
    for film in range(0, 60, 7):
        assert gate.percentile(layouts[film], patients[film]) == pytest.approx(100 * np.mean(own >= own[film] - 1e-4))


def test_only_another_patients_films_are_neighbours(layouts: Layouts) -> None:
    gate = LayoutGate.build(layouts_table(layouts, [f"p{n}" for n in range(60)]))
    assert gate is not None
    assert gate.percentile(layouts[3]) == 100
    assert gate.percentile(layouts[3], "p3") < 100
    assert gate.percentile(np.full(12, 127, dtype=np.int8)) == 0


def test_layouts_of_one_patient_give_nothing_to_compare(layouts: Layouts) -> None:
    assert LayoutGate.build(None) is None
    assert LayoutGate.build(layouts_table(layouts, ["p"] * 60)) is None


@pytest.mark.parametrize(("laterals", "seen"), [(30, ("frontal", "lateral")), (19, (None, None))])
def test_a_film_is_of_the_view_that_those_nearest_to_it_are_of(
    rng: np.random.Generator, laterals: int, seen: tuple[str | None, ...]
) -> None:
    frontal, lateral = np.zeros(12), np.r_[np.full(6, 60), np.zeros(6)]
    places = np.vstack([np.tile(frontal, (60, 1)), np.tile(lateral, (laterals, 1))])
    rows = np.rint(places + rng.normal(size=places.shape) * 4).astype(np.int8)
    named = layouts_table(rows, [f"p{n}" for n in range(len(rows))])
    gate = LayoutGate.build(named.append_column("view", pa.array(["frontal"] * 60 + ["lateral"] * laterals)))
    unnamed = LayoutGate.build(named)

    asked = [place.astype(np.int8) for place in (frontal, lateral)]
    assert gate is not None
    assert unnamed is not None
    assert [gate.view_of(one) for one in asked] == list(seen)
    assert [unnamed.view_of(one) for one in asked] == [None, None]


def test_layouts_of_one_film_written_anew_are_alike(layouts: Layouts) -> None:
    assert are_alike(layouts[0], layouts[0] + np.int8(3))
    assert not are_alike(np.full(12, 127, np.int8), np.full(12, -128, np.int8))
    assert not are_alike(layouts[0], layouts[1])
