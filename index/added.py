"""What is added to a collection: a study with the vector of its films, as a row, and whether it is there already.

Knows studies and vectors; it must not know where they are kept.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import StudiesError, StudyExists, StudyNotFound
from index.searchable import Searchable
from index.studies import CORE_COLUMNS, FINDINGS, SHARD_COLUMNS, Study, as_studies, label_names

if TYPE_CHECKING:
    from index.familiarity import FamiliarityGate

SAME_FROM = 0.9999
"""Cosine from which two vectors of one film are the same but for the batch and the machine that made them."""
_OWN = frozenset((*CORE_COLUMNS, *FINDINGS, *SHARD_COLUMNS))


@dataclass(frozen=True)
class Addition:
    """A study to be added, the views its vector was made of, and the vector."""

    study: Study
    views: tuple[str, ...]
    embedding: npt.NDArray[np.float32]
    """(D,) of unit norm."""


class Writable(Searchable):
    """A collection that studies are added to and deleted from, wherever it is kept."""

    @abstractmethod
    def add(
        self,
        additions: Sequence[Addition],
        *,
        replace: bool = False,
        films: Mapping[str, bytes] | None = None,
        image_root: Path | None = None,
    ) -> list[bool]:
        """Add studies, all or none; return of each whether anything was new. They are kept, and found, then.

        A study that is there with the same content is left as it is.

        Args:
            replace: put them in the place of studies of the same id.
            films: their files by `film_path`, to be written below `image_root`.

        Raises:
            StudyExists: one is there with other content. StudiesError: a row breaks a rule of the collection.
            VectorsError: a vector does. WriteFailed: the disk does not take it.
        """

    @abstractmethod
    def delete(self, study_ids: Sequence[str], image_root: Path | None = None) -> None:
        """Delete studies, all or none. Raises StudyNotFound, WriteFailed.

        Args:
            image_root: of their added films, where it is not the one that the collection remembers.
        """

    @abstractmethod
    def film_path(self, content: bytes, suffix: str) -> str:
        """Return where a film of an added study belongs, relative to the image root."""

    @abstractmethod
    def remembered_root(self, *, trusted: bool = False) -> Path | None:
        """Return the image root, or the address, that the collection names; None where it names none.

        Args:
            trusted: whether the user has said to take it, wherever it comes from.

        Raises:
            UntrustedRoot: it was made elsewhere, or by another user.
        """

    @abstractmethod
    def gate(self) -> "FamiliarityGate":
        """Return how near the collection's own studies are to each other, as it was built."""

    @property
    @abstractmethod
    def built_at(self) -> str | None:
        """When the index was written, ISO 8601 in UTC."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""


def as_rows(additions: Sequence[Addition], schema: pa.Schema) -> list[dict[str, Any]]:
    """Return studies as rows of a collection's schema.

    Raises:
        StudiesError: a further column that the collection has not or that has the name of one of its own, a value of
            another type, or a rule of `as_studies` broken.
    """
    rows = [_row_of(one.study) for one in additions]
    further = [name for name in schema.names if name not in _OWN]
    labels = [name for one in additions for name in one.study.findings if name not in FINDINGS]
    given = [*labels, *(name for one in additions for name in one.study.extra)]
    unknown = [name for name in given if name not in further]
    if unknown:  # one of ours among them would take the place of the study's own id or path
        there = ", ".join([*FINDINGS, *further])
        raise StudiesError(f"no column {unknown[0]!r} of this collection can be given; there are: {there}")
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
    study = Study.from_row(row, label_names(before.schema))
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
