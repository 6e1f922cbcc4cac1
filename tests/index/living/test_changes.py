"""The file of changes: what was turned, moved or lost in it is refused, and is not begun anew where it is missing."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from living_world import addition, build_of, ids_of, units

from index.errors import ArtefactError, FingerprintMismatch, StudyNotFound
from index.living.collection import LivingCollection
from index.living.compaction import save_generation
from index.living.verification import verify
from index.storage.files import load_json, save_json
from index.storage.folder import CHANGE_FILES, CHANGES, CHANGES_MARKER


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
    with closing(sqlite3.connect(folder / CHANGES)) as connection, connection:
        assert connection.execute(statement).rowcount != 0

    with pytest.raises(ArtefactError, match="changes"):
        LivingCollection(folder)
    assert verify(folder).faults


def test_a_file_that_is_missing_is_not_begun_anew(folder: Path) -> None:
    with closing(LivingCollection(folder)) as living:
        held = ids_of(living)
    (folder / CHANGES).rename(folder / "away")

    with pytest.raises(ArtefactError, match=rf"{CHANGES} is missing.*move {CHANGES}\* and {CHANGES_MARKER} away"):
        LivingCollection(folder)
    assert verify(folder).faults

    (folder / "away").rename(folder / CHANGES)
    with closing(LivingCollection(folder)) as living:
        assert ids_of(living) == held


def test_a_file_that_goes_while_it_is_searched_is_not_begun_anew_by_a_writer(
    folder: Path, rng: np.random.Generator
) -> None:
    with closing(LivingCollection(folder)) as living:
        (folder / CHANGES).unlink()

        with pytest.raises(ArtefactError, match="is missing"):
            living.add([addition("patient99/study1", units(rng, 1)[0])])
    assert not (folder / CHANGES).exists()


def test_a_log_that_was_left_behind_is_not_taken_for_another_file_s(folder: Path, tmp_path: Path) -> None:
    with closing(LivingCollection(folder)) as living:
        living.delete(["patient4/study1"])
        for path in folder.glob(f"{CHANGES}*"):  # as a kill leaves them
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (folder / CHANGES).unlink()
    (folder / CHANGES_MARKER).unlink()
    (folder / f"{CHANGES}-wal").write_bytes((tmp_path / f"{CHANGES}-wal").read_bytes())

    with pytest.raises(ArtefactError, match=rf"move {CHANGES}\* and"):
        LivingCollection(folder)


def test_a_row_that_is_lost_after_a_compaction_was_cut_off_is_missed(folder: Path) -> None:
    with closing(LivingCollection(folder)) as living:
        save_generation(living.folder, living.now())  # and is killed before the changes are cleared
    with closing(LivingCollection(folder)) as living:
        living.delete(["patient5/study1", "patient6/study1"])
    with closing(sqlite3.connect(folder / CHANGES)) as connection, connection:
        connection.execute("DELETE FROM changes WHERE study_id = 'patient5/study1'")

    with pytest.raises(ArtefactError, match="does not hold all"):
        LivingCollection(folder)
    assert verify(folder).faults


def test_a_study_that_is_not_there_makes_no_file(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = build_of(tmp_path / "new", [addition("patient1/study1", units(rng, 1)[0])])
    with closing(LivingCollection(folder)) as living, pytest.raises(StudyNotFound):
        living.delete(["patient2/study1"])

    assert not any((folder / name).exists() for name in CHANGE_FILES)


def test_an_index_of_another_encoder_is_not_taken_up_by_a_write(folder: Path, rng: np.random.Generator) -> None:
    bare = build_of(folder.with_name("bare"), [addition("patient1/study1", units(rng, 1)[0])])
    with closing(LivingCollection(bare)) as living:
        manifest = load_json(bare / "manifest.json", "manifest", "")
        save_json(bare / "manifest.json", manifest | {"fingerprint": "e" * 64}, sealed=True)
        for change in (
            lambda: living.delete(["patient1/study1"]),
            lambda: living.add([addition("patient3/study1", units(rng, 1)[0])]),
            lambda: living.film_path(b"film", ".png"),
            living.compact,
            living.reload,
        ):
            with pytest.raises(FingerprintMismatch, match="activate it with its encoder"):
                change()
        assert ids_of(living) == ["patient1/study1"]
    assert not any((bare / name).exists() for name in CHANGE_FILES)


def test_what_a_kill_left_of_a_first_file_goes_with_the_next_compaction(folder: Path) -> None:
    for name in (f".{CHANGES}.0123456789abcdef.new", f".{CHANGES}.0123456789abcdef.new-wal"):
        (folder / name).touch()
    assert len(verify(folder).notes) == 2

    with closing(LivingCollection(folder)) as living:
        living.compact()
    assert verify(folder).notes == []


def test_a_kill_before_the_witness_is_mended_by_the_next_writer(folder: Path) -> None:
    (folder / CHANGES_MARKER).unlink()

    with closing(LivingCollection(folder)) as living:
        living.delete(["patient4/study1"])
    assert (folder / CHANGES_MARKER).exists()


def test_what_is_damaged_beside_changes_is_not_to_be_indexed_again(folder: Path) -> None:
    next(folder.glob("studies-*.parquet")).write_bytes(b"")

    with pytest.raises(ArtefactError, match="restore a snapshot: no export knows"):
        LivingCollection(folder)


def test_a_study_with_a_number_that_is_not_finite_is_added_with_a_blank(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    folder, vectors = tmp_path / "new", units(rng, 2)
    build_of(folder, [addition("patient1/study1", vectors[0])])
    given = addition("patient2/study1", vectors[1])

    with closing(LivingCollection(folder)) as living:
        living.add([replace(given, study=replace(given.study, age=float("inf")))])
        assert living.study("patient2/study1").age is None
    assert verify(folder).faults == []
