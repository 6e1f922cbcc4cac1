"""Search in a collection on a server that answers as one in a folder does.

The server finds candidates; similarities are computed here from the vectors it keeps, and ties and patients are settled
here, so that answers are those of every other backend.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from index.built.regions import require_maps
from index.engines.address import ServerAddress
from index.engines.columns import KEY, PATIENT, Columns
from index.errors import ArtefactError, StudyNotFound, VectorsError
from index.search.answer import Answer, Hit, Query
from index.search.retriever import SLACK, Fetched, first_k, similarities_of
from index.search.searchable import Searchable, Stored
from index.table.filters import Where
from index.table.studies import Study, label_names
from index.vectors import Embeddings, as_embeddings

Entity = Mapping[str, Any]
"""A study as an engine gives it, with its vector."""
Passing = TypeVar("Passing")
"""Which studies pass, as an engine says it."""


class EngineSearch(Searchable, Generic[Passing]):
    """What an address meant when it was opened. Safe under threads."""

    address: ServerAddress
    _columns: Columns

    def _take(self, manifest: dict[str, Any], columns: Columns) -> None:
        """Take what the server says of the collection."""
        self.manifest, self._columns = manifest, columns
        self.fingerprint = manifest["fingerprint"]
        self.embedding_dim = manifest["embedding_dim"]
        self._labels = label_names(columns.schema)

    @abstractmethod
    def _narrowed(self, where: Where | None, left: Mapping[str, str]) -> tuple[Passing, int]:
        """Return what passes a filter and has none of these values in these fields, and how many do."""

    @abstractmethod
    def _near(
        self, vector: npt.NDArray[np.float32], passing: Passing, count: int, exact: bool
    ) -> tuple[Sequence[Entity], bool]:
        """Return so many of the nearest that pass, and whether all were compared. Raises BeyondBackend."""

    @abstractmethod
    def _with_ids(self, study_ids: Sequence[str]) -> Sequence[Entity]:
        """Return the studies of those ids that are there."""

    @abstractmethod
    def _row(self, entity: Entity) -> dict[str, Any]:
        """Return the row of the studies table that an entity holds."""

    @abstractmethod
    def _vector(self, entity: Entity) -> Any:
        """Return the numbers that an entity has for a vector; () where it has none."""

    def now(self) -> Self:
        """Return another view of the collection, which others may have changed meanwhile."""
        return copy(self)

    @property
    def built_at(self) -> str | None:
        """When it was built, ISO 8601 in UTC."""
        return str(self.manifest["built_at"])

    @property
    def schema(self) -> Any:
        """The Arrow schema of the studies."""
        return self._columns.schema

    def stored(self, study_id: str) -> Stored:
        """Return a stored study with its vector. Raises StudyNotFound."""
        entity = self._entity(study_id)
        return Stored(self._study(entity), self._vectors_of([entity])[0])

    def answer(self, query: Query) -> Answer:
        """Return the most similar studies that pass, most similar first, ties by study_id; as `Searchable` says.

        Raises, beside that, BeyondBackend: more studies would have to be fetched than the server gives.
        """
        query, vector = self.resolved(query)
        if query.region is not None:
            require_maps(None)
        patient = query.subject.patient_id if query.exclude_same_patient else None
        excluded = {PATIENT: patient, KEY: query.subject.study_id}
        left = {field: value for field, value in excluded.items() if value is not None and is_text(value)}
        passing, matched = self._narrowed(query.where, left)
        rows, similarities, exact = first_k(
            lambda count, exactly: self._fetch(vector, passing, count, exactly),
            query,
            start=query.k + SLACK,
            passing=matched,
        )
        near = [
            (self._study(entity), float(similarity))
            for entity, similarity in zip(rows, similarities, strict=True)
            if query.min_similarity is None or similarity >= query.min_similarity
        ]
        hits = [Hit(rank, similarity, study) for rank, (study, similarity) in enumerate(near, start=1)]
        return Answer(hits, matched, exact, self.fingerprint)

    def _fetch(self, vector: npt.NDArray[np.float32], passing: Passing, count: int, exact: bool) -> Fetched:
        """Return so many of the nearest, in the order of our own similarities."""
        entities, exact = self._near(vector, passing, count, exact)
        if not entities:
            return Fetched(0, exact, np.empty(0, object), np.empty(0), np.empty(0, object))
        similarities = similarities_of(self._vectors_of(entities), vector)
        order = sorted(range(len(entities)), key=lambda hit: (-similarities[hit], entities[hit][KEY]))
        ordered = np.empty(len(order), dtype=object)
        ordered[:] = [entities[hit] for hit in order]
        patients = np.array([entity[PATIENT] for entity in ordered])
        return Fetched(len(entities), exact, ordered, similarities[order], patients)

    def _study(self, entity: Entity) -> Study:
        row = self._row(entity)
        if (fault := self.fault_of(row)) is not None:
            raise self._nonsense(f"something else than its type in column {fault!r}")
        return Study.from_row(row, self._labels)

    def _vectors_of(self, entities: Sequence[Entity]) -> Embeddings:
        """Return the vectors (N, D) of what the server gave, if these are studies at all. Raises ArtefactError."""
        for entity in entities:
            if not (isinstance(entity.get(KEY), str) and entity[KEY] and isinstance(entity.get(PATIENT), str)):
                raise self._nonsense("a row without a study or a patient")
        try:
            return as_embeddings([self._vector(entity) for entity in entities], self.embedding_dim)
        except VectorsError as error:
            raise self._nonsense(f"a vector that is none of this collection ({error})") from error

    def _entity(self, study_id: str) -> Entity:
        entities = self._with_ids([study_id]) if is_text(study_id) else []
        if not entities:
            raise StudyNotFound(f"no study {study_id!r} in this index")
        self._vectors_of(entities[:1])
        if entities[0][KEY] != study_id:
            raise self._nonsense(f"study {entities[0][KEY]!r} where {study_id!r} was asked for")
        return entities[0]

    def _nonsense(self, nonsense: str) -> ArtefactError:
        return ArtefactError(
            f"{self.address.engine} answered for {str(self.address)!r} with {nonsense}; run: precedent verify "
            f"{self.address}"
        )

    def fault_of(self, row: Mapping[str, Any]) -> str | None:
        """Return the first column of a row that holds what its type does not; None without one."""
        return self._columns.fault_of(row)

    def digest(self, row: Mapping[str, Any], vector: npt.NDArray[np.float32]) -> str:
        """Return what was kept as the digest of such a row and vector."""
        return self._columns.digest(row, vector)


def is_text(value: str) -> bool:
    """Half a surrogate pair is in no collection, and no message can hold it."""
    return not any("\ud800" <= character <= "\udfff" for character in value)
