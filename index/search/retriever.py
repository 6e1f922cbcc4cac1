"""Similar-case search: filters, patient rules and ties on top of a collection."""

import hashlib
import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from collections.abc import Collection as Several
from copy import copy
from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from threading import Lock
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from cachetools import LRUCache, cached

from index.built.collection import Collection, load_collection
from index.built.pairs import PairShares
from index.built.regions import CANDIDATES, WHOLE_WEIGHT, Region, RegionPlace, require_maps
from index.built.vector_index import Selection
from index.errors import RegionError, StudyNotFound
from index.search.answer import Answer, Hit, Query
from index.search.searchable import Choices, Searchable, Stored
from index.table.filters import Where, filter_mask
from index.table.studies import Study, label_names
from index.vectors import Embeddings, Rows

Similar = npt.NDArray[np.float64]
SIMILARITY_DECIMALS = 6
"""Similarities that agree to six decimals are a tie; float32 sums differ in the seventh."""
SLACK = 16
"""Rows fetched beyond the k wanted, so that ties at the end and a patient's further studies seldom cost a second."""
_REMEMBERED_BYTES = 1 << 26
"""Of the filters asked last, as what passes them: some 260 of 224,000 rows."""
_BLOCK = 8192
"""Rows whose vectors are compared at a time: 17 MB of 512 dimensions, and 34 in double precision."""


class Fetched(NamedTuple):
    """Rows that pass: most similar first, ties by study_id."""

    came: int
    """How many came back, those left out since included."""
    exact: bool
    """Whether every row was compared for them."""
    rows: npt.NDArray[Any]
    """(n,) of whatever names a row."""
    similarities: Similar
    """(n,) rounded."""
    patients: npt.NDArray[Any]
    """(n,) of whatever names a patient."""


class Names:
    """Distinct names, each with its position in the order given.

    Their sorted order is searched, which takes 8 bytes a name where a dictionary takes 150.
    """

    def __init__(self, names: pa.StringArray) -> None:
        """Take (N,) names."""
        self._names = names
        self._order = pc.sort_indices(names)  # by code points, as Python compares

    def position(self, name: str) -> int | None:
        """Return the position of a name, 0 to N - 1; None where it is not among them."""
        place = bisect_left(self._order, name, key=self._name_at)
        if place == len(self._order) or self._name_at(self._order[place]) != name:
            return None
        return int(self._order[place].as_py())

    def behind(self, name: str) -> int:
        """Return how many of the names, in sorted order, are that name or before it."""
        return bisect_right(self._order, name, key=self._name_at)

    @property
    def order(self) -> npt.NDArray[np.uint64]:
        """The positions (N,) in the order of the names."""
        return np.asarray(self._order)

    def ranks(self) -> npt.NDArray[np.int64]:
        """Return the rank (N,) of each name in sorted order, from 0."""
        ranks = np.empty(len(self._order), dtype=np.int64)
        ranks[self._order.to_numpy()] = np.arange(len(self._order))
        return ranks

    def _name_at(self, place: pa.UInt64Scalar) -> str:
        return str(self._names[place.as_py()].as_py())


