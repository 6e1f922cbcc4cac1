"""Similar-case search: filters, patient rules and ties on top of a collection."""

import hashlib
import json
import os
from collections.abc import Collection as Several
from collections.abc import Mapping
from copy import copy
from functools import cached_property
from operator import attrgetter
from threading import Lock
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache, cached

from index.built.collection import Collection, load_collection
from index.built.vector_index import Rows, Selection
from index.errors import StudyNotFound
from index.search.first_k import SIMILARITY_DECIMALS, SLACK, Fetched, first_k, require_options, similarities_of
from index.search.searchable import Answer, Choices, Hit, Searchable
from index.search.sorted_names import Names
from index.table.filters import Where, filter_mask
from index.table.studies import Study, label_names
from index.vectors import Embeddings, as_embedding

__all__ = ["SIMILARITY_DECIMALS", "Answer", "Hit", "Retriever"]

_REMEMBERED_BYTES = 1 << 26
"""Of the filters asked last, as what passes them: some 260 of 224,000 rows."""
_BLOCK = 8192
"""Rows whose vectors are compared at a time: 17 MB of 512 dimensions, and 34 in double precision."""


class Retriever(Searchable):
    """Searches one collection. Immutable, and safe under threads."""

    def __init__(self, collection: Collection) -> None:
        self._studies = collection.studies
        self._labels = label_names(collection.studies.schema)
        self._vectors = collection.vectors
        self.manifest = collection.manifest
        self.fingerprint: str = collection.manifest["fingerprint"]
        self.embedding_dim = collection.vectors.embedding_dim
        self._ids = Names(collection.studies["study_id"].combine_chunks())
        self._id_order = self._ids.ranks()
        patients = collection.studies["patient_id"].combine_chunks().dictionary_encode()
        self._patients = patients.indices.to_numpy()
        self._by_patient = np.argsort(self._patients, kind="stable")
        self._starts = np.searchsorted(self._patients[self._by_patient], np.arange(len(patients.dictionary) + 1))
        self._remembered = LRUCache[bytes, Selection](_REMEMBERED_BYTES, attrgetter("nbytes"))
        self._selection = cached(self._remembered, _digest, Lock())(self._select)
        self._codes = Names(patients.dictionary)
        self._moved: frozenset[str] = frozenset()
        self._left_out = np.empty(0, dtype=np.int64)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Return the retriever of a collection on disk. Raises ArtefactError."""
        return cls(load_collection(folder))

    def without(self, study_ids: Several[str]) -> Self:
        """Return a retriever that no longer finds those studies of the collection, nor any left out before.

        It shares all the rest with this one, so it costs nothing that grows with the collection.
        """
        fewer = copy(self)
        places = {one: self._ids.place(one) for one in study_ids}
        gone = {one: row for one, row in places.items() if row is not None}
        fewer._moved = self._moved.union(gone)
        fewer._left_out = np.union1d(self._left_out, np.array(list(gone.values()), dtype=np.int64))
        return fewer

    def __len__(self) -> int:
        return len(self._vectors) - len(self._left_out)

    def __contains__(self, study_id: str) -> bool:
        return study_id not in self._moved and self._ids.place(study_id) is not None

    @property
    def schema(self) -> Any:
        """The Arrow schema of the studies."""
        return self._studies.schema

    @property
    def choices(self) -> Choices:
        """What a reader can narrow by; a study that is left out counts still."""
        return self._choices

    @cached_property
    def _choices(self) -> Choices:
        return Choices.of(self._studies)

    @property
    def moved(self) -> frozenset[str]:
        """The studies of the collection that are left out."""
        return self._moved

    def study(self, study_id: str) -> Study:
        """Return a stored study. Raises StudyNotFound."""
        return self._study_at(self._row(study_id))

    def embedding(self, study_id: str) -> npt.NDArray[np.float32]:
        """Return the vector (D,) of a stored study. Raises StudyNotFound."""
        return self._vectors.vectors(np.array([self._row(study_id)]))[0]

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
        """Return the k most similar studies that pass, most similar first, ties by study_id; as `Searchable` says."""
        k = require_options(k, group_by)
        vector = as_embedding(query, self.embedding_dim)[None]
        among = None if not where else self._selection(where)
        excluded = self._excluded(exclude_patient, exclude_study)
        exact = self._vectors.is_exact(exact, among)
        rows, similarities, exact = self._nearest(vector, k, among, excluded, group_by == "patient", exact)
        if min_similarity is not None:
            rows = rows[similarities >= min_similarity]
        studies = (Study.from_row(row, self._labels) for row in self._studies.take(rows).to_pylist())
        hits = [
            Hit(rank, float(similarity), study)
            for rank, (study, similarity) in enumerate(zip(studies, similarities, strict=False), start=1)
        ]
        matched = (
            len(self._vectors) - len(excluded) if among is None else among.passing - int(among.mask[excluded].sum())
        )
        return Answer(hits, matched, exact)

    def _nearest(
        self, vector: Embeddings, k: int, among: Selection | None, excluded: Rows, one_a_patient: bool, exact: bool
    ) -> tuple[Rows, npt.NDArray[np.float64], bool]:
        """Return the first k rows that pass, their similarities, and whether every row was compared."""

        def fetch(count: int, exactly: bool) -> Fetched:
            found = self._vectors.search(vector, count, among=among, exact=exactly)[1][0]
            found = found[found >= 0]
            rows, similarities = self._ordered(vector, found[~np.isin(found, excluded)])
            return Fetched(len(found), rows, similarities, self._patients[rows])

        passing = len(self._vectors) if among is None else among.passing
        start = k + len(excluded) - len(self._left_out) + SLACK
        return first_k(fetch, k, start=start, passing=passing, one_a_patient=one_a_patient, exact=exact)

    def _ordered(
        self, vector: Embeddings, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return rows and their similarities, descending, ties by study_id; recomputed alike for every index kind."""
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
        similar = [similarities_of(self._vectors.vectors(block), vector[0]) for block in blocks]
        similarities = np.concatenate([np.empty(0), *similar])
        order = np.lexsort((self._id_order[rows], -similarities))
        return rows[order], similarities[order]

    def _select(self, where: Where) -> Selection:
        return self._vectors.select(filter_mask(where, self._studies))

    def _excluded(self, patient: str | None, study: str | None) -> Rows:
        """Return the rows left out, and those of a patient and of a study, where they are given and known."""
        rows = self._left_out
        if patient is not None and (code := self._codes.place(patient)) is not None:
            rows = np.union1d(rows, self._by_patient[self._starts[code] : self._starts[code + 1]])
        if study is not None and (row := self._ids.place(study)) is not None:
            rows = np.union1d(rows, row)
        return rows

    def _row(self, study_id: str) -> int:
        row = None if study_id in self._moved else self._ids.place(study_id)
        if row is None:
            raise StudyNotFound(f"no study {study_id!r} in this index")
        return row

    def _study_at(self, row: int) -> Study:
        columns: Mapping[str, Any] = self._studies.slice(int(row), 1).to_pylist()[0]
        return Study.from_row(columns, self._labels)


def _digest(where: Where) -> bytes:
    """Return what a filter is remembered under, 32 bytes however long it is; what is no JSON, the filter refuses."""
    return hashlib.sha256(json.dumps(where, default=repr).encode()).digest()
