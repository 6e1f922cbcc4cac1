"""What can be asked for similar studies, and what it answers: the face that one collection and its changes share.

Knows studies and similarities; it must not know how the nearest are found.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from index.errors import FingerprintMismatch, StudyNotFound
from index.filters import Where
from index.studies import Study
from index.vectors import as_embeddings


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
            where: the filter grammar of `index.filters`.
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
