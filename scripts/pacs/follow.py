"""From films that have come to studies of a collection: read, embedded and added once they are settled.

Whatever has to be done for a study is done again from its beginning after a kill, and leads to the same.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from encoder.embedder import Embedder
from encoder.errors import ImageError
from encoder.films.bare import untagged
from encoder.films.body_part import is_elsewhere
from encoder.films.dicom_elements import read_header
from encoder.films.study import StudyFilms
from index.errors import BackendUnavailable, CollectionError, FingerprintMismatch, StudyNotFound, WriteFailed
from index.importing.crosswalk import Crosswalk
from index.importing.dicom import identified, reason_against, rows_of, under
from index.importing.dicom_header import read_film
from index.importing.pseudonyms import Pseudonyms
from index.living.additions import VIEWS, Addition, Writable
from index.table.studies import Study, id_fault
from scripts.pacs.feed import Feed
from scripts.pacs.inbox import BESIDE, GONE, SHOWN, WAITS, Due, Inbox, Kept
from scripts.pacs.outbox import Outbox, Wanted
from scripts.pacs.rest import PacsError
from scripts.pacs.results import ResultError, words_in
from scripts.work.shard_writing import threads_for

log = logging.getLogger("precedent.follow")
BATCH = 16
ALONE_FROM = 3
"""Tries after which a study is dealt with alone and late: whatever ends the process is not to stop the others."""
MOST_ENDS = 2
"""Times that a film of such a study may end the process; then it is refused."""
LONGEST_WAIT = 300.0
"""Seconds between two tries at most."""
LOOK_EVERY = 1.0
LONGEST_SILENCE = 60.0
"""Seconds between two looks at what has changed, and at a PACS that does not answer or a disk that is full."""
_PAUSE = 0.05
Around = Callable[[Sequence[str], Sequence[str]], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Ready:
    """A study of the PACS on its way into the collection: its films, and the studies that these make."""

    due: Due
    films: tuple[Kept, ...] = ()
    studies: tuple[tuple[Study, StudyFilms], ...] = ()
    fault: CollectionError | OSError | None = None


class Follower:
    """Brings what is in an inbox into a collection."""

    def __init__(
        self,
        inbox: Inbox,
        living: Writable,
        embedder: Embedder,
        images: Path,
        *,
        feed: Feed | None = None,
        pseudonyms: Pseudonyms | None = None,
        crosswalk: Crosswalk | None = None,
        keep_burned_in: bool = False,
        longest_wait: float = LONGEST_WAIT,
        outbox: Outbox | None = None,
        around: Around = lambda added, deleted: nullcontext(),
    ) -> None:
        """Take the parts.

        Args:
            images: the image root; films are kept below it as `index.living.added_films` says, pixels only.
            outbox: wants the results of each study that is added.
            around: is entered before studies are added and deleted, whose ids it is given, and left afterwards.
        """
        self._inbox, self._living, self._embedder, self._images = inbox, living, embedder, images
        self._feed, self._pseudonyms, self._crosswalk = feed, pseudonyms, crosswalk
        self._keep_burned_in, self._longest_wait = keep_burned_in, longest_wait
        self._outbox, self._around = outbox, around
        self._next_look = self._next_turn = 0.0
        self._silent = 0
        self._elsewhere = partial(is_elsewhere, ignored=embedder.ignored_parts)

    def turn(self, *, patient: bool = True) -> bool:
        """Ask the PACS what has changed, where it is time to, and deal with what is settled; return whether more waits.

        Args:
            patient: wait where the PACS does not answer or the disk is full, in place of raising what is said of it.

        Raises:
            FingerprintMismatch: the collection is of another encoder now. ArtefactError: the state is damaged.
        """
        if time.monotonic() < self._next_turn:
            return True
        try:
            if self._feed is not None and time.monotonic() >= self._next_look:
                changes = self._feed.read()
                self._next_look = time.monotonic() + (0.0 if changes else LOOK_EVERY)
            waits = self.step() > 0 or self._inbox.counts()["studies_waiting"] > 0
        except (BackendUnavailable, PacsError, WriteFailed) as fault:
            if not patient:
                raise
            wait = min(self._longest_wait, LONGEST_SILENCE, 2.0**self._silent)
            log.warning("going on in %.0f s: %s", wait, fault)
            self._next_turn, self._silent = time.monotonic() + wait, self._silent + 1
            return True
        self._silent = 0
        return waits

    def step(self) -> int:
        """Deal with the studies that are settled, some at a time, and return how many there were.

        Raises:
            FingerprintMismatch: the collection is of another encoder now. ArtefactError, WriteFailed: of the inbox.
        """
        due = self._inbox.due(BATCH)
        if not due:
            return 0
        for group in _grouped(due):
            with ThreadPoolExecutor(min(len(group), threads_for(None))) as pool:
                ready = list(pool.map(self._prepared, group))
            try:
                if whole := [arriving for arriving in ready if arriving.fault is None]:
                    self._bring(whole)
            except FingerprintMismatch:
                raise
            except (CollectionError, OSError) as fault:
                ready = [replace(arriving, fault=arriving.fault or fault) for arriving in ready]
            for arriving in ready:
                if arriving.fault is not None:
                    self._put_off(arriving.due, arriving.fault)
        return len(due)

    def _put_off(self, due: Due, fault: CollectionError | OSError) -> None:
        wait = min(self._longest_wait, 5.0 * 2**due.tries)
        plain = isinstance(fault, BackendUnavailable | PacsError | WriteFailed)  # others may quote an id
        said = str(fault) if plain else type(fault).__name__
        log.warning("a study waits %.0f s more after try %d: %s", wait, due.tries + 1, said)
        self._inbox.put_off([due], wait)

    def _prepared(self, due: Due) -> Ready:
        """Return a study with its films read, or why that cannot be done now."""
        try:
            listed = None
            if due.place is not None and self._feed is not None:
                listed = self._feed.fetch(due.place)
                listed = (
                    {} if listed is None else {self._inbox.name_of("film", uid): why for uid, why in listed.items()}
                )
            films = [self._guarded(due, film) for film in _compared(self._inbox.films(due.study), listed)]
            return self._as_studies(due, films)
        except (CollectionError, OSError) as fault:
            return Ready(due, fault=fault)

    def _guarded(self, due: Due, film: Kept) -> Kept:
        """Return a film as it is read; refused, where that has ended the process before.

        This is written down where a study was tried before and never done, so it costs the others nothing.
        """
        if due.tries < ALONE_FROM or not film.sha256:
            return self._read(film)
        if self._inbox.about_to_read(film.sha256) >= MOST_ENDS:
            return replace(film, fate="refused: ended the process", png=None, path=None)
        try:
            read = self._read(film)
            if read.fate in (SHOWN, BESIDE) and self._has(read):
                self._embedder.read_film(self._content(read), name=read.fate)  # as is done with it further on
            return read
        finally:
            self._inbox.was_read(film.sha256)

    def _read(self, film: Kept) -> Kept:
        """Return a film that waits as one whose pixels lie beside, or refused."""
        if film.fate != WAITS:
            return film
        file = self._inbox.came(film.sha256)
        header = read_film(file, read_header, elsewhere=self._elsewhere)
        reason = "no DICOM" if header is None else reason_against(header, self._keep_burned_in)
        if header is None or reason:
            return replace(film, fate=f"refused: {reason}")
        try:
            content, _ = untagged(file.read_bytes(), ignored_parts=self._embedder.ignored_parts)
        except ImageError:
            return replace(film, fate="refused: picture")
        named = identified(replace(header, path=film.film))
        if self._pseudonyms is not None:
            named = replace(under(self._pseudonyms, named), issuer="")
            if self._crosswalk is not None:
                self._crosswalk.add({f"{named.patient}/{named.study}": header.study})
        elif id_fault(named.patient, "patient_id") or id_fault(f"{named.patient}/{named.study}", "study_id"):
            return replace(film, fate="refused: id")
        png = hashlib.sha256(content).hexdigest()
        self._inbox.put_beside(png, content)
        return replace(film, fate=BESIDE, header=named, png=png, path=None, said=self._said(file))

    def _said(self, file: Path) -> Mapping[str, str] | None:
        """Return what results need of a film's header; None where none can be made, or none is wanted."""
        if self._outbox is None:
            return None
        try:
            return words_in(file)
        except ResultError:
            return None

    def _as_studies(self, due: Due, films: list[Kept]) -> Ready:
        """Return the studies that the films of one study of the PACS make: one, unless they are of several patients."""
        for number, film in enumerate(films):
            if film.fate in (SHOWN, BESIDE) and not self._has(film):  # a study that somebody deleted took it along
                films[number] = replace(film, fate=GONE, png=None, path=None)
        usable = {film.film: film for film in films if film.fate in (SHOWN, BESIDE)}
        rows = rows_of([film.header for film in usable.values() if film.header], capped=self._pseudonyms is not None)
        studies: list[tuple[Study, StudyFilms]] = []
        shown: dict[str, str] = {}
        for row in rows:
            given = {view: usable[row[f"{view}_path"]] for view in VIEWS if row[f"{view}_path"] is not None}
            contents = {view: self._content(film) for view, film in given.items()}
            paths = {view: self._living.film_path(content, ".png") for view, content in contents.items()}
            shown |= {film.film: paths[view] for view, film in given.items()}
            read = {view: self._embedder.read_film(content, name=view) for view, content in contents.items()}
            row |= {"other_paths": (), **{f"{view}_path": path for view, path in paths.items()}}
            studies.append((Study(**row), StudyFilms(read.get("frontal"), read.get("lateral"), row["projection"])))
        settled = [self._placed(film, shown) for film in films]
        return Ready(due, tuple(settled), tuple(studies))

    def _placed(self, film: Kept, shown: Mapping[str, str]) -> Kept:
        """Return a film with its place: below the image root where a study shows it, else in the inbox."""
        if film.film in shown:
            return replace(film, fate=SHOWN, path=shown[film.film])
        if film.fate == SHOWN and film.png is not None:  # another film has taken its view
            self._inbox.put_beside(film.png, self._content(film))
            return replace(film, fate=BESIDE, path=None)
        return film

    def _file(self, film: Kept) -> Path:
        beside = self._inbox.beside(film.png or "")
        return beside if film.path is None or beside.exists() else self._images / film.path

    def _has(self, film: Kept) -> bool:
        return self._file(film).is_file()

    def _content(self, film: Kept) -> bytes:
        return self._file(film).read_bytes()

    def _bring(self, ready: Sequence[Ready]) -> None:
        """Add the studies, delete those that these are no more, and write down what became of the films."""
        ids = {arriving.due.study: {study.study_id for study, _ in arriving.studies} for arriving in ready}
        there, now = set().union(*ids.values()), self._living.now()
        gone = [name for arriving in ready for name in arriving.due.ids if name not in there and name in now]
        self._inbox.intend({arriving.due.study: ids[arriving.due.study].union(arriving.due.ids) for arriving in ready})
        with self._around(sorted(there), gone):
            if there:
                self._add(ready)
            for name in gone:
                with suppress(StudyNotFound):  # somebody else has deleted it
                    self._living.delete([name], self._images)
            if self._outbox is not None:
                self._outbox.drop(gone)
                self._want(self._outbox, ready)
            for arriving in ready:
                self._inbox.settled(arriving.due, arriving.films, ids[arriving.due.study])

    def _want(self, outbox: Outbox, ready: Sequence[Ready]) -> None:
        """Have the results of studies that are in the collection now returned."""
        wanted, films = [], dict[str, Kept]()
        for arriving in ready:
            own = {
                f"{arriving.due.study} {film.film}": film for film in arriving.films
            }  # as it is known by in the inbox
            shown = {film.path: name for name, film in own.items() if film.fate == SHOWN}
            for study, _ in arriving.studies:
                paths = {"frontal": study.frontal_path, "lateral": study.lateral_path}
                given = {view: (shown[path], path) for view, path in paths.items() if path is not None}
                wanted.append(Wanted(study.study_id, given, arriving.due.place))
            films |= own
        headers = {name: film.said for name, film in films.items() if film.said is not None}
        outbox.want(wanted, headers, [name for name, film in films.items() if film.fate == GONE])

    def _add(self, ready: Sequence[Ready]) -> None:
        studies = [pair for arriving in ready for pair in arriving.studies]
        vectors = self._embedder.embed([films for _, films in studies])
        films = {
            film.path: film
            for arriving in ready
            for film in arriving.films
            if film.fate == SHOWN and film.path is not None
        }
        additions = [Addition(study, study.views, vector) for (study, _), vector in zip(studies, vectors, strict=True)]
        self._living.add(additions, replace=True, films=_Contents(films, self._content), image_root=self._images)


