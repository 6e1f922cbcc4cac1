"""Splits by patient: disjoint, whole, balanced, and the same whatever the order of the rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import ArtefactError, StudiesError
from index.table.splits import (
    OFFICIAL,
    folds_by_patient,
    load_parts,
    parts_of,
    require_disjoint_patients,
    save_parts,
    split_by_patient,
)

SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}


def patients_of(rng: np.random.Generator, rows: int = 600, patients: int = 200) -> list[str]:
    return [f"patient{number:05d}" for number in rng.integers(patients, size=rows)]


@settings(deadline=None)
@given(seed=st.integers(0, 2**16))
def test_parts_hold_every_row_once_and_share_no_patient(seed: int) -> None:
    patients = patients_of(np.random.default_rng(seed))
    parts = split_by_patient(patients, SHARES, seed)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(600))
    require_disjoint_patients(patients, parts)


def test_rare_labels_are_spread_over_the_parts(rng: np.random.Generator) -> None:
    patients = patients_of(rng, rows=3000, patients=1000)
    targets = (rng.random((3000, 3)) < [0.02, 0.1, 0.5]).astype(np.float32)
    targets[::7] = np.nan
    for name, rows in split_by_patient(patients, SHARES, 0, targets).items():
        assert len(rows) / 3000 == pytest.approx(SHARES[name], abs=0.01)
        present = np.nansum(targets[rows], 0) / np.nansum(targets, 0)
        assert present == pytest.approx([SHARES[name]] * 3, abs=0.03)


def test_the_order_of_the_rows_changes_no_patients_part(rng: np.random.Generator) -> None:
    patients = np.array(patients_of(rng))
    shuffled = rng.permutation(600)
    parts = split_by_patient(list(patients), SHARES, 3)
    again = split_by_patient(list(patients[shuffled]), SHARES, 3)
    for name, rows in parts.items():
        assert set(patients[rows]) == set(patients[shuffled][again[name]])


def test_the_seed_decides_the_split(rng: np.random.Generator) -> None:
    patients = patients_of(rng)
    first, again, other = (split_by_patient(patients, SHARES, seed)["test"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_folds_are_of_about_equal_size(rng: np.random.Generator) -> None:
    patients = patients_of(rng)
    folds = folds_by_patient(patients, 5, 0)
    assert [len(rows) for rows in folds] == pytest.approx([120] * 5, abs=6)
    require_disjoint_patients(patients, {str(number): rows for number, rows in enumerate(folds)})


def test_one_patient_cannot_be_split() -> None:
    with pytest.raises(StudiesError, match=r"at least 3 patients.*got 1"):
        split_by_patient(["p"] * 10, SHARES, 0)
    with pytest.raises(StudiesError, match=r"at least 2 patients.*got 1"):
        split_by_patient(["p"] * 10, {"train": 1.0}, 0)
    with pytest.raises(StudiesError, match=r"at least 5 patients"):
        folds_by_patient(["a", "b", "c"], 5, 0)


def test_a_part_that_would_stay_empty_is_refused() -> None:
    with pytest.raises(StudiesError, match="leaves 'valid' without one"):
        split_by_patient(list("abcd"), {"train": 0.9, "valid": 0.01, "test": 0.09}, 0)
    with pytest.raises(StudiesError, match="shares above 0"):
        split_by_patient(list("abcd"), {"train": 1.0, "test": 0.0}, 0)
    with pytest.raises(StudiesError, match="2 folds or more"):
        folds_by_patient(list("abcd"), 1, 0)


def test_a_shared_patient_is_named() -> None:
    with pytest.raises(StudiesError, match="'b' in train and test"):
        require_disjoint_patients(list("abb"), {"train": np.array([0, 1]), "test": np.array([2])})


def test_a_split_file_gives_its_rows_back(tmp_path: Path) -> None:
    save_parts(tmp_path / "split.json", {"train": ["s3", "s1"], "test": ["s0"]})
    parts = load_parts(tmp_path / "split.json", ["s0", "s1", "s2", "s3"])
    assert {name: rows.tolist() for name, rows in parts.items()} == {"train": [1, 3], "test": [0]}


def test_a_split_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no split at"):
        load_parts(tmp_path / "split.json", [])
    save_parts(tmp_path / "split.json", {"train": ["s0"], "test": ["s0"]})
    with pytest.raises(StudiesError, match="'s0' in two"):
        load_parts(tmp_path / "split.json", ["s0"])
    (tmp_path / "split.json").write_text('{"train": "s0"}')
    with pytest.raises(ArtefactError, match="is not as the split is written"):
        load_parts(tmp_path / "split.json", ["s0"])


def test_folds_share_out_rare_positives_evenly_without_parting_a_patient(rng: np.random.Generator) -> None:
    patients = patients_of(rng, rows=1000, patients=300)
    targets = (rng.random((1000, 4)) < [0.03, 0.1, 0.3, 0.6]).astype(np.float32)
    targets[::5] = np.nan
    folds = folds_by_patient(patients, 5, 0, targets)
    require_disjoint_patients(patients, {str(number): rows for number, rows in enumerate(folds)})
    for column, total in zip(targets.T, np.nansum(targets, 0), strict=True):
        held = [np.nansum(column[rows]) for rows in folds]
        assert max(held) - min(held) <= max(2, 0.06 * total)


def test_the_official_parts_are_told_by_any_sets_words() -> None:
    words = ["train", "train_val", "val", "validate", "dev", "development", "test", "balanced-test", None]
    studies = pa.table({"study_id": list("abcdefghi"), "split": words})

    parts = parts_of(Path(OFFICIAL), studies)

    assert {part: rows.tolist() for part, rows in parts.items()} == {
        "train": [0, 1],
        "valid": [2, 3, 4, 5],
        "test": [6],
    }


@pytest.mark.parametrize(("words", "got"), [(["a", "b"], "'a', 'b'"), ([None, None], "none")])
def test_a_table_without_an_official_split_is_refused(words: list[str | None], got: str) -> None:
    studies = pa.table({"study_id": ["x", "y"], "split": pa.array(words, pa.string())})

    with pytest.raises(StudiesError, match=f"in the column 'split', got {got}; import the table again"):
        parts_of(Path(OFFICIAL), studies)
