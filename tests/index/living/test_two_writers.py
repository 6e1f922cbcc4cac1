"""Two processes that add to and delete from one collection at once: each change is acknowledged once, and kept."""

import multiprocessing
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from living_world import addition, build_of, ids_of, units

from index.errors import StudyExists, StudyNotFound
from index.living.collection import LivingCollection
from index.living.verification import verify

CHANGES = 24
PATIENCE = 120
CONTEXT = multiprocessing.get_context("spawn")
FIRST = [f"patient0/study{number}" for number in range(CHANGES)]


def change(folder: Path, name: int, together: Barrier, told: Connection) -> None:
    """Add own studies and contested ones, and delete of both; tell what was acknowledged, and what is seen at last."""
    acknowledged: dict[str, list[str]] = {"added": [], "contested": [], "deleted": [], "deleted first": []}
    with closing(LivingCollection(folder)) as living:
        together.wait(PATIENCE)
        for number, vector in enumerate(units(np.random.default_rng(name), CHANGES)):
            own, contested = f"patient{name}/study{number}", f"patient9/study{number}"
            acknowledged["added"] += [own] * living.add([addition(own, vector)])[0]
            with suppress(StudyExists):
                acknowledged["contested"] += [contested] * living.add([addition(contested, vector)])[0]
            if number % 3 == 0:
                living.delete([own])
                acknowledged["deleted"].append(own)
            with suppress(StudyNotFound):
                living.delete([FIRST[number]])
                acknowledged["deleted first"].append(FIRST[number])
        together.wait(PATIENCE)
        seen = {one: living.embedding(one).tolist() for one in ids_of(living)}
    told.send((acknowledged, seen))


@pytest.mark.slow
def test_two_processes_that_change_a_collection_at_once_lose_nothing_and_see_all(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    held = [*FIRST, "patient8/study0"]
    folder = build_of(
        tmp_path / "index", [addition(one, vector) for one, vector in zip(held, units(rng, CHANGES + 1), strict=True)]
    )
    told = both_change(folder)

    (one, seen), (other, seen_by_other) = told
    assert sorted(one["deleted first"] + other["deleted first"]) == sorted(FIRST)  # each by one of them alone
    assert sorted(one["contested"] + other["contested"]) == sorted(f"patient9/study{n}" for n in range(CHANGES))
    expected = {"patient8/study0", *one["contested"], *other["contested"]}
    for acknowledged in (one, other):
        assert len(acknowledged["added"]) == CHANGES
        expected |= set(acknowledged["added"]) - set(acknowledged["deleted"])
    assert set(seen) == expected
    assert seen == seen_by_other
    with closing(LivingCollection(folder)) as living:
        assert {one: living.embedding(one).tolist() for one in ids_of(living)} == seen
    assert verify(folder).faults == []
    vectors = {name: units(np.random.default_rng(name), CHANGES) for name in (1, 2)}
    for name, (acknowledged, _) in zip((1, 2), told, strict=True):  # of a contested study the winner's vector is there
        for study in acknowledged["contested"]:
            np.testing.assert_array_equal(seen[study], vectors[name][int(study.partition("/study")[2])])


def both_change(folder: Path) -> list[Any]:
    """Return what each of two processes told."""
    together, pipes = CONTEXT.Barrier(2), [CONTEXT.Pipe(duplex=False) for _ in range(2)]
    writers = [
        CONTEXT.Process(target=change, args=(folder, name, together, ours))
        for name, (_, ours) in zip((1, 2), pipes, strict=True)
    ]
    for writer in writers:
        writer.start()
    for _, ours in pipes:
        ours.close()  # so that the end of a writer that fails is noticed
    told = [theirs.recv() for theirs, _ in pipes]
    for writer in writers:
        writer.join()
    return told