def followed(follower: Follower, end: Event, *, once: bool = False) -> None:
    """Follow until `end` is set; or, `once`, until nothing waits. Raises what `Follower.turn` does."""
    while not end.is_set():
        waits = follower.turn(patient=not once)
        if once and not waits:
            return
        end.wait(_PAUSE)


class _Contents(Mapping[str, bytes]):
    """The films of a batch by their paths, each read as it is asked for."""

    def __init__(self, films: Mapping[str, Kept], read: Callable[[Kept], bytes]) -> None:
        self._films, self._read = films, read

    def __getitem__(self, path: str) -> bytes:
        return self._read(self._films[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self._films)

    def __len__(self) -> int:
        return len(self._films)


def _grouped(due: Sequence[Due]) -> Iterator[list[Due]]:
    """Yield those that were tried few times together, each other one alone."""
    if fresh := [study for study in due if study.tries < ALONE_FROM]:
        yield fresh
    yield from ([study] for study in due if study.tries >= ALONE_FROM)


def _compared(films: Iterable[Kept], listed: Mapping[str, str] | None) -> list[Kept]:
    """Return the films of a study as the PACS lists them: those that it has no more are gone."""
    known = {film.film: film for film in films}
    if listed is None:
        return list(known.values())
    refused = [Kept(name, "", why) for name, why in listed.items() if why]
    gone = [replace(film, fate=GONE, png=None, path=None) for name, film in known.items() if name not in listed]
    return [film for name, film in known.items() if name in listed and not listed[name]] + gone + refused
