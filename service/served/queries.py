"""Queries that were sent once and are asked about again by an id: films or a stored study's name, for an hour.

They are in the memory of one process and nowhere else. Another process does not know them, nor does this one after a
restart; who asks for one that is gone is told so, and sends the films again.
"""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, TypeVar

from encoder.errors import ImageError
from encoder.films.bare import as_png
from encoder.films.dicom_elements import read_header
from encoder.films.image import read_plane
from encoder.films.mend import mended
from index.errors import StudyNotFound
from index.importing.pairing import Facts, facts_of
from index.search.answer import Query
from index.search.familiarity import are_alike
from index.table.studies import Study
from service.api.requests import NewQuery, Search
from service.context import call, request_id, running
from service.errors import EncoderMissing, ImageMissing, QueryGone
from service.guard import disclosure
from service.limits import DEFAULT_LIMITS, Limits
from service.served.decoding import decoding
from service.served.mounted import Looked, MountedCollection, current
from service.served.pictures import film_path, read_film

LIFETIME = 3600.0
"""Seconds that a query is kept after it was asked about last."""
ID_BYTES = 24
"""Random, of an id: nobody finds one by trying."""
VIEWS = ("frontal", "lateral")
EXCHANGE = "exchange"
"""The mend of films that are in each other's place."""
SAME_FILMS = 0.999
"""Cosine from which on a stored study may have the same films, written anew in between; its films are compared then."""
NEAREST = 3
"""Stored studies whose films are compared at most."""


class Question(Protocol):
    """What a request that may name a query has."""

    query: str | None
    collection: str | None
    patient_id: str | None

    def model_copy(self, *, update: dict[str, Any]) -> Self:
        """Return the same request with other fields."""


Asked = TypeVar("Asked", bound=Question)


@dataclass
class Work:
    """Something that is being computed about a query, by one request."""

    work: str
    """predict or explain."""
    state: Literal["waiting", "running"] = "waiting"
    """Whether it waits for its turn."""
    passes: int = 0
    """Of the network, that are done."""
    request_id: str = field(default_factory=request_id)


@dataclass(eq=False)
class KeptQuery:
    """One query of one owner. Safe under threads."""

    collection: str
    frontal: bytes | None = field(default=None, repr=False)
    lateral: bytes | None = field(default=None, repr=False)
    study_id: str | None = None
    """Of a stored study, which has no films here."""
    patient_id: str | None = field(default=None, repr=False)
    """Whose stored studies are left out; answers do not show it."""
    facts: Facts = field(default_factory=Facts)
    """What the films' headers say."""
    mends: Sequence[Any] = ()
    """`service.served.film_reader.Mend`: what would set its films right."""
    stored_as: str | None = None
    """The stored study that has the same films."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(ID_BYTES))
    owner: str = field(default_factory=lambda: call.principal or "")
    """The name of the token that sent it; "" on a service without tokens."""
    until: float = 0.0
    """When it is forgotten, by the clock of those who keep it."""
    _looks: dict[tuple[str, str, str | None], Looked] = field(default_factory=dict)
    _looking: threading.Lock = field(default_factory=threading.Lock)
    _work: dict[str, "Work"] = field(default_factory=dict)

    @property
    def films(self) -> dict[str, bytes]:
        """The films by view."""
        return {view: film for view in VIEWS if (film := getattr(self, view)) is not None}

    @property
    def views(self) -> list[str]:
        """The views of the films."""
        return list(self.films)

    @property
    def patient_known(self) -> bool:
        """Whether stored studies of the query's own patient can be left out."""
        return self.patient_id is not None or self.study_id is not None

    @property
    def kept_s(self) -> int:
        """Seconds that it is kept after it was asked about last."""
        return int(LIFETIME)

    @property
    def size(self) -> int:
        """Bytes that it takes, about; one without films is not free either."""
        return 4096 + sum(map(len, self.films.values()))

    @property
    def working(self) -> list["Work"]:
        """What is being computed about it at the moment, the first that began first."""
        return list(self._work.values())

    @contextmanager
    def at(self, work: "Work") -> Iterator[None]:
        """Show for a while that something is being computed."""
        self._work[work.request_id] = work
        try:
            yield
        finally:
            del self._work[work.request_id]

    def look(self, collection: MountedCollection) -> Looked:
        """Return the films as a collection's encoder reads them, which is done once. Errors as `collection.look`."""
        key = collection.name, collection.fingerprint, collection.built_at
        with self._looking:  # who asks meanwhile waits for the same
            if key not in self._looks:
                self._looks[key] = collection.look(self.frontal, self.lateral)
            return self._looks[key]