class Retriever(Searchable):
    """Searches one collection. Immutable, and safe under threads."""

    def __init__(self, collection: Collection) -> None:
        self._studies = collection.studies
        self._labels = label_names(collection.studies.schema)
        self._vectors, self._regions = collection.vectors, collection.regions
        self.manifest = collection.manifest
        self._pairs = PairShares.said(collection.manifest)
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
        positions = {study_id: self._ids.position(study_id) for study_id in study_ids}
        gone = {study_id: row for study_id, row in positions.items() if row is not None}
        fewer._moved = self._moved.union(gone)
        fewer._left_out = np.union1d(self._left_out, np.array(list(gone.values()), dtype=np.int64))
        return fewer

    def __len__(self) -> int:
        return self._studies.num_rows - len(self._left_out)

    def __contains__(self, study_id: str) -> bool:
        return study_id not in self._moved and self._ids.position(study_id) is not None

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

    def stored(self, study_id: str) -> Stored:
        """Return a stored study with its vector. Raises StudyNotFound."""
        row = self._row(study_id)
        [study] = Study.from_table(self._studies.slice(row, 1), self._labels)
        return Stored(study, self._vectors.vectors(np.array([row]))[0])

    def listed(self, text: str = "", columns: Iterable[str] = (), *, after: str = "", limit: int = 20) -> list[Study]:
        """Return the first studies behind an id that begin with a text; as `Searchable` says."""
        rows = self._ids.order[self._ids.behind(after) :]
        wanted = _begins(self._studies, text, columns)
        wanted[self._left_out] = False
        rows = rows[wanted[rows]][:limit]
        return list(Study.from_table(self._studies.take(rows), self._labels))

    def answer(self, query: Query) -> Answer:
        """Return the most similar studies that pass, most similar first, ties by study_id; as `Searchable` says."""
        query, vector = self.resolved(query)
        among = None if not query.where else self._selection(query.where)
        excluded = self._excluded(query)
        passing = self._studies.num_rows if among is None else among.passing
        matched = passing - (len(excluded) if among is None else int(among.mask[excluded].sum()))
        region = None if query.region is None else self.filled(query.region, query.subject.study_id)
        if region is None:
            asked = query
        else:  # a patient's first by the whole film need not be the first by the region
            asked = replace(query, k=max(passing, 1) if query.exact else max(CANDIDATES, query.k), group_by=None)
        rows, similarities, exact = self._nearest(asked, vector[None], among, excluded, passing)
        if query.min_similarity is not None:
            rows = rows[similarities >= query.min_similarity]
        places: list[RegionPlace] = []
        similarities, missing = similarities[: len(rows)], 0
        if region is not None:
            exact = exact and len(rows) == matched
            order, places, missing = self._by_region(query, region, rows, similarities)
            rows, similarities = rows[order], similarities[order]
        studies = Study.from_table(self._studies.take(rows), self._labels)
        hits = [
            Hit(rank, float(similarity), study, places[rank - 1] if places else None)
            for rank, (study, similarity) in enumerate(zip(studies, similarities, strict=True), start=1)
        ]
        pairs = self._pairs if region is None else None
        return Answer(hits, matched, exact, self.fingerprint, pairs=pairs, regions_missing=missing)

    def _nearest(
        self, query: Query, vector: Embeddings, among: Selection | None, excluded: Rows, passing: int
    ) -> tuple[Rows, Similar, bool]:
        """Return the first k rows that pass, their similarities, and whether every row was compared."""

        def fetch(count: int, exactly: bool) -> Fetched:
            exact = self._vectors.is_exact(exactly, among)
            near = self._vectors.search(vector, count, among=among, exact=exactly)[1][0]
            near = near[near >= 0]
            rows, similarities = self._ordered(vector, _without(near, excluded))
            return Fetched(len(near), exact, rows, similarities, self._patients[rows])

        start = query.k + len(excluded) - len(self._left_out) + SLACK
        return first_k(fetch, query, start=start, passing=passing)

    def filled(self, region: Region, study_id: str | None) -> Region:
        """Return a region with its film's map, that of a stored study where it has none.

        Raises:
            RegionsMissing: none is kept, of any film or of that one. RegionError: it is of no film. StudyNotFound.
        """
        maps = require_maps(self._regions)
        if region.film_map is not None:
            return region
        if study_id is None:
            raise RegionError("expected a film or a stored study with a region, got a vector or a text")
        return maps.of_row(region, self._row(study_id))

    def _by_region(
        self, query: Query, region: Region, rows: Rows, similarities: Similar
    ) -> tuple[Rows, list[RegionPlace], int]:
        """Return the positions of the first k of `rows` by their most similar place, the places, and how many had none.

        Args:
            similarities: (n,) of the whole films.
        """
        near, boxes = require_maps(self._regions).places(region, rows)
        scores = np.round(near + WHOLE_WEIGHT * similarities, SIMILARITY_DECIMALS)
        order = np.lexsort((self._id_order[rows], -scores))
        order = order[~np.isnan(scores[order])]
        if query.group_by == "patient":
            order = order[_first_of_patients(self._patients[rows[order]])]
        first = order[: query.k]
        places = [
            RegionPlace(region.view, tuple(boxes[position].tolist()), float(near[position])) for position in first
        ]
        return first, places, int(np.isnan(scores).sum())

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

    def _excluded(self, query: Query) -> Rows:
        """Return, ascending, the rows left out and, where known, those of the query's own patient and study."""
        rows, patient, study = self._left_out, query.subject.patient_id, query.subject.study_id
        if query.exclude_same_patient and patient is not None and (code := self._codes.position(patient)) is not None:
            rows = np.union1d(rows, self._by_patient[self._starts[code] : self._starts[code + 1]])
        if study is not None and (row := self._ids.position(study)) is not None:
            rows = np.union1d(rows, row)
        return rows

    def _row(self, study_id: str) -> int:
        row = None if study_id in self._moved else self._ids.position(study_id)
        if row is None:
            raise StudyNotFound(f"no study {study_id!r} in this index")
        return row


