"""A collection against a dictionary: random changes, searches, compactions, restarts and snapshots, one long story."""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from living_world import addition, build_of, unit, units
from unit_vectors_world import DIM

from index.errors import StudyExists, StudyNotFound
from index.living.additions import Addition
from index.living.collection import LivingCollection
from index.living.snapshots import restore_snapshot, save_snapshot
from index.living.verification import verify

OPERATIONS, OPERATIONS_LONG = 5_000, 250_000
SHARES = {
    "search": 0.60,
    "add": 0.14,
    "replace": 0.06,
    "again": 0.04,
    "delete": 0.12,
    "similar": 0.0319,
    "compact": 0.005,
    "restart": 0.0025,
    "snapshot": 0.0006,
}
MOST = 400
Options = dict[str, Any]


class Story:
    """A collection, and the studies that it must hold."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng, self.folder = np.random.default_rng(seed), folder
        self.sites = units(self.rng, 6)
        first = [self.drawn(f"patient{one % 7}/study{one}") for one in range(30)]
        self.held = {one.study.study_id: one for one in first}
        self.living = LivingCollection(build_of(folder / "index", first))
        self.count = 30

    def drawn(self, study_id: str) -> Addition:
        """Return a study near one of a few places, or at it, so that there are ties."""
        site = self.sites[self.rng.integers(6)]
        near = site + 0.3 * self.rng.normal(size=DIM).astype(np.float32) * (self.rng.random() < 0.7)
        return addition(study_id, (near / np.linalg.norm(near)).astype(np.float32), self.rng)

    def any_id(self) -> str:
        return list(self.held)[self.rng.integers(len(self.held))]

    def add(self) -> None:
        if len(self.held) >= MOST:
            return self.delete()
        new = [
            self.drawn(f"patient{self.rng.integers(99)}/study{self.count + one}")
            for one in range(self.rng.integers(1, 4))
        ]
        self.count += len(new)
        assert self.living.add(new) == [True] * len(new)
        self.held |= {one.study.study_id: one for one in new}
        return None

    def replace(self) -> None:
        new = self.drawn(self.any_id())
        with pytest.raises(StudyExists):
            self.living.add([new])
        assert self.living.add([new], replace=True) == [True]
        self.held[new.study.study_id] = new

    def again(self) -> None:
        sequence = self.living.now().sequence
        assert self.living.add([self.held[self.any_id()]], replace=bool(self.rng.integers(2))) == [False]
        assert self.living.now().sequence == sequence

    def delete(self) -> None:
        gone = self.any_id()
        if len(self.held) > 10:
            self.living.delete([gone])
            del self.held[gone]
            with pytest.raises(StudyNotFound):
                self.living.delete([gone])

    def options(self) -> Options:
        sexes = {"key": "sex", "match": {"value": ["Female", "Male"][self.rng.integers(2)]}}
        ages = {"key": "age", "range": {"gte": float(self.rng.integers(90))}}
        return {
            "where": [None, {"must": [sexes]}, {"must": [ages]}, {"must": [sexes], "must_not": [ages]}][
                self.rng.integers(4)
            ],
            "group_by": [None, "patient"][self.rng.integers(2)],
            "min_similarity": [None, None, 0.5][self.rng.integers(3)],
        }

    def search(self) -> None:
        query = self.sites[self.rng.integers(6)] if self.rng.random() < 0.5 else unit(self.rng)
        k, options = int(self.rng.integers(1, 20)), self.options()
        patient = f"patient{self.rng.integers(99)}" if self.rng.random() < 0.5 else None
        answer = self.living.search(query, k, exclude_patient=patient, **options)
        assert _told(answer) == self.expected(query, k, patient, None, **options)

    def similar(self) -> None:
        one = self.held[self.any_id()]
        options = self.options()
        answer = self.living.similar(one.study.study_id, 7, **options)
        assert _told(answer) == self.expected(one.embedding, 7, one.study.patient_id, one.study.study_id, **options)

    def compact(self) -> None:
        assert self.living.compact()["rows"] == len(self.held)

    def restart(self) -> None:
        self.living.close()
        self.living = LivingCollection(self.folder / "index")
        assert {one: self.living.study(one) for one in self.held} == {one: new.study for one, new in self.held.items()}
        assert len(self.living) == len(self.held)

    def snapshot(self) -> None:
        """Go on in the copy."""
        save_snapshot(self.folder / "index", self.folder / "snapshot")
        self.living.close()
        shutil.rmtree(self.folder / "index")
        restore_snapshot(self.folder / "snapshot", self.folder / "index")
        shutil.rmtree(self.folder / "snapshot")
        assert verify(self.folder / "index").faults == []
        self.restart()

    def expected(
        self,
        query: Any,
        k: int,
        patient: str | None,
        itself: str | None,
        *,
        where: Any,
        group_by: Any,
        min_similarity: Any,
    ) -> tuple[list[tuple[str, float]], int]:
        """Return the hits and the count of what qualifies, by looking at every study."""
        near = [
            (-round(float(np.asarray(query, np.float64) @ one.embedding.astype(np.float64)), 6), one.study)
            for one in self.held.values()
            if one.study.patient_id != patient and one.study.study_id != itself and _passes(one.study, where or {})
        ]
        near.sort(key=lambda pair: (pair[0], pair[1].study_id))
        kept, seen = [], set()
        for similarity, study in near:
            if group_by is None or study.patient_id not in seen:
                kept.append((study.study_id, -similarity))
                seen.add(study.patient_id)
        least = -2 if min_similarity is None else min_similarity
        return [one for one in kept[:k] if one[1] >= least], len(near)


def _told(answer: Any) -> tuple[list[tuple[str, float]], int]:
    assert answer.exact
    assert [hit.rank for hit in answer.hits] == list(range(1, len(answer.hits) + 1))
    return [(hit.study.study_id, hit.similarity) for hit in answer.hits], answer.matched_total


def _passes(study: Any, where: Any) -> bool:
    def holds(condition: Any) -> bool:
        value = getattr(study, condition["key"])
        return value == condition["match"]["value"] if "match" in condition else value >= condition["range"]["gte"]

    return all(map(holds, where.get("must", []))) and not any(map(holds, where.get("must_not", [])))


def tell(folder: Path, operations: int, seed: int) -> None:
    """Live so many operations through; the seed tells the story again."""
    print(f"seed {seed}")
    story = Story(folder, seed)
    names = story.rng.choice(list(SHARES), size=operations, p=np.array(list(SHARES.values())) / sum(SHARES.values()))
    for number, name in enumerate(names):
        try:
            getattr(story, name)()
        except AssertionError as error:
            raise AssertionError(f"operation {number}, {name}, of seed {seed}") from error
    with closing(story.living):
        assert len(story.living) == len(story.held)


@pytest.mark.slow
def test_a_long_life_of_a_collection_is_as_a_dictionary_s(tmp_path: Path) -> None:
    tell(tmp_path, OPERATIONS, seed=7)


@pytest.mark.long
@pytest.mark.parametrize("seed", [int(np.random.SeedSequence().generate_state(1)[0])], ids=["drawn"])
def test_a_very_long_life_of_a_collection_is_as_a_dictionary_s(tmp_path: Path, seed: int) -> None:
    tell(tmp_path, OPERATIONS_LONG, seed)
