"""What answers a request: a mounted collection, the embedder of its vectors, the folder of its films.

A request looks it up once and keeps it, so that another may take its place; it knows no other HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from index.built.map import CollectionMap
from index.living.additions import Writable
from index.search.searchable import Answer, Searchable
from index.table.filters import require_filter
from service.api.answers import shown_columns
from service.api.requests import Search, SearchOptions
from service.context import running
from service.errors import CollectionNotFound, NotWritable
from service.guard import disclosure
from service.served.embedder import Embedder
from service.watch.requests import stage


@dataclass(frozen=True)
class Finder:
    """One collection under its name, and the encoder whose vectors it holds."""

    name: str
    retriever: Searchable
    embedder: Embedder
    image_root: Path | None = None
    """The folder that the studies' paths are relative to; None serves no films."""
    reader: Any = None
    """A `service.served.film_reader.Reader`, which brings torch with it; None only finds."""
    map: CollectionMap | None = None
    built_at: str | None = None
    """When the index was written, ISO 8601 in UTC."""
    trained: bool | None = None
    """Whether the encoder was; None where that is not known."""
    warning: str | None = None
    """Why neighbours are not to be relied on, and what to do."""

    @property
    def fingerprint(self) -> str:
        """Of the encoder whose vectors the collection holds."""
        return self.retriever.fingerprint

    @property
    def rows(self) -> int:
        """Studies that can be found."""
        return len(self.retriever)

    @property
    def columns(self) -> list[str]:
        """The columns that a request may name, in a filter or as a finding: those that answers show."""
        return shown_columns(self.retriever.columns)

    @property
    def tombstones(self) -> int:
        """Rows that are stored and can no longer be found."""
        return len(self.retriever.moved)

    @property
    def living(self) -> Writable:
        """The collection, to be changed. Raises NotWritable where it is in memory alone."""
        if not isinstance(self.retriever, Writable):
            raise NotWritable(f"collection {self.name!r} cannot be changed; serve it from a folder")
        return self.retriever

    def has(self, study_id: str) -> bool:
        """Return whether the collection holds a study of that name."""
        return study_id in self.retriever

    def embed(
        self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the (D,) unit vector of the given films, the frontal's projection known or not."""
        known = () if projection is None else (projection,)
        return self.embedder.embed_study(frontal, lateral, *known)

    def look(self, search: Search) -> Any:
        """Return what a search's films come to, a `service.served.film_reader.Look`; None without films or a reader."""
        films = search.study_id is None and search.embedding is None
        return self.reader.look(search.frontal, search.lateral) if films and self.reader is not None else None

    def find(self, search: Search, vector: npt.NDArray[np.float32] | None = None) -> Answer:
        """Return the nearest studies of a stored study, of a vector, or of films, whose vector may be at hand.

        Raises:
            TooManyRequests, Forbidden: `service.guard.disclosure` lets the token ask no more, or not for so many hits.
        """
        if search.study_id is not None:
            return self.similar(search.study_id, search)
        shared = self._shared(search)
        if search.embedding is not None:
            query = np.asarray(search.embedding, dtype=np.float32)
        else:
            query = self.embed(search.frontal, search.lateral) if vector is None else vector
        disclosure.count(search.frontal, search.lateral)
        patient = search.patient_id if search.exclude_same_patient else None
        with stage("search"):
            answer = self.retriever.search(query, exclude_patient=patient, **shared)
        return disclosure.told(answer, search.min_similarity)

    def similar(self, study_id: str, options: SearchOptions) -> Answer:
        """Return the nearest studies of the stored study `study_id`; raises as `find`."""
        shared = self._shared(options)
        disclosure.count(self.name, self.retriever.study(study_id).study_id)
        with stage("search"):
            answer = self.retriever.similar(study_id, exclude_same_patient=options.exclude_same_patient, **shared)
        return disclosure.told(answer, options.min_similarity)

    def familiarity(
        self, answer: Answer, asked: SearchOptions, layouts: Sequence[Any] = (), patient: str | None = None
    ) -> dict[str, Any] | None:
        """Return how near the query is to the collection; None without a reader, or where nothing can be said.

        The nearest hit says it only where the search left out nothing but the query's own patient.
        """
        if self.reader is None:
            return None
        whole = asked.exclude_same_patient and not asked.filter
        nearest = answer.hits[0].similarity if answer.hits and whole else None
        found: dict[str, Any] | None = self.reader.familiarity(nearest, layouts, patient)
        return found

    def _shared(self, options: SearchOptions) -> dict[str, Any]:
        """Return a search's options. Raises FilterError; a column that answers do not show counts as none."""
        disclosure.require_hits(options.k)
        if options.filter:
            require_filter(options.filter, self.retriever.schema, self.columns)
        return {
            "k": options.k,
            "where": options.filter,
            "group_by": options.group_by,
            "min_similarity": disclosure.floor_of(options.min_similarity),
            "exact": options.exact,
        }


@dataclass(frozen=True)
class Mounted:
    """The collections that are served, each under a name of its own, all of one encoder."""

    finders: tuple[Finder, ...]
    """At least one; the first answers where a request names no collection."""

    @property
    def names(self) -> list[str]:
        """The names, the default one first."""
        return [finder.name for finder in self.finders]

    def finder(self, collection: str | None = None) -> Finder:
        """Return the finder of a name, or the first. Raises CollectionNotFound."""
        if collection is None:
            return self.finders[0]
        for finder in self.finders:
            if finder.name == collection:
                return finder
        raise CollectionNotFound(f"no collection {collection!r} is mounted; there are: {', '.join(self.names)}")


class Served:
    """What is served at the moment; a request looks it up once, so that another may take its place meanwhile."""

    def __init__(self, now: Mounted) -> None:
        """Begin with these collections."""
        self.now = now


def mounted() -> Mounted:
    """Return the collections that the running application serves now."""
    served: Served = running().served
    return served.now


def current(collection: str | None = None) -> Finder:
    """Return the finder of a mounted collection, or of the first. Raises CollectionNotFound."""
    return mounted().finder(collection)
