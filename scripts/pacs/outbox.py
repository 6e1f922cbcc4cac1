"""Results on their way back to the studies of a PACS: which are wanted, made and sent, in a SQLite file and files.

A result is written here, with the UID that it was given, before it is sent: whatever is killed, what is sent again is
the same object, by whose UID the PACS knows it.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import pydicom

from index.errors import WriteFailed
from index.importing.crosswalk import Crosswalk
from index.importing.pseudonyms import Pseudonyms
from index.storage.database import Database
from index.storage.files import written_whole
from scripts.pacs.destination import as_bytes
from scripts.pacs.results import Result, SourceFilm, unquoted

FILE = "returns.sqlite"
DUE, GONE = "waits", "gone"
"""Fates of a result: it is to be sent; its study changed before it was, or has gone. Every other fate is what the PACS
said of it, or why there is none."""
_APPLICATION = 0x5052544E  # "PRTN"
_TABLES = """
CREATE TABLE IF NOT EXISTS sources (film TEXT PRIMARY KEY, words BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS returns (
    study_id TEXT PRIMARY KEY,
    films TEXT NOT NULL,
    place TEXT,
    first REAL,
    due REAL,
    tries INTEGER NOT NULL DEFAULT 0,
    made INTEGER NOT NULL DEFAULT 0,
    reason TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS by_due ON returns (due) WHERE due IS NOT NULL;
CREATE TABLE IF NOT EXISTS results (
    name TEXT PRIMARY KEY,
    study_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    fate TEXT NOT NULL,
    time REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_study ON results (study_id);
CREATE INDEX IF NOT EXISTS by_fate ON results (fate)
"""
_FILE_OF_RESULT = re.compile(r"\.?([0-9a-z.]{1,64})\.dcm(\.partial)?")


@dataclass(frozen=True)
class Wanted:
    """A study of the collection whose results are to be returned: the film of each view, by its name and its path
    below the image root."""

    study_id: str
    films: Mapping[str, tuple[str, str]]
    place: str | None = None  # where the PACS has the study; None where it has sent it of itself
    tries: int = 0
    made: bool = False


class Outbox:
    """The results of what is followed, in the folder of its inbox. Safe under threads; one process has it at a time."""

    def __init__(self, folder: Path, pseudonyms: Pseudonyms | None = None, crosswalk: Crosswalk | None = None) -> None:
        """Open what is in a folder, or make it.

        Args:
            pseudonyms: where they are given, the file holds no UID but under them.
            crosswalk: what headers say is encrypted by it, where there is one.

        Raises:
            StudiesError: others can read its file. ArtefactError: it is damaged. WriteFailed: it cannot be made.
        """
        self._folder, self._pseudonyms, self._crosswalk = folder / "results", pseudonyms, crosswalk
        try:
            self._folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise WriteFailed(f"the folder {str(self._folder)!r} cannot be made: {error.strerror}") from error
        self._database = Database(folder / FILE, "state of results", _APPLICATION, _TABLES, make=True, wal=True)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Return whether results were ever returned of what is followed there."""
        return (folder / FILE).exists()

    def name_of(self, uid: str) -> str:
        """Return what a result is called here: by its UID, or its pseudonym."""
        return uid if self._pseudonyms is None else self._pseudonyms.of("film", uid)

    def is_ours(self, uid: str) -> bool:
        """Return whether an instance of the PACS is a result that was made here."""
        with self._database.reading() as connection:
            asked = "SELECT 1 FROM results WHERE name = ?"
            return connection.execute(asked, (self.name_of(uid),)).fetchone() is not None

    def want(
        self, wanted: Iterable[Wanted], headers: Mapping[str, Mapping[str, str]], gone: Iterable[str] = ()
    ) -> None:
        """Have results made of studies, unless their films are those of which results were made before.

        Args:
            headers: what `words_in` says of each film that was read, by its name. gone: names of those to forget.
        """
        with self._database.writing() as connection:
            sealed = [(film, self._sealed(json.dumps(words))) for film, words in headers.items()]
            connection.executemany("INSERT OR REPLACE INTO sources VALUES (?, ?)", sealed)
            connection.executemany("DELETE FROM sources WHERE film = ?", [(film,) for film in gone])
            dropped: list[str] = []
            for one in wanted:
                films = json.dumps(one.films, sort_keys=True)
                known = connection.execute("SELECT films FROM returns WHERE study_id = ?", (one.study_id,)).fetchone()
                if known is None or known[0] != films:
                    dropped += _dropped(connection, one.study_id, DUE)
                    connection.execute(
                        "INSERT OR REPLACE INTO returns (study_id, films, place, first, due) VALUES (?, ?, ?, ?, ?)",
                        (one.study_id, films, one.place, time.time(), time.time()),
                    )
        self._forget(dropped)

    def drop(self, ids: Iterable[str]) -> None:
        """Want no results of studies that have gone, and count those that they had as gone with them."""
        dropped: list[str] = []
        with self._database.writing() as connection:
            for study_id in ids:
                dropped += _dropped(connection, study_id)
                connection.execute("DELETE FROM returns WHERE study_id = ?", (study_id,))
        self._forget(dropped)

    def due(self, most: int, *, early: bool = False) -> list[Wanted]:
        """Return studies whose results are to be made or sent now, or `early` all; those that wait longest first."""
        asked = "SELECT study_id, films, place, tries, made FROM returns WHERE due <= ? ORDER BY due LIMIT ?"
        with self._database.reading() as connection:
            rows = connection.execute(asked, (float("inf") if early else time.time(), most)).fetchall()
        return [
            Wanted(
                study_id, {view: (film, path) for view, (film, path) in json.loads(films).items()}, place, tries, made
            )
            for study_id, films, place, tries, made in rows
        ]

    def sources(self, films: Mapping[str, tuple[str, str]]) -> dict[str, SourceFilm]:
        """Return the headers of films by view, of those that are known."""
        with self._database.reading() as connection:
            asked = "SELECT words FROM sources WHERE film = ?"
            rows = {view: connection.execute(asked, (film,)).fetchone() for view, (film, _) in films.items()}
        return {view: SourceFilm.of(json.loads(self._unsealed(row[0])), view) for view, row in rows.items() if row}

    def films(self, study_id: str) -> dict[str, tuple[str, str]]:
        """Return the films of a study whose results were wanted, as of `Wanted`; none of another."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT films FROM returns WHERE study_id = ?", (study_id,)).fetchone()
        return {} if row is None else {view: (film, path) for view, (film, path) in json.loads(row[0]).items()}

    def keep(self, wanted: Wanted, made: Sequence[Result], lacking: Mapping[str, str]) -> None:
        """Write results down, before any is sent.

        Args:
            lacking: why there is none of a kind.
        """
        now = time.time()
        for result in made:
            with written_whole(self._file(self.name_of(result.uid))) as partial:
                partial.write_bytes(as_bytes(result.dataset))
        rows = [(self.name_of(result.uid), wanted.study_id, result.kind, DUE, now) for result in made]
        none = [(f"{kind} {wanted.study_id}", wanted.study_id, kind, why, now) for kind, why in lacking.items()]
        with self._database.writing() as connection:
            if _stands(connection, wanted):
                connection.executemany(
                    "INSERT INTO results VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                    f"study_id = excluded.study_id, fate = iif(fate = '{GONE}', excluded.fate, fate)",
                    rows,
                )
                connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", none)
                connection.execute("UPDATE returns SET made = 1 WHERE study_id = ?", (wanted.study_id,))

    def waiting(self, wanted: Wanted) -> Iterator[tuple[str, Result]]:
        """Yield the results of a study that are not sent yet, with their names here. Raises OSError."""
        asked = "SELECT name, kind FROM results WHERE study_id = ? AND fate = ? ORDER BY rowid"
        with self._database.reading() as connection:
            rows = connection.execute(asked, (wanted.study_id, DUE)).fetchall()
        for name, kind in rows:
            with unquoted():
                yield name, Result(kind, pydicom.dcmread(self._file(name)))

    def sent(self, name: str, fate: str) -> None:
        """Write down that a result is with the PACS, and what that said of it."""
        with self._database.writing() as connection:
            connection.execute("UPDATE results SET fate = ?, time = ? WHERE name = ?", (fate, time.time(), name))
        self._file(name).unlink(missing_ok=True)

    def done(self, wanted: Wanted) -> None:
        """Write down that all results of a study are sent, unless it has changed meanwhile."""
        with self._database.writing() as connection:
            if _stands(connection, wanted):
                connection.execute(
                    "UPDATE returns SET first = NULL, due = NULL, place = NULL, tries = 0, reason = NULL "
                    "WHERE study_id = ?",
                    (wanted.study_id,),
                )

    def put_off(self, wanted: Wanted, seconds: float, reason: str) -> None:
        """Have results that could not be made or sent now tried later."""
        with self._database.writing() as connection:
            if _stands(connection, wanted):
                connection.execute(
                    "UPDATE returns SET due = ?, tries = tries + 1, reason = ? WHERE study_id = ?",
                    (time.time() + seconds, reason, wanted.study_id),
                )

    def tidy(self) -> None:
        """Remove what a kill has left: files of results that do not wait."""
        with self._database.reading() as connection:
            waiting = {row[0] for row in connection.execute("SELECT name FROM results WHERE fate = ?", (DUE,))}
        for path in self._folder.iterdir():
            named = _FILE_OF_RESULT.fullmatch(path.name)
            if named is not None and (named[2] or named[1] not in waiting):
                path.unlink(missing_ok=True)

    def counts(self) -> dict[str, Any]:
        """Return how many studies' results wait, since when the first, why the last that was tried, and all by fate."""
        with self._database.reading() as connection:
            waiting, first = connection.execute(
                "SELECT count(*), min(first) FROM returns WHERE due IS NOT NULL"
            ).fetchone()
            reason = connection.execute(
                "SELECT reason FROM returns WHERE due IS NOT NULL AND reason IS NOT NULL ORDER BY tries DESC LIMIT 1"
            ).fetchone()
            asked = "SELECT kind, fate, count(*) FROM results GROUP BY kind, fate ORDER BY kind, fate"
            fates = [{"kind": kind, "fate": fate, "count": count} for kind, fate, count in connection.execute(asked)]
        age = 0.0 if first is None else max(0.0, time.time() - first)
        return {
            "studies_waiting": waiting,
            "oldest_seconds": round(age, 1),
            "reason": None if reason is None else str(reason[0]),
            "results": fates,
        }

    def last_entries(self, name: str = "", most: int = 1000) -> list[tuple[float, str, str, str]]:
        """Return the last results: time, study, UID, and kind with fate; of one study or result alone where named."""
        asked = (
            "SELECT time, study_id, name, kind || ' ' || fate FROM results "
            "WHERE ?1 = '' OR study_id = ?1 OR name IN (?1, ?2) ORDER BY time DESC LIMIT ?3"
        )
        with self._database.reading() as connection:
            return connection.execute(asked, (name, self.name_of(name), most)).fetchall()[::-1]

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.dcm"

    def _sealed(self, text: str) -> bytes:
        return text.encode() if self._crosswalk is None else self._crosswalk.seal(text)

    def _unsealed(self, sealed: bytes) -> str:
        return sealed.decode() if self._crosswalk is None else self._crosswalk.unseal(sealed)


def _stands(connection: Connection, wanted: Wanted) -> bool:
    """Return whether results of the same films are wanted still."""
    row = connection.execute("SELECT films FROM returns WHERE study_id = ?", (wanted.study_id,)).fetchone()
    return row is not None and row[0] == json.dumps(wanted.films, sort_keys=True)


def _dropped(connection: Connection, study_id: str, fate: str = "%") -> list[str]:
    """Have the results of a study be gone, all or those of a fate; return their names."""
    asked = "UPDATE results SET fate = ? WHERE study_id = ? AND fate LIKE ? RETURNING name"
    return [name for (name,) in connection.execute(asked, (GONE, study_id, fate)).fetchall()]
