"""What is added to a collection: a study with the vector of its films, as a row, and whether it is there already.

Knows studies and vectors; it must not know where they are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import StudiesError, StudyExists, StudyNotFound
from index.searchable import Searchable
from index.studies import CORE_COLUMNS, SHARD_COLUMNS, Study, as_studies

SAME_FROM = 0.9999
"""Cosine from which two vectors of one film are the same but for the batch and the machine that made them."""


@dataclass(frozen=True)
class Addition:
    """A study to be added, the views its vector was made of, and the vector."""

    study: Study
    views: tuple[str, ...]
    embedding: npt.NDArray[np.float32]
    """(D,) of unit norm."""


def as_rows(additions: Sequence[Addition], schema: pa.Schema) -> list[dict[str, Any]]:
    """Return studies as rows of a collection's schema.

    Raises:
        StudiesError: a column that the collection has not, a value of another type, or a rule of `as_studies` broken.
    """
    rows = [_row_of(one.study) for one in additions]
    unknown = [name for row in rows for name in row if name not in schema.names]
    if unknown:
        raise StudiesError(f"no column {unknown[0]!r} in this collection; there are: {', '.join(schema.names)}")
    own = pa.schema([one for one in schema if one.name not in SHARD_COLUMNS])
    try:
        checked: list[dict[str, Any]] = as_studies(pa.Table.from_pylist(rows, own)).to_pylist()
    except (pa.ArrowException, OverflowError) as cause:
        raise StudiesError(f"expected the types of this collection's columns, got {cause}") from cause
    if "views" not in schema.names:
        return checked
    return [row | {"views": list(one.views)} for row, one in zip(checked, additions, strict=True)]


def is_same(before: Searchable, row: Mapping[str, Any], vector: npt.NDArray[np.float32], *, replace: bool) -> bool:
    """Return whether a study is there with the same content.

    Raises:
        StudyExists: it is there with other content, and that is not to be replaced.
    """
    study = Study.from_row(row)
    try:
        stored = before.study(study.study_id)
    except StudyNotFound:
        return False
    same = stored == study and float(before.embedding(study.study_id) @ vector) >= SAME_FROM
    if not same and not replace:
        raise StudyExists(f"study {study.study_id!r} is there already, with other content; replace it knowingly")
    return same


def _row_of(study: Study) -> dict[str, Any]:
    core = {name: getattr(study, name) for name in CORE_COLUMNS} | {"other_paths": list(study.other_paths)}
    return core | study.findings | study.extra