def _begins(studies: pa.Table, text: str, columns: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Return which studies (N,) `Searchable.listed` is asked for."""
    if not text:
        return np.ones(studies.num_rows, dtype=bool)
    begins = np.zeros(studies.num_rows, dtype=bool)
    labels = set(label_names(studies.schema))
    for name in dict.fromkeys(["study_id", *columns]):
        if name in labels:
            found = pc.equal(studies[name], 1) if name.lower().startswith(text.lower()) else None
        else:
            texts = _texts(studies[name])
            found = None if texts is None else pc.starts_with(texts, text, ignore_case=True)
        if found is not None:
            begins |= pc.fill_null(found, False).to_numpy()
    return begins


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return column.cast(pa.string()) if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _without(rows: Rows, excluded: Rows) -> Rows:
    """Return the rows that are not among `excluded`, which ascend; for a few rows in a fifth of `np.isin`'s time."""
    if not len(excluded):
        return rows
    return rows[excluded.take(np.searchsorted(excluded, rows), mode="clip") != rows]


def similarities_of(vectors: npt.NDArray[np.float32], query: npt.NDArray[np.float32]) -> Similar:
    """Return the cosines of stored vectors (n, D) to a query (D,), recomputed alike whatever found them."""
    return np.round(vectors.astype(np.float64) @ query.astype(np.float64), SIMILARITY_DECIMALS)


def first_k(
    fetch: Callable[[int, bool], Fetched], query: Query, *, start: int, passing: int
) -> tuple[npt.NDArray[Any], Similar, bool]:
    """Return the first k rows and their similarities, and whether every row was compared.

    Fetches ever more rows until nothing unfetched could still be among the first k.

    Args:
        fetch: gives so many of the nearest that pass, or all there are; exactly where its second argument says so.
        start: rows to begin with.
        query: whose `k` and `group_by` say which are kept.
        passing: rows that pass.
    """
    k, one_a_patient, exact = query.k, query.group_by == "patient", query.exact
    count = min(start, passing)
    while count:
        fetched = fetch(count, exact)
        if fetched.came < count and not fetched.exact:  # the approximate way ran dry before the rows did
            exact = True
            continue
        kept = _first_of_patients(fetched.patients) if one_a_patient else np.arange(len(fetched.rows))
        settled = len(kept) >= k and fetched.similarities[kept[k - 1]] > fetched.similarities[-1]
        if settled or count >= passing or fetched.came < count:
            return fetched.rows[kept[:k]], fetched.similarities[kept[:k]], fetched.exact
        count = min(4 * count, passing)
    return np.empty(0, np.int64), np.empty(0), True


def _first_of_patients(patients: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.sort(np.unique(patients, return_index=True)[1])


def _digest(where: Where) -> bytes:
    """Return what a filter is remembered under, 32 bytes however long it is; what is no JSON, the filter refuses."""
    return hashlib.sha256(json.dumps(where, default=repr).encode()).digest()
