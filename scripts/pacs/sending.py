"""Results of studies that are followed: made as each study is added, and sent until they are with the PACS.

It has a thread of its own, so that a PACS that takes no results delays no film.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from encoder.errors import EncoderError
from index.errors import BackendUnavailable, CollectionError, StudyNotFound, WriteFailed
from index.living.additions import Writable
from index.search.answer import Subject
from index.storage.places import below
from index.table.studies import Study
from scripts.pacs.audit import PacsAudit
from scripts.pacs.destination import Destination
from scripts.pacs.outbox import Outbox, Wanted
from scripts.pacs.rest import PacsError
from scripts.pacs.results import KOS, Result, ResultError, SourceFilm
from scripts.pacs.returning import GivenFilms, ResultMaker, WayBack

log = logging.getLogger("precedent.follow")
BATCH = 16
LONGEST_WAIT = 300.0
"""Seconds between two tries at most."""
LONGEST_SILENCE = 60.0
_PAUSE = 0.2
_NO_HEADER = (
    "expected films that have all UIDs and came since --return is asked for, got another; have the PACS send it again"
)


class Returner:
    """Makes what an outbox wants, and sends what waits in it."""

    def __init__(
        self,
        outbox: Outbox,
        maker: ResultMaker,
        kinds: Sequence[str],
        destination: Destination,
        living: Writable,
        images: Path,
        *,
        there: Callable[[str], bool] = lambda place: True,
        audit: PacsAudit | None = None,
        to: str = "",
        count: Callable[[str], None] = lambda what: None,
        longest_wait: float = LONGEST_WAIT,
    ) -> None:
        """Take the parts.

        Args:
            images: the image root of the collection.
            there: tells whether the PACS has a study still, by where it had it: a result would make it anew.
            to: where they are sent, as it is written into the audit log.
            count: is given what became of each result that was sent, "refused" or "none" where nothing did.
        """
        self._outbox, self._maker, self._kinds, self._destination = outbox, maker, tuple(kinds), destination
        self._living, self._images, self._there, self._count = living, images, there, count
        self._audit, self._to = audit or PacsAudit(None), to
        self._longest_wait = longest_wait

    def step(self, *, patient: bool = True) -> int:
        """Make and send the results that are due, some at a time, and return how many studies there were.

        Args:
            patient: try again later what cannot be done now, in place of raising why once all was tried.

        Raises:
            BackendUnavailable: the PACS does not answer now; what is due waits. WriteFailed: the disk is full.
        """
        due = self._outbox.due(BATCH, early=not patient)
        faults = []
        for wanted in due:
            try:
                self._deal_with(wanted)
            except (BackendUnavailable, WriteFailed) as fault:
                self._put_off(wanted, fault)
                raise
            except (CollectionError, EncoderError, OSError) as fault:
                self._put_off(wanted, fault)
                faults.append(fault)
        if faults and not patient:
            raise faults[0]
        return len(due)

    def run(self, end: Event) -> None:
        """Return results until `end` is set."""
        silent = 0
        while not end.is_set():
            try:
                due, silent = self.step(), 0
                wait = 0.0 if due else _PAUSE
            except (BackendUnavailable, WriteFailed):
                wait, silent = min(self._longest_wait, LONGEST_SILENCE, 2.0**silent), silent + 1
            end.wait(wait)

    def _put_off(self, wanted: Wanted, fault: Exception) -> None:
        wait = min(self._longest_wait, 5.0 * 2**wanted.tries)
        plain = isinstance(fault, BackendUnavailable | PacsError | ResultError | WriteFailed)  # others may quote an id
        said = str(fault) if plain else type(fault).__name__
        log.warning("the results of a study wait %.0f s more after try %d: %s", wait, wanted.tries + 1, said)
        self._outbox.put_off(wanted, wait, said)

    def _deal_with(self, wanted: Wanted) -> None:
        if wanted.place is not None and not self._there(wanted.place):
            self._outbox.drop([wanted.study_id])
            return
        if not wanted.made:
            try:
                study = self._living.now().study(wanted.study_id)
            except StudyNotFound:  # somebody has deleted it
                self._outbox.drop([wanted.study_id])
                return
            self._outbox.keep(wanted, *self._made(wanted, study))
        self._send(wanted)
        self._outbox.done(wanted)

    def _made(self, wanted: Wanted, study: Study) -> tuple[list[Result], Mapping[str, str]]:
        """Return the results of a study, and why there is none of a kind."""
        headers = self._outbox.sources(wanted.films)
        if headers.keys() != wanted.films.keys():
            return [], dict.fromkeys(self._kinds, _NO_HEADER)
        films = {view: below(self._images, path) for view, (_, path) in wanted.films.items()}
        given = GivenFilms(films, Subject.of(study), headers)
        try:
            return self._maker.make(given, self._kinds), {}
        except ResultError as fault:
            if KOS not in self._kinds:
                raise
            others = [kind for kind in self._kinds if kind != KOS]  # of which none asks for other studies
            return (self._maker.make(given, others) if others else []), {KOS: str(fault)}

    def _send(self, wanted: Wanted) -> None:
        """Send each result that waits, those behind one that is refused too. Raises the first fault."""
        faults: list[CollectionError] = []
        for name, result in self._outbox.waiting(wanted):
            said = {"studies": [wanted.study_id], "sent_to": self._to, "kind": result.kind, "result_uid": name}
            try:
                with self._audit.around("return", **said) as outcome:
                    [fate] = self._destination.send([result])
                    outcome["result"] = fate
            except BackendUnavailable:
                self._count("none")
                raise
            except (PacsError, ResultError) as fault:
                self._count("refused")
                faults.append(fault)
                continue
            self._count(fate)
            self._outbox.sent(name, fate)
        if faults:
            raise faults[0]


@contextmanager
def returning(returner: Returner | None, end: Event) -> Iterator[None]:
    """Return results in a thread while this is open; what ends it sets `end`, and is raised on leaving."""
    if returner is None:
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(returner.run, end)
        work.add_done_callback(lambda _: end.set())
        try:
            yield
        finally:
            end.set()
        work.result()


def films_known(outbox: Outbox) -> WayBack:
    """Return the way back to films that were followed."""

    def way(study: Study) -> tuple[SourceFilm, ...]:
        return tuple(outbox.sources(outbox.films(study.study_id)).values())

    return way
