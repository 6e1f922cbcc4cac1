"""What is added to a collection: a study with the vector of its films, as a row, and whether it is there already."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import StudiesError, StudyExists, StudyNotFound
from index.search.searchable import Searchable
from index.table.studies import CORE_COLUMNS, FINDINGS, SHARD_COLUMNS, Study, as_studies, label_names

if TYPE_CHECKING:
    from index.search.familiarity import FamiliarityGate

SAME_FROM = 0.9999
"""Cosine from which two vectors of one film are the same but for the batch and the machine that made them."""
VIEWS = ("frontal", "lateral")
_FACTS = ("patient_id", "projection", "sex", "age", "split")
_OWN = frozenset((*CORE_COLUMNS, *FINDINGS, *SHARD_COLUMNS))


@dataclass(frozen=True)
class Addition:
    """A study to be added, the views its vector was made of, and the vector."""

    study: Study
    views: tuple[str, ...]
    embedding: npt.NDArray[np.float32]
    """(D,) of unit norm."""
    joins: Study | None = None
    """The stored study that this one replaces, with the further film that `joined` has put to it."""


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
        """Add studies, all or none, durably; return for each whether anything was new.

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
        """Close files and connections."""


def as_rows(additions: Sequence[Addition], schema: pa.Schema) -> list[dict[str, Any]]:
    """Return studies as rows of a collection's schema.

    Raises:
        StudiesError: a further column that the collection has not or that has the name of one of its own, a value of
            another type, or a rule of `as_studies` broken.
    """
    rows = [_row_of(addition.study) for addition in additions]
    further = [name for name in schema.names if name not in _OWN]
    labels = [name for addition in additions for name in addition.study.findings if name not in FINDINGS]
    given = [*labels, *(name for addition in additions for name in addition.study.extra)]
    unknown = [name for name in given if name not in further]
    if unknown:  # one of ours among them would take the place of the study's own id or path
        there = ", ".join([*FINDINGS, *further])
        raise StudiesError(f"no column {unknown[0]!r} of this collection can be given; there are: {there}")
    own = pa.schema([column for column in schema if column.name not in SHARD_COLUMNS])
    try:
        checked: list[dict[str, Any]] = as_studies(pa.Table.from_pylist(rows, own)).to_pylist()
    except (pa.ArrowException, OverflowError) as cause:
        raise StudiesError(f"expected the types of this collection's columns, got {cause}") from cause
    if "views" not in schema.names:
        return checked
    return [row | {"views": list(addition.views)} for row, addition in zip(checked, additions, strict=True)]


def joined(stored: Study, new: Study) -> Study | None:
    """Return a stored study together with films of it that come later, under what is known of either.

    None where `new` has films for the same views, another film for one of them, another patient, or says otherwise of
    anything: then it is no further film of that study, but other content.
    """
    films = {f"{view}_path": (getattr(stored, f"{view}_path"), getattr(new, f"{view}_path")) for view in VIEWS}
    facts = {name: (getattr(stored, name), getattr(new, name)) for name in _FACTS}
    had, given = stored.findings | stored.extra, new.findings | new.extra
    values = {name: (had.get(name), given.get(name)) for name in had | given}
    pairs = [pair for known in (films, facts, values) for pair in known.values()]
    if stored.views == new.views or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return None
    whole = replace(
        stored,
        **_either(films),
        **_either(facts),
        other_paths=tuple(dict.fromkeys((*stored.other_paths, *new.other_paths))),
        findings={name: value for name, value in _either(values).items() if name in stored.findings},
        extra={name: value for name, value in _either(values).items() if name not in stored.findings},
    )
    return whole if whole == stored or whole.views != stored.views else None


def _either(known: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {name: new if old is None else old for name, (old, new) in known.items()}


def is_same(
    before: Searchable,
    row: Mapping[str, Any],
    vector: npt.NDArray[np.float32],
    *,
    replace: bool,
    joins: Study | None = None,
) -> bool:
    """Return whether a study is there with the same content.

    Args:
        joins: the stored study that is to be replaced, and that alone.

    Raises:
        StudyExists: it is there with other content, and that is not to be replaced.
        StudyNotFound: the one that it joins is gone.
    """
    study = Study.from_row(row, label_names(before.schema))
    if joins is not None:
        if before.study(study.study_id) != joins:
            raise StudyExists(f"study {study.study_id!r} has changed since its films were read; add the film again")
        return False
    try:
        stored = before.study(study.study_id)
    except StudyNotFound:
        return False
    same = stored == study and float(before.embedding(study.study_id) @ vector) >= SAME_FROM
    if not same and not replace:
        raise StudyExists(
            f"study {study.study_id!r} is stored already with other content; to replace it, pass --replace, or "
            "replace=true over HTTP"
        )
    return same


def _row_of(study: Study) -> dict[str, Any]:
    core = {name: getattr(study, name) for name in CORE_COLUMNS} | {"other_paths": list(study.other_paths)}
    return core | study.findings | study.extra
