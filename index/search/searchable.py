"""What can be asked for similar studies, and what it answers: the face that one collection and its changes share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import FingerprintMismatch, StudyNotFound
from index.table.filters import Where
from index.table.studies import Study, label_names
from index.vectors import as_embeddings

MOST_VALUES = 50
"""Sexes or projections that are offered; a table of somebody else's may have a text of its own in every row."""


@dataclass(frozen=True)
class Hit:
    """One similar study; rank counts from 1, similarity is the cosine in [-1, 1]."""

    rank: int
    similarity: float
    study: Study


@dataclass(frozen=True)
class Answer:
    """What a search found."""

    hits: list[Hit]
    matched_total: int
    """Rows that passed filter and patient rules, whether or not they are among the hits."""
    exact: bool


@dataclass(frozen=True)
class Choices:
    """What a reader can narrow by: the label columns that have a label, and the sexes and projections there are."""

    findings: tuple[str, ...]
    sexes: tuple[str, ...]
    projections: tuple[str, ...]

    @classmethod
    def of(cls, studies: pa.Table) -> Self:
        """Return the choices that a table of studies gives; of a column's values the commonest MOST_VALUES."""
        labelled = [name for name in label_names(studies.schema) if studies[name].null_count < studies.num_rows]
        return cls(tuple(labelled), _values(studies["sex"]), _values(studies["projection"]))

    def merged(self, other: Self) -> Self:
        """Return the choices of both, in the order of the first."""
        pairs = zip(
            (self.findings, self.sexes, self.projections), (other.findings, other.sexes, other.projections), strict=True
        )
        return type(self)(*(tuple(dict.fromkeys(one + two)) for one, two in pairs))


def _values(column: pa.ChunkedArray) -> tuple[str, ...]:
    counts = [(-one["counts"], one["values"]) for one in column.drop_null().value_counts().to_pylist()]
    return tuple(sorted(value for _, value in sorted(counts)[:MOST_VALUES]))


class Searchable(ABC):
    """Studies with vectors of one encoder. Safe under threads: every choice is an argument of the call."""

    manifest: dict[str, Any]
    fingerprint: str
    embedding_dim: int

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def schema(self) -> Any:
        """The Arrow schema of the studies."""

    @abstractmethod
    def study(self, study_id: str) -> Study:
        """Return a stored study. Raises StudyNotFound."""

    def __contains__(self, study_id: str) -> bool:
        """Return whether a study of that name is stored."""
        try:
            self.study(study_id)
        except StudyNotFound:
            return False
        return True

    @abstractmethod
    def embedding(self, study_id: str) -> npt.NDArray[np.float32]:
        """Return the vector (D,) of a stored study. Raises StudyNotFound."""

    @abstractmethod
    def search(
        self,
        query: npt.ArrayLike,
        k: int = 10,
        *,
        where: Where | None = None,
        exclude_patient: str | None = None,
        exclude_study: str | None = None,
        group_by: Literal["patient"] | None = None,
        min_similarity: float | None = None,
        exact: bool = False,
    ) -> Answer:
        """Return the k most similar studies that pass, most similar first, ties by study_id.

        Args:
            query: (D,) unit vector.
            k: at least 1; fewer hits come back only where fewer rows qualify.
            where: the filter grammar of `index.table.filters`.
            group_by: "patient" keeps the most similar study of each patient.
            min_similarity: hits below this cosine are dropped.
            exact: scan every row even where an approximate index would do.

        Raises:
            VectorsError: a query of a wrong shape or norm. FilterError: bad `where`. CollectionError: k below 1.
        """

    def search_many(self, queries: npt.ArrayLike, k: int = 10, **options: Any) -> list[Answer]:
        """Return what `search` answers to each of (Q, D) unit vectors, all of one moment; options as there."""
        here = self.now()
        return [here.search(query, k, **options) for query in as_embeddings(queries, self.embedding_dim)]

    @property
    def columns(self) -> list[str]:
        """Columns that a filter may name."""
        return list(self.schema.names)

    @property
    def choices(self) -> Choices:
        """What a reader can narrow by; where values are not looked through, every label column and the usual values."""
        return Choices(tuple(label_names(self.schema)), ("Female", "Male"), ("AP", "PA"))

    @property
    def moved(self) -> frozenset[str]:
        """The studies that were deleted or replaced since the index was built: their places of then are wrong."""
        return frozenset()

    def now(self) -> "Searchable":
        """Return the studies as they are at this moment, which no later change touches."""
        return self

    def require_fingerprint(self, fingerprint: str) -> None:
        """Raise FingerprintMismatch unless the vectors here were made by that encoder."""
        if fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"the index was built with encoder {self.fingerprint[:12]}, this encoder is {fingerprint[:12]}; "
                "run: precedent export STUDIES --images ROOT --encoder ENCODER --out EMBEDDINGS && "
                "precedent index EMBEDDINGS --out INDEX"
            )

    def similar(self, study_id: str, k: int = 10, *, exclude_same_patient: bool = True, **options: Any) -> Answer:
        """Return the studies most similar to a stored one, which is never its own hit; options as in `search`."""
        patient = self.study(study_id).patient_id if exclude_same_patient else None
        return self.search(self.embedding(study_id), k, exclude_patient=patient, exclude_study=study_id, **options)
