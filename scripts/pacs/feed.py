"""The change feed of an Orthanc: which studies have changed, which are gone, and their films.

https://orthanc.uclouvain.be/book/users/rest.html, "Tracking changes". The feed tells of no deletion, and forgets what
was deleted; so all studies are listed from time to time.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from index.importing.dicom_header import FILM_MODALITIES
from scripts.pacs.inbox import Inbox
from scripts.pacs.rest import NotThere, Pacs, PacsError

PAGE = 200
MOST_PAGES = 50
"""Of changes, that are read before the studies that they name are looked at."""
MOST_FILMS = 2000
"""Of one study, that are fetched: an examination of the chest has a few."""
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_UID = re.compile(r"[0-9.]{1,64}")


class Feed:
    """What an Orthanc tells, read into an inbox. A study is called there as Orthanc calls it."""

    def __init__(
        self, pacs: Pacs, inbox: Inbox, *, listing: float = 600.0, ours: Callable[[str], bool] | None = None
    ) -> None:
        """Take an Orthanc; every `listing` seconds all its studies are listed.

        Args:
            ours: tells by its UID whether an instance is a result that was returned from here, and no news.
        """
        self._pacs, self._inbox, self._listing, self._ours = pacs, inbox, listing, ours
        self._next_listing = 0.0
        self._missed: set[str] = set()

    @property
    def host(self) -> str:
        """The host of the PACS."""
        return self._pacs.host

    def read(self) -> int:
        """Mark the studies that have changed, and return how many changes there were.

        Raises:
            BackendUnavailable: it does not answer now. PacsError: it answers what cannot be used.
        """
        if time.monotonic() >= self._next_listing:
            self._list()
            self._next_listing = time.monotonic() + self._listing
        last, count = int(self._inbox.fact("last", "0")), 0
        for _ in range(MOST_PAGES):
            answer = self._object("/changes", {"since": str(last), "limit": str(PAGE)})
            changes, newest = _list_in(answer, "Changes"), answer.get("Last")
            if not isinstance(newest, int) or isinstance(newest, bool):
                raise PacsError(f"expected changes from the PACS {self.host}, got something else; is it an Orthanc?")
            arrived = [change.get("ID") for change in changes if change.get("ChangeType") == "NewInstance"]
            places = {place for instance in arrived if (place := self._study_of(instance))}
            if newest <= last or not changes:
                return count
            self._inbox.mark(((place, place) for place in sorted(places)), {"last": str(newest)})
            last, count = newest, count + len(changes)
        return count

    def has(self, place: str) -> bool:
        """Return whether the PACS has a study still. Raises as `read`."""
        try:
            self._object(f"/studies/{place}")
        except NotThere:
            return False
        return True

    def fetch(self, place: str) -> dict[str, str] | None:
        """Take the films of a study, and return of each of its instances, by its UID, why it was not asked for, or "".

        Returns:
            None where the study is gone.
        """
        try:
            series = self._pacs.json(f"/studies/{place}/series")
            instances = self._pacs.json(f"/studies/{place}/instances")
        except NotThere:
            return None
        modalities = {record.get("ID"): _tags(record).get("Modality") for record in _records(series)}
        reasons: dict[str, str] = {}
        files: dict[str, Path] = {}
        try:
            for record in _records(instances):
                uid, number = _tags(record).get("SOPInstanceUID"), record.get("ID")
                if not isinstance(uid, str) or not _UID.fullmatch(uid) or not _is_id(number):
                    continue
                if self._ours is not None and self._ours(uid):
                    reasons[uid] = "refused: ours"
                    continue
                modality = modalities.get(record.get("ParentSeries"))
                if modality is not None and modality not in FILM_MODALITIES:
                    reasons[uid] = "refused: modality"
                elif len(files) >= MOST_FILMS:
                    reasons[uid] = "refused: more films than a study has"
                else:
                    files[uid] = self._inbox.folder / "came" / f"{secrets.token_hex(16)}.coming"
                    reasons |= self._write(number, uid, files[uid])
            self._inbox.take(place, {uid: files[uid] for uid in files if uid in reasons}, of_its_own=False)
        finally:
            for file in files.values():  # those that were taken are no longer there
                file.unlink(missing_ok=True)
        return reasons

    def _write(self, number: Any, uid: str, to: Path) -> dict[str, str]:
        """Write a film to a file; return that it is there, or nothing where it was deleted since it was listed."""
        try:
            with to.open("wb") as file:
                self._pacs.write(f"/instances/{number}/file", file)
        except NotThere:
            return {}
        return {uid: ""}

    def _list(self) -> None:
        """Mark the studies that are not known, and those that are gone: missing from two lists, one after the other.

        A PACS that begins to count anew, as one does whose storage was made anew, is read from its beginning.
        """
        newest = self._object("/changes", {"last": ""}).get("Last")
        if isinstance(newest, int) and newest < int(self._inbox.fact("last", "0")):
            self._inbox.mark((), {"last": "0"})
        there = {self._inbox.name_of("study", place): place for place in self._studies()}
        known = self._inbox.known()
        self._inbox.mark((there[name], there[name]) for name in sorted(there.keys() - known))
        missing = known - there.keys()
        self._inbox.mark_gone(sorted(missing & self._missed))
        self._missed = missing

    def _studies(self) -> Iterator[str]:
        seen: set[str] = set()
        count = 0
        while page := self._pacs.json("/studies", {"since": str(count), "limit": str(PAGE)}):
            fresh = [place for place in page if _is_id(place) and place not in seen] if isinstance(page, list) else []
            if not fresh:  # of a list that goes round, none could be said to be gone
                raise PacsError(
                    f"expected a list of studies from the PACS {self.host}, got something else, or the same part twice"
                )
            yield from fresh
            seen.update(fresh)
            count += len(page)

    def _study_of(self, instance: Any) -> str:
        """Return the study of an instance, "" where it is gone or a result of ours."""
        if not _is_id(instance):
            return ""
        try:
            if self._ours is not None:
                uid = _tags(self._object(f"/instances/{instance}")).get("SOPInstanceUID")
                if isinstance(uid, str) and self._ours(uid):
                    return ""
            place = self._object(f"/instances/{instance}/study").get("ID")
        except NotThere:
            return ""
        return str(place) if _is_id(place) else ""

    def _object(self, path: str, asked: dict[str, str] | None = None) -> dict[str, Any]:
        answer = self._pacs.json(path, asked)
        if not isinstance(answer, dict):
            raise PacsError(f"expected an object from the PACS {self.host}, got something else; is it an Orthanc?")
        return answer


def _is_id(value: Any) -> bool:
    """Return whether a value is what Orthanc calls something: it becomes part of an address."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _tags(record: dict[str, Any]) -> dict[str, Any]:
    tags = record.get("MainDicomTags")
    return tags if isinstance(tags, dict) else {}


def _list_in(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return _records(answer.get(name))


def _records(records: Any) -> list[dict[str, Any]]:
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []
