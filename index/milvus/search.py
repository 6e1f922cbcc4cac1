"""Search in a collection on a Milvus server, or in a file of Milvus Lite, that answers as one in a folder does.

Milvus finds candidates; similarities are computed here from the vectors it keeps, and ties and patients are settled
here, so that answers are those of every other backend.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from index.errors import ArtefactError, BeyondBackend, StudyNotFound, VectorsError
from index.milvus.address import MilvusAddress
from index.milvus.client import BUILD_SECONDS, MilvusServer
from index.milvus.columns import DIGEST, KEY, PATIENT, VECTOR, as_vector, columns_of
from index.milvus.filters import ALL, all_of, among, any_of, as_expression, literal
from index.milvus.manifest import CONSISTENCIES, consistency_of, manifest_of
from index.milvus.recall import search_params
from index.search.answer import Answer, Hit, Query
from index.search.retriever import SLACK, Fetched, first_k, similarities_of
from index.search.searchable import Searchable, Stored
from index.table.studies import Study, label_names
from index.vectors import Embeddings, as_embeddings

MOST_FETCHED = 16_384
"""Studies that Milvus gives in one answer."""


class MilvusSearch(Searchable):
    """What an address meant when it was opened. Safe under threads; a search sees all acknowledged changes of this
    process, and those of others as its `consistency` says."""

    def __init__(self, address: MilvusAddress, token: str = "") -> None:
        """Open a collection.

        Raises:
            NotOnMilvus: it is not there. ArtefactError: it is half filled or not ours.
            BackendUnavailable: the server does not answer. CollectionError: pymilvus is missing.
        """
        self.address = address
        self._server = MilvusServer(address, token)
        described = self._described = self._server.call("describe_collection", address.collection)
        self._name: str = described["collection_name"]  # an alias that is moved later changes no search of this one
        self.manifest = manifest_of(described, address)
        self.fingerprint = self.manifest["fingerprint"]
        self.embedding_dim = self.manifest["embedding_dim"]
        self.consistency = consistency_of(self.manifest)
        """One of CONSISTENCIES."""
        self._level = CONSISTENCIES[self.consistency]
        self._columns = columns_of(self.manifest, address)
        self._labels = label_names(self._columns.schema)
        self._server.call("load_collection", self._name, seconds=BUILD_SECONDS)

    def now(self) -> Self:
        """Return another view of the collection, which others may have changed meanwhile."""
        return copy(self)

    def close(self) -> None:
        """Let go of the server."""
        self._server.close()

    @property
    def built_at(self) -> str | None:
        """When it was built, ISO 8601 in UTC."""
        return str(self.manifest["built_at"])

    @property
    def schema(self) -> Any:
        """The Arrow schema of the studies."""
        return self._columns.schema

    def __len__(self) -> int:
        return self._count("")

    def stored(self, study_id: str) -> Stored:
        """Return a stored study with its vector. Raises StudyNotFound."""
        entity = self._entity(study_id)
        return Stored(Study.from_row(self._columns.as_row(entity), self._labels), as_vector(entity))

    def answer(self, query: Query) -> Answer:
        """Return the most similar studies that pass, most similar first, ties by study_id; as `Searchable` says.

        Raises, beside that, BeyondBackend: more studies would have to be fetched than Milvus gives.
        """
        query, vector = self.resolved(query)
        wanted = ALL if not query.where else as_expression(query.where, self._columns)
        patient = query.subject.patient_id if query.exclude_same_patient else None
        excluded = {PATIENT: patient, KEY: query.subject.study_id}
        left = {field: value for field, value in excluded.items() if value is not None and _is_text(value)}
        passing = all_of([wanted, *(f"{field} != {literal(value)}" for field, value in left.items())])
        matched = self._matched(wanted, passing, left)
        rows, similarities, exact = first_k(
            lambda count, exactly: self._fetch(vector, passing, count, exactly),
            query,
            start=query.k + SLACK,
            passing=matched,
        )
        near = [
            (Study.from_row(self._columns.as_row(entity), self._labels), float(similarity))
            for entity, similarity in zip(rows, similarities, strict=True)
            if query.min_similarity is None or similarity >= query.min_similarity
        ]
        hits = [Hit(rank, similarity, study) for rank, (study, similarity) in enumerate(near, start=1)]
        return Answer(hits, matched, exact, self.fingerprint)

    def _fetch(self, vector: npt.NDArray[np.float32], passing: str, count: int, exact: bool) -> Fetched:
        """Return so many of the nearest, in the order of our own similarities."""
        if count > MOST_FETCHED:
            raise BeyondBackend(
                f"expected a search that {MOST_FETCHED:,} studies can answer, the most that Milvus returns at a time; "
                "ask for fewer hits, or narrow the filter"
            )
        hits = self._hits([vector], passing, count, exact=exact, fields=("*",))[0]
        exact = exact or self.manifest["kind"] == "flat"
        entities = [dict(hit["entity"]) for hit in hits]
        if not entities:
            return Fetched(0, exact, np.empty(0, object), np.empty(0), np.empty(0, object))
        similarities = similarities_of(self._vectors_of(entities), vector)
        order = sorted(range(len(entities)), key=lambda hit: (-similarities[hit], entities[hit][KEY]))
        ordered = np.array([entities[hit] for hit in order], dtype=object)
        patients = np.array([entity[PATIENT] for entity in ordered])
        return Fetched(len(entities), exact, ordered, similarities[order], patients)

    def _hits(
        self,
        vectors: Sequence[Any],
        passing: str,
        count: int,
        *,
        exact: bool = False,
        fields: Sequence[str] = (PATIENT,),
    ) -> list[list[Any]]:
        """Return the hits of each query as pymilvus has them, the nearest first by its own reckoning."""
        probes = self.manifest["lists"] if exact and self.manifest["probes"] else self.manifest["probes"]
        answered = self._server.call(
            "search",
            self._name,
            data=list(vectors),
            anns_field=VECTOR,
            limit=count,
            output_fields=list(fields),
            filter="" if passing == ALL else passing,
            search_params=search_params(probes),
            consistency_level=self._level,
        )
        answers = [list(hits) for hits in answered]
        if len(answers) != len(vectors) or any(len(hits) > count for hits in answers):
            raise self._nonsense(f"{len(answers)} answers of up to {max(map(len, answers), default=0)} hits")
        return answers

    def _matched(self, wanted: str, passing: str, left: Mapping[str, str]) -> int:
        """Return how many pass; without a filter by counting what is left out, which is few."""
        if wanted != ALL:
            return self._count(passing)
        out = any_of(f"{field} == {literal(value)}" for field, value in left.items())
        return self._count("") - (self._count(out) if left else 0)

    def _vectors_of(self, entities: Sequence[Mapping[str, Any]]) -> Embeddings:
        """Return the vectors (N, D) of what the server gave, if these are studies at all. Raises ArtefactError."""
        for entity in entities:
            if not (isinstance(entity.get(KEY), str) and entity[KEY] and isinstance(entity.get(PATIENT), str)):
                raise self._nonsense("a row without a study or a patient")
        try:
            return as_embeddings([entity.get(VECTOR) or () for entity in entities], self.embedding_dim)
        except VectorsError as error:
            raise self._nonsense(f"a vector that is none of this collection ({error})") from error

    def _nonsense(self, nonsense: str) -> ArtefactError:
        return ArtefactError(
            f"Milvus answered for {str(self.address)!r} with {nonsense}; run: precedent verify {self.address}"
        )

    def _count(self, expression: str) -> int:
        counted = list(self._asked(expression, ("count(*)",)))
        if len(counted) != 1 or not isinstance(counted[0].get("count(*)"), int) or counted[0]["count(*)"] < 0:
            raise self._nonsense("no count")
        return int(counted[0]["count(*)"])

    def _entity(self, study_id: str) -> dict[str, Any]:
        entities = self._query(among(KEY, [study_id])) if _is_text(study_id) else []
        if not entities:
            raise StudyNotFound(f"no study {study_id!r} in this index")
        self._vectors_of(entities[:1])
        if entities[0][KEY] != study_id:
            raise self._nonsense(f"study {entities[0][KEY]!r} where {study_id!r} was asked for")
        return entities[0]

    def _query(self, expression: str, fields: Sequence[str] = ("*",)) -> list[dict[str, Any]]:
        return list(map(dict, self._asked(expression, fields, limit=MOST_FETCHED)))

    def _asked(self, expression: str, fields: Sequence[str], **options: Any) -> Any:
        return self._server.call(
            "query", self._name, filter=expression, output_fields=list(fields), consistency_level=self._level, **options
        )

    def entities(self) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float32], str]]:
        """Yield row, vector (D,) and digest of every study, for who looks all of them over."""
        iterator = self._server.call(
            "query_iterator", self._name, batch_size=500, filter="", output_fields=["*"], consistency_level="Strong"
        )
        try:
            while batch := self._next(iterator):
                for entity in batch:
                    yield self._columns.as_row(entity), as_vector(entity), str(entity[DIGEST])
        finally:
            iterator.close()

    def _next(self, iterator: Any) -> list[Any]:
        with self._server.telling():
            return list(iterator.next())

    def digest(self, row: Mapping[str, Any], vector: npt.NDArray[np.float32]) -> str:
        """Return what was kept as the digest of such a row and vector."""
        return self._columns.digest(row, vector)


def _is_text(value: str) -> bool:
    """Half a surrogate pair is in no collection, and no message can hold it."""
    return not any("\ud800" <= character <= "\udfff" for character in value)
