"""The file of changes: what was turned, moved or lost in it is refused, and is not begun anew where it is missing."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from living_world import addition, build_of, ids_of, units

from index.change_faults import FILE, WITNESS
from index.errors import ArtefactError
from index.living import LivingCollection
from index.verification import verify


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Return an index of ten studies, of which one was deleted and to which five were added."""
    given = [addition(f"patient{one}/study1", vector) for one, vector in enumerate(units(rng, 15))]
    folder = build_of(tmp_path / "index", given[:10])
    with closing(LivingCollection(folder)) as living:
        living.add(given[10:])
        living.delete(["patient3/study1"])
    return folder


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM changes WHERE sequence = (SELECT max(sequence) FROM changes)",
        "UPDATE changes SET sequence = sequence + 100 WHERE sequence = (SELECT min(sequence) FROM changes)",
        "UPDATE changes SET row = replace(row, 'Female', 'Male')",
        "UPDATE changes SET study_id = CAST(study_id AS BLOB)",
        "UPDATE facts SET value = value + 1 WHERE name = 'cleared'",
        "UPDATE facts SET value = value + 1 WHERE name = 'last'",
        "UPDATE facts SET value = CAST(value AS BLOB) WHERE name = 'sum'",
        "DELETE FROM facts WHERE name = 'seal'",
        "DELETE FROM facts",
        "DROP TABLE changes",
        "PRAGMA user_version = 1",
        "PRAGMA application_id = 1",
    ],
)
def test_a_change_that_is_turned_moved_or_lost_is_refused(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / FILE)) as connection, connection:
        assert connection.execute(statement).rowcount != 0

    with pytest.raises(ArtefactError, match="changes"):
        LivingCollection(folder)
    assert verify(folder).faults


def test_a_file_that_is_missing_is_not_begun_anew(folder: Path) -> None:
    with closing(LivingCollection(folder)) as living:
        held = ids_of(living)
    (folder / FILE).rename(folder / "away")

    with pytest.raises(ArtefactError, match=f"{FILE} is missing.*move {FILE} and {WITNESS} away"):
        LivingCollection(folder)
    assert verify(folder).faults

    (folder / "away").rename(folder / FILE)
    with closing(LivingCollection(folder)) as living:
        assert ids_of(living) == held


def test_a_file_that_goes_while_it_is_searched_is_not_begun_anew_by_a_writer(
    folder: Path, rng: np.random.Generator
) -> None:
    with closing(LivingCollection(folder)) as living:
        (folder / FILE).unlink()

        with pytest.raises(ArtefactError, match="is missing"):
            living.add([addition("patient99/study1", units(rng, 1)[0])])
    assert not (folder / FILE).exists()


def test_a_kill_before_the_witness_is_mended_by_the_next_writer(folder: Path) -> None:
    (folder / WITNESS).unlink()

    with closing(LivingCollection(folder)) as living:
        living.delete(["patient4/study1"])
    assert (folder / WITNESS).exists()
