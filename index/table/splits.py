"""Splits and folds that never part the studies of one patient, balanced over the targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import StudiesError
from index.storage.files import load_json, save_json
from index.storage.manifests import SPLIT_SHAPE
from index.vectors import Rows

"""Row numbers of the table, ascending."""
_MOST_BYTES = 1 << 27
"""Of the file of a split: the ids of four million studies."""


def split_by_patient(
    patient_ids: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    targets: npt.NDArray[np.float32] | None = None,
) -> dict[str, Rows]:
    """Return the rows of each part; the parts are disjoint in patients and together hold every row.

    The parts depend on the patients, their targets and the seed, not on the order of the rows. Patients are
    dealt out label by label, the rarest first, each to the part that still lacks most of it (iterative
    stratification, Sechidis et al., ECML PKDD 2011, with a patient as the unit).

    Args:
        patient_ids: (N,) patient of each row.
        fractions: share of each part, e.g. `{"train": 0.7, "valid": 0.1, "test": 0.2}`, scaled to sum to 1.
        targets: (N, C) with NaN for unused, whose positives are to be spread alike.

    Raises:
        StudiesError: too few patients for every part to get one, or a share that is not above 0.
    """
    if not fractions or min(fractions.values()) <= 0:
        raise StudiesError(f"expected shares above 0, got {dict(fractions)}; leave out a part of none")
    patients, patient_of_row = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    _require_patients(len(patients), len(fractions))
    share = np.array(list(fractions.values()), dtype=np.float64)
    part_of = _deal(_counts(patient_of_row, len(patients), targets), share / share.sum(), seed)
    parts = {name: np.flatnonzero(part_of[patient_of_row] == part) for part, name in enumerate(fractions)}
    empty = [name for name, rows in parts.items() if not len(rows)]
    if empty:
        raise StudiesError(
            f"expected enough patients for {', '.join(fractions)}, got {len(patients)}, which leaves "
            f"{empty[0]!r} without one; use more patients or larger shares"
        )
    return parts


def folds_by_patient(
    patient_ids: Sequence[str], n: int, seed: int, targets: npt.NDArray[np.float32] | None = None
) -> list[Rows]:
    """Return the rows of each of n folds of about equal size; as `split_by_patient`.

    Raises:
        StudiesError: n below 2, or fewer patients than folds.
    """
    if n < 2:
        raise StudiesError(f"expected 2 folds or more, got {n}")
    return list(split_by_patient(patient_ids, {str(fold): 1.0 for fold in range(n)}, seed, targets).values())


OFFICIAL = "official"
"""What is named in the place of a split's file for the parts in the column `split`, as a set's makers dealt them."""
_OFFICIAL_PARTS = {
    "train": ("train", "train_val"),
    "valid": ("valid", "validate", "validation", "val", "dev", "development"),
    "test": ("test",),
}


def official_parts(studies: pa.Table) -> dict[str, Rows]:
    """Return the rows of train, valid and test, empty ones too, as the column `split` has them in its set's words.

    A study of another word, or of none, is in no part.

    Raises:
        StudiesError: no study is in one.
    """
    words = np.asarray(studies["split"].to_pylist(), dtype=object)
    parts = {part: np.flatnonzero(np.isin(words, named)) for part, named in _OFFICIAL_PARTS.items()}
    if not any(map(len, parts.values())):
        known = ", ".join(part for named in _OFFICIAL_PARTS.values() for part in named)
        got = ", ".join(sorted({repr(word) for word in words if word is not None})[:5]) or "none"
        raise StudiesError(
            f"expected {known} in the column 'split', got {got}; import the table again with its set's split, or name "
            "a split file"
        )
    return parts


def parts_of(splits: Path, studies: pa.Table) -> dict[str, Rows]:
    """Return the parts that a split's file names, or the official ones. Raises as `load_parts`, `official_parts`."""
    if str(splits) == OFFICIAL:
        return official_parts(studies)
    return load_parts(splits, studies["study_id"].to_pylist())


def require_disjoint_patients(patient_ids: Sequence[str], parts: Mapping[str, Rows]) -> None:
    """Raise StudiesError, naming a patient and its parts, where two parts share one."""
    part_of: dict[str, str] = {}
    for name, rows in parts.items():
        for row in rows:
            patient = str(patient_ids[int(row)])
            if part_of.setdefault(patient, name) != name:
                raise StudiesError(
                    f"expected no patient in two parts, got {patient!r} in {part_of[patient]} and {name}; "
                    "split by patient"
                )


def _require_patients(patients: int, parts: int) -> None:
    if patients < max(parts, 2):
        raise StudiesError(
            f"expected at least {max(parts, 2)} patients, one for each part, got {patients}; with so few, what "
            "is learnt and what is tested would be the same patient"
        )


def _counts(
    patient_of_row: npt.NDArray[np.int64], patients: int, targets: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float64]:
    """Return (P, C + 1): positives of each label a patient has, then its rows."""
    columns = [] if targets is None else list((np.asarray(targets) == 1).T.astype(np.float64))
    columns.append(np.ones(len(patient_of_row)))
    return np.stack([np.bincount(patient_of_row, column, patients) for column in columns], axis=1)


def _deal(counts: npt.NDArray[np.float64], share: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.int64]:
    """Return the part of each patient (P,)."""
    wanted = share[:, None] * counts.sum(axis=0)  # (F, C + 1): what each part still lacks
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    part_of = np.full(len(counts), -1, dtype=np.int64)
    rarest_first = [*np.argsort(counts[:, :-1].sum(axis=0), kind="stable"), counts.shape[1] - 1]
    for label in rarest_first:
        open_ones = shuffled[(part_of[shuffled] < 0) & (counts[shuffled, label] > 0)]
        for patient in open_ones[np.argsort(-counts[open_ones, label], kind="stable")]:
            part = int(np.lexsort((-wanted[:, -1], -wanted[:, label]))[0])
            part_of[patient] = part
            wanted[part] -= counts[patient]
    return part_of


def save_parts(path: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Write the study ids of each part as JSON, whole or not at all: `{"train": [...], "test": [...]}`."""
    save_json(path, {name: list(ids) for name, ids in parts.items()})


def load_parts(path: Path, study_ids: Sequence[str]) -> dict[str, Rows]:
    """Return the rows of each part that a file of `save_parts` names; rows it does not name are in none.

    Raises:
        ArtefactError: no such file, or no parts of study ids in it. StudiesError: a study in two parts.
    """
    remedy = 'expected {"train": [study ids], "test": [...]}'
    named = load_json(path, "split", remedy, SPLIT_SHAPE, most_bytes=_MOST_BYTES)
    part_of: dict[str, str] = {}
    for name, ids in named.items():
        for study_id in ids:
            if part_of.setdefault(study_id, name) != name:
                raise StudiesError(f"expected each study in one part, got {study_id!r} in two of {str(path)!r}")
    parts = [part_of.get(study_id) for study_id in study_ids]
    return {name: np.array([row for row, part in enumerate(parts) if part == name], np.int64) for name in named}
