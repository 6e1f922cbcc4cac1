"""What can be asked for similar studies: the interface of every collection, wherever it is kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import BeyondBackend, CollectionError, FingerprintMismatch, StudyNotFound
from index.search.answer import Answer, Query, Subject
from index.table.filters import Where
from index.table.studies import PATIENTS, PATIENTS_UNKNOWN, Study, label_names
from index.vectors import as_embedding, as_embeddings

MOST_VALUES = 50
"""Sexes or projections that are offered; a table of somebody else's may have a text of its own in every row."""


class Stored(NamedTuple):
    """A study of a collection and its vector (D,)."""

    study: Study
    embedding: npt.NDArray[np.float32]


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
        return type(self)(*(tuple(dict.fromkeys(ours + theirs)) for ours, theirs in pairs))


def _name_of(source: Mapping[str, str]) -> str:
    return "@".join(filter(None, (source["model"], source["revision"])))


def _values(column: pa.ChunkedArray) -> tuple[str, ...]:
    counts = [(-entry["counts"], entry["values"]) for entry in column.drop_null().value_counts().to_pylist()]
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

    @property
    def patients_warning(self) -> str | None:
        """What follows where the patients of some studies are unknown; None where no table has said so."""
        return f"Of some studies the {PATIENTS_UNKNOWN}." if PATIENTS in self.schema.names else None

    @abstractmethod
    def stored(self, study_id: str) -> Stored:
        """Return a stored study with its vector. Raises StudyNotFound."""

    def study(self, study_id: str) -> Study:
        """Return a stored study. Raises StudyNotFound."""
        return self.stored(study_id).study

    def embedding(self, study_id: str) -> npt.NDArray[np.float32]:
        """Return the vector (D,) of a stored study. Raises StudyNotFound."""
        return self.stored(study_id).embedding

    def __contains__(self, study_id: str) -> bool:
        """Return whether a study of that name is stored."""
        try:
            self.study(study_id)
        except StudyNotFound:
            return False
        return True

    def listed(self, text: str = "", columns: Iterable[str] = (), *, after: str = "", limit: int = 20) -> list[Study]:
        """Return the first `limit` studies whose ids come after one, in the order of ids.

        Args:
            text: that the id, or a text in one of the columns, begins with, upper case or lower; or the name of a label
                column, in which the study is labelled as present.

        Raises:
            BeyondBackend: this collection cannot be listed.
        """
        raise BeyondBackend("this collection cannot be listed; ask for a study by its whole name")

    @abstractmethod
    def answer(self, query: Query) -> Answer:
        """Return the most similar studies that pass, most similar first, ties by study_id.

        Raises:
            StudyNotFound: the query is of a study that is not stored. VectorsError: its vector has a wrong shape or
            norm. FilterError: bad `where`.
        """

    def resolved(self, query: Query) -> tuple[Query, npt.NDArray[np.float32]]:
        """Return a query and its checked vector (D,), those of a stored study looked up; raises as `answer`."""
        vector = query.vector
        if vector is None:
            if query.subject.study_id is None:
                raise CollectionError("expected a vector or a stored study to search by, got neither")
            study, vector = self.stored(query.subject.study_id)
            query = query.of(study, vector)
        return query, as_embedding(vector, self.embedding_dim)

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
        """Return the k studies most similar to a unit vector (D,); options and errors as of `Query` and `answer`."""
        subject = Subject(exclude_patient, exclude_study)
        return self.answer(
            Query(query, subject, k, where, group_by=group_by, min_similarity=min_similarity, exact=exact)
        )

    def search_many(self, queries: npt.ArrayLike, k: int = 10, **options: Any) -> list[Answer]:
        """Return what `search` answers to each of (Q, D) unit vectors, all of one moment; options as there."""
        here = self.now()
        return [here.search(query, k, **options) for query in as_embeddings(queries, self.embedding_dim)]

    def similar_many(self, study_ids: Iterable[str], k: int = 10, **options: Any) -> list[Answer]:
        """Return what `similar` answers for each stored study, all of one moment; options as there."""
        here = self.now()
        return [here.similar(study_id, k, **options) for study_id in study_ids]

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
        if fingerprint != self.fingerprint and (source := self.manifest.get("source")) is not None:
            raise FingerprintMismatch(
                f"the vectors of this index were imported, from {_name_of(source)!r}, and {fingerprint[:12]} makes "
                "others; search it by stored studies, or by vectors of that model and revision"
            )
        if fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"the index was built with encoder {self.fingerprint[:12]}, this encoder is {fingerprint[:12]}; "
                "run: precedent export STUDIES --images ROOT --encoder ENCODER --out EMBEDDINGS && "
                "precedent index EMBEDDINGS --out INDEX"
            )

    def similar(self, study_id: str, k: int = 10, **options: Any) -> Answer:
        """Return the k studies most similar to a stored one; options and errors as of `Query` and `answer`."""
        return self.answer(Query(subject=Subject(study_id=study_id), k=k, **options))
