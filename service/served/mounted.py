"""What answers a request: a mounted collection, the embedder of its vectors, the folder of its films.

A request looks it up once and keeps it, so that another may take its place meanwhile.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flask import has_app_context

from index.built.map import CollectionMap
from index.built.regions import Region
from index.errors import RegionError
from index.living.additions import Writable
from index.search.answer import Answer, Query, Subject
from index.search.familiarity import Familiarity
from index.search.searchable import Choices, Searchable
from index.search.summary import summary_of
from index.search.texts import UNTESTED, Texts
from index.table.filters import require_filter
from service.api.answers import shown_columns
from service.api.requests import Search
from service.context import running
from service.errors import CollectionNotFound, EncoderMissing, NotWritable, TextsMissing
from service.guard import disclosure
from service.served.embedder import Embedder, NoEmbedder
from service.served.remote import RemoteEmbedder
from service.watch.metrics import stage

Looked = tuple[Any, npt.NDArray[np.float32]]
"""A `service.served.film_reader.Look` at films, where they are read here, and the vector (D,)."""
SHOWN_TEXTS = 1000
"""Texts that are named."""


@dataclass(frozen=True)
class MountedCollection:
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

    texts: Texts | None = None
    """What can be searched by as text, with the vectors of the same model."""

    @property
    def text_names(self) -> list[str]:
        """The first texts that can be searched by."""
        return list(self.texts.rows)[:SHOWN_TEXTS] if self.texts is not None else []

    @property
    def embeds(self) -> bool:
        """Whether films can be turned into vectors."""
        return not isinstance(self.embedder, NoEmbedder)

    @property
    def explains(self) -> bool:
        """Whether heat maps of films can be computed: by an encoder whose network is here."""
        return self.reader is not None and self.reader.explains

    @property
    def regions(self) -> bool:
        """Whether feature maps of its films are kept, so that a part of a film can be searched by."""
        return self.retriever.manifest.get("regions") is not None

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
    def choices(self) -> Choices:
        """What a reader can narrow by."""
        return self.retriever.choices

    @property
    def kind(self) -> str | None:
        """Of its index."""
        kind: str | None = self.retriever.manifest.get("kind")
        return kind

    @property
    def recall_at_10(self) -> float | None:
        """Of its index against an exact one, measured when it was built."""
        recall: float | None = self.retriever.manifest.get("recall_at_10")
        return recall

    @property
    def consistency(self) -> str | None:
        """Of Milvus: when changes of other processes are found."""
        return getattr(self.retriever, "consistency", None)

    @property
    def tombstones(self) -> int:
        """Rows that are stored and can no longer be found."""
        return len(self.retriever.moved)

    @property
    def living(self) -> Writable:
        """The collection, to be changed. Raises NotWritable where it is in memory alone."""
        if not isinstance(self.retriever, Writable):
            raise NotWritable(f"collection {self.name!r} cannot be changed because it is not served from a folder")
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

    def look(self, frontal: bytes | None, lateral: bytes | None) -> Looked:
        """Return what the encoder makes of films.

        Raises:
            ImageError, Busy, ClientGone, EncoderMissing.
        """
        if self.reader is None:
            return None, self.embed(frontal, lateral)
        look = self.reader.look(frontal, lateral)
        return look, look.vector

    def answer(self, search: Search, look: Callable[["MountedCollection"], Looked] | None = None) -> Answer:
        """Return the studies most similar to a stored one, to a vector or to films, and what is said beside them.

        Args:
            look: looks at the search's films for a collection, where they are kept and may have been looked at before.

        Raises:
            FilterError: of a column that answers do not show, too. StudyNotFound, ImageError, VectorsError.
            TooManyRequests, Forbidden: `service.guard.disclosure` lets the token ask no more, or not for so many hits.
        """
        started = time.perf_counter()
        disclosure.require_hits(search.k)
        if search.filter:
            require_filter(search.filter, self.retriever.schema, self.columns)
        seen, vector = None, None
        region = None if search.region is None else Region.parse(search.region, search.region_view)
        part = () if search.region is None else (search.region,)
        if search.study_id is None:
            region = region and self._on_film(region, search)
            seen, vector = self._looked_at(search) if look is None else look(self)
        here = self.retriever.now()  # after the films are read, which takes longest
        if search.study_id is not None:
            study, vector = here.stored(search.study_id)
            disclosure.count(self.name, study.study_id, *part)
            subject = Subject(study.patient_id, study.study_id)
        else:
            disclosure.count(search.frontal, search.lateral, *filter(None, [search.text]), *part)
            subject = Subject(patient_id=search.patient_id)
        query = Query(
            vector,
            subject,
            search.k,
            search.filter,
            search.exclude_same_patient,
            search.group_by,
            disclosure.floor_of(search.min_similarity),
            search.exact,
            region,
        )
        with stage("search"):
            answered = self._asked(here, query, search)
        answer = disclosure.disclosed(answered, search.min_similarity)
        if self.judges and search.text is None:  # no text is as similar to films as films are to each other
            answer = answer.judged(self.reader.gate, query, seen.layouts if seen else ())
            if seen is not None:
                self.count_familiarity(answer.familiarity)
        notices = tuple(seen.notices) if seen else ()
        took_ms = round(1000 * (time.perf_counter() - started), 2)
        untested = None
        if search.text is not None:
            untested, answer = UNTESTED, replace(answer, pairs=None)
        warning = " ".join(filter(None, (untested, self.warning))) or None
        summary = summary_of(answer.hits, query)
        return replace(answer, film_notices=notices, summary=summary, warning=warning, took_ms=took_ms)

    @property
    def judges(self) -> bool:
        """Whether it can be said how familiar films are."""
        return self.reader is not None

    def _asked(self, here: Searchable, query: Query, search: Search) -> Answer:
        """Return what the collection answers to a query that a search has become."""
        return here.answer(query)

    def count_familiarity(self, familiarity: Familiarity | None) -> None:
        """Count how familiar films that were asked about are, for who watches whether films have changed."""
        if familiarity is not None and has_app_context():
            running.metrics.asked_about(self.name, familiarity.percentile)

    def _looked_at(self, search: Search) -> Looked:
        """Return a look at what is searched by, where it is films, and its vector."""
        if search.embedding is not None:
            return None, np.asarray(search.embedding, dtype=np.float32)
        if search.text is not None:
            return None, self._vector_of_text(search.text)
        return self.look(search.frontal, search.lateral)

    def _on_film(self, region: Region, search: Search) -> Region:
        """Return a region on the film sent. Raises RegionError: that was not. EncoderMissing, ImageError, Busy."""
        film = {"frontal": search.frontal, "lateral": search.lateral}[region.view]
        if film is None:
            raise RegionError(f"expected the {region.view} film, of which the region is a part, got none")
        if self.reader is None:
            raise EncoderMissing("a region of a film needs the encoder's file; ask about a part of a stored study")
        on_film: Region = self.reader.on_film(region, film)
        return on_film

    def _vector_of_text(self, text: str) -> npt.NDArray[np.float32]:
        """Return the vector (D,) of a text. Raises TextNotFound, TextsMissing, EmbedderUnavailable."""
        remote = self.embedder if isinstance(self.embedder, RemoteEmbedder) else None
        if self.texts is not None and (remote is None or text in self.texts.rows):
            return self.texts.vector(text)
        if remote is None:
            raise TextsMissing("this service was started without vectors of texts; start it with --texts")
        return remote.embed_text(text)


@dataclass(frozen=True)
class Mounted:
    """The collections that are served, each under a name of its own, all of one encoder."""

    collections: tuple[MountedCollection, ...]
    """The first answers where a request names no collection; none where other hospitals alone are searched."""
    sites: MountedCollection | None = None
    """The first collection with those of other hospitals, a `service.served.sites.MountedSites`."""

    @property
    def all(self) -> tuple[MountedCollection, ...]:
        """The collections, and what searches other hospitals."""
        return self.collections if self.sites is None else (*self.collections, self.sites)

    @property
    def names(self) -> list[str]:
        """The names, the default one first."""
        return [collection.name for collection in self.all]

    def collection(self, name: str | None = None) -> MountedCollection:
        """Return the collection of a name, or the first. Raises CollectionNotFound."""
        if name is None:
            return self.all[0]
        for collection in self.all:
            if collection.name == name:
                return collection
        raise CollectionNotFound(f"no collection {name!r} is served; there are: {', '.join(self.names)}")


class Served:
    """What is served at the moment; a request looks it up once, so that another may take its place meanwhile."""

    def __init__(self, now: Mounted) -> None:
        """Begin with these collections."""
        self.now = now


def mounted() -> Mounted:
    """Return the collections that the running application serves now."""
    served: Served = running.served
    return served.now


def current(name: str | None = None) -> MountedCollection:
    """Return the mounted collection of a name, or the first. Raises CollectionNotFound."""
    return mounted().collection(name)