class Queries:
    """The queries of all owners, as many and as large as there is room for. Safe under threads.

    An owner who has no room left loses the query that was not asked about for longest. So does one who keeps any where
    all owners together have none left; where the one who asks keeps none yet, whoever keeps most gives way.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep at most `limits.queries` of an owner, of `limits.query_bytes`, and `limits.all_query_bytes` in all."""
        self._limits, self._clock = limits, clock
        self._kept: dict[str, KeptQuery] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes that all of them take."""
        return sum(query.size for query in list(self._kept.values()))

    def keep(self, query: KeptQuery) -> KeptQuery:
        """Return a query that is kept from now on."""
        with self._lock:
            self._forget_old()
            while (loser := self._loser(query)) is not None:
                del self._kept[loser.id]
            query.until = self._clock() + LIFETIME
            self._kept[query.id] = query
            self._wait()
        return query

    def get(self, owner: str, name: str) -> KeptQuery:
        """Return the query of an id, which is kept from now on for the whole time again.

        Raises:
            QueryGone: it is not here, or another's.
        """
        with self._lock:
            self._forget_old()
            query = self._kept.get(name)
            if query is None or query.owner != owner:
                raise QueryGone(
                    "this query is not kept any more: films are kept for an hour, in the memory of the process that "
                    "took them, for the token that sent them; send the films again"
                )
            query.until = self._clock() + LIFETIME
            self._kept[name] = self._kept.pop(name)  # the last to go
            return query

    def drop(self, query: KeptQuery) -> None:
        """Forget a query at once."""
        with self._lock:
            self._kept.pop(query.id, None)

    def _loser(self, new: KeptQuery) -> KeptQuery | None:
        """Return the query that gives way to a new one; None where there is room."""
        own = [query for query in self._kept.values() if query.owner == new.owner]
        full = sum(query.size for query in own) + new.size > self._limits.query_bytes
        if own and (full or len(own) >= self._limits.queries):
            return own[0]
        if not self._kept or self.size + new.size <= self._limits.all_query_bytes:
            return None
        if own:
            return own[0]
        sizes: Counter[str] = Counter()
        for query in self._kept.values():
            sizes[query.owner] += query.size
        [(most, _)] = sizes.most_common(1)
        return next(query for query in self._kept.values() if query.owner == most)

    def _forget_old(self) -> None:
        at = self._clock()
        for name in [name for name, query in self._kept.items() if query.until <= at]:
            del self._kept[name]

    def _wait(self) -> None:
        """Have what is old forgotten though nobody asks any more: films are no longer in memory than is said."""
        if self._timer is not None or not self._kept:
            return
        seconds = max(min(query.until for query in self._kept.values()) - self._clock(), 1.0)
        self._timer = threading.Timer(seconds, self._tidy)
        self._timer.daemon = True
        self._timer.start()

    def _tidy(self) -> None:
        with self._lock:
            self._forget_old()
            self._timer = None
            self._wait()


def keep_query(asked: NewQuery | Search) -> KeptQuery:
    """Return a new query of the running request's owner; its films are looked at first, so that bad ones are not kept.

    Raises:
        StudyNotFound, ImageError, EncoderMissing, Busy; TooManyRequests: more queries than the token may ask today.
    """
    collection = current(asked.collection)
    if asked.study_id is not None:
        return _kept(KeptQuery(collection.name, study_id=collection.retriever.study(asked.study_id).study_id))
    films = {view: getattr(asked, view) for view in VIEWS}
    facts = facts_of({view: film for view, film in films.items() if film is not None}, read_header)
    if getattr(asked, "sort", False) and facts.swapped:
        films = dict(zip(VIEWS, reversed(films.values()), strict=True))
    query = KeptQuery(collection.name, **films, facts=facts, patient_id=asked.patient_id or facts.patient)
    return _looked_at(query, collection)


def mend_query(query: KeptQuery, mend: str, view: str | None) -> KeptQuery:
    """Return a new query with the films of one as a mend leaves them; of a film that is changed the pixels alone stay.

    Raises:
        ImageMissing: the query has no film of that view. As `keep_query`.
    """
    if not query.films:
        raise ImageMissing("this query is a stored study, whose films are not changed")
    films: dict[str, bytes | None] = {seen: getattr(query, seen) for seen in VIEWS}
    if mend == EXCHANGE:
        films = dict(zip(VIEWS, reversed(films.values()), strict=True))
    else:
        film = films.get(view or "")
        if film is None:
            raise ImageMissing(f"this query has no {view} film")
        with decoding().slot():
            plane = read_plane(film, name=view, ignored_parts=decoding().ignored_parts)
            films[str(view)] = as_png(mended(plane, mend))
    frontal, lateral = films["frontal"], films["lateral"]
    kept = KeptQuery(query.collection, frontal, lateral, facts=query.facts, patient_id=query.patient_id)
    return _looked_at(kept, current(query.collection))


def _looked_at(query: KeptQuery, collection: MountedCollection) -> KeptQuery:
    look, vector = query.look(collection)
    disclosure.count(query.frontal, query.lateral)
    query.mends = () if look is None else look.mends
    if look is not None and look.layouts:
        nearest = collection.retriever.now().answer(Query(vector, k=NEAREST)).hits
        same = (hit.study for hit in nearest if hit.similarity >= SAME_FILMS and _is_of(hit.study, look, collection))
        query.stored_as = next((study.study_id for study in same), None)
    return _kept(query)


def _is_of(study: Study, look: Any, collection: MountedCollection) -> bool:
    """Return whether a stored study has the very films that were looked at, as far as its own can be read."""
    with suppress(ImageMissing, ImageError, EncoderMissing, OSError):
        films = {view: read_film(film_path(collection.image_root, study, view), view) for view in study.views}
        layouts = collection.reader.layouts(films.get("frontal"), films.get("lateral"))
        return len(layouts) == len(look.layouts) and all(map(are_alike, layouts, look.layouts))
    return False


def _kept(query: KeptQuery) -> KeptQuery:
    queries: Queries = running.queries
    return queries.keep(query)


def kept_query(name: str) -> KeptQuery:
    """Return a query of the running request's owner, its study named for the audit log. Raises QueryGone."""
    query: KeptQuery = running.queries.get(call.principal or "", name)
    if query.study_id is not None:
        call.fields = call.fields | {"study_id": query.study_id, "collection": query.collection}
    return query


def recalled(asked: Asked, collection: str | None = None) -> tuple[Asked, KeptQuery | None]:
    """Return a request with what its kept query holds in the query's place, and that query.

    A request that names no query is returned as it is, with None.

    Args:
        collection: of which it is asked, where the request does not say; else that of the query.

    Raises:
        QueryGone: it is not kept. StudyNotFound: it is a stored study of another collection.
    """
    if asked.query is None:
        return asked, None
    kept = kept_query(asked.query)
    among = asked.collection or collection or kept.collection
    if kept.study_id is not None:
        if among != kept.collection:
            raise StudyNotFound(f"this query is a study of collection {kept.collection!r}, not of {among!r}")
        return asked.model_copy(update={"study_id": kept.study_id, "collection": among}), kept
    held = {"patient_id": asked.patient_id or kept.patient_id, "collection": among}
    return asked.model_copy(update=dict.fromkeys(VIEWS) | kept.films | held), kept
