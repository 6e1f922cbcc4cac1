"""What a PACS has sent and what became of each film: files that wait, and a SQLite file that says so.

A film is here from the moment on which its sender is told that it has come. Whatever is killed afterwards, it is in the
collection once and in no film's place, or it waits.
"""

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from index.errors import WriteFailed
from index.importing.dicom_header import Film
from index.importing.pseudonyms import Pseudonyms
from index.storage.database import Database
from index.storage.files import sync

FILE = "follow.sqlite"
WAITS, SHOWN, BESIDE, GONE = "waits", "added", "beside", "gone"
"""Fates of a film: it waits; it is a study's frontal or lateral in the collection; its study has others for its view;
the PACS has it no more. Every other fate says why it was refused."""
MOST_TOLD = 1000
"""Entries of the log that are read at a time."""
MOST_LOG = 1_000_000
"""Entries that the log keeps; the state of each film is kept beside it for ever."""
_APPLICATION = 0x50464C57  # "PFLW"
_TABLES = """
CREATE TABLE IF NOT EXISTS studies (
    study TEXT PRIMARY KEY,
    place TEXT,
    first REAL,
    due REAL,
    tries INTEGER NOT NULL DEFAULT 0,
    ids TEXT NOT NULL DEFAULT '[]'
) STRICT;
CREATE INDEX IF NOT EXISTS by_due ON studies (due) WHERE due IS NOT NULL;
CREATE TABLE IF NOT EXISTS films (
    study TEXT NOT NULL,
    film TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    fate TEXT NOT NULL,
    facts TEXT,
    png TEXT,
    path TEXT,
    PRIMARY KEY (study, film)
) STRICT;
CREATE INDEX IF NOT EXISTS by_film ON films (film);
CREATE INDEX IF NOT EXISTS by_content ON films (sha256);
CREATE INDEX IF NOT EXISTS by_png ON films (png);
CREATE TABLE IF NOT EXISTS log (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    study TEXT NOT NULL,
    film TEXT NOT NULL,
    fate TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT
"""
_READING = "reading "
_FILE_OF_FILM = re.compile(r"[0-9a-f]{64}\.(dcm|png)|[0-9a-f]{32}\.coming")


@dataclass(frozen=True)
class Kept:
    """A film as it is known: of which content, what became of it and, once it was read, what its header says."""

    film: str
    sha256: str
    fate: str
    header: Film | None = None
    png: str | None = None  # the SHA-256 of its pixels as a PNG
    path: str | None = None  # of that below the image root, where a study of the collection shows it
    said: Mapping[str, str] | None = None  # what results need of its header, where it was read just now


@dataclass(frozen=True)
class Due:
    """A study that is to be looked at: its films have been still for long enough."""

    study: str
    place: str | None  # where the PACS has it; None where it has sent it of itself
    due: float
    first: float  # when the first of what is to be looked at came
    tries: int
    ids: tuple[str, ...]  # of its studies in the collection


class Inbox:
    """The folder of what has come. Safe under threads; one process has it at a time, any number may ask it."""

    def __init__(self, folder: Path, settle: float, pseudonyms: Pseudonyms | None = None) -> None:
        """Open a folder, or make one.

        Args:
            settle: seconds without a new film after which a study is looked at.
            pseudonyms: where they are given, the file holds no UID but under them.

        Raises:
            StudiesError: others can read its file. ArtefactError: it is damaged. WriteFailed: it cannot be made.
        """
        self.folder, self._settle, self._pseudonyms = folder, settle, pseudonyms
        try:
            folder.mkdir(exist_ok=True, mode=0o700)
            for name in ("came", "beside"):
                (folder / name).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise WriteFailed(f"the folder {str(folder)!r} cannot be made: {error.strerror}") from error
        self._database = Database(
            folder / FILE, "state of what was followed", _APPLICATION, _TABLES, make=True, wal=True
        )

    def name_of(self, kind: str, uid: str) -> str:
        """Return what a UID is called here: itself, or its pseudonym."""
        return uid if self._pseudonyms is None else self._pseudonyms.of(kind, uid)

    def came(self, sha256: str) -> Path:
        """Return where the file of a film lies that waits."""
        return self.folder / "came" / f"{sha256}.dcm"

    def beside(self, png: str) -> Path:
        """Return where the pixels of a film lie that no study of the collection shows."""
        return self.folder / "beside" / f"{png}.png"

    def put_beside(self, png: str, content: bytes) -> None:
        """Write pixels that no study shows, or none yet; `settled` has them on the disk where they stay."""
        partial = self.folder / "beside" / f"{secrets.token_hex(16)}.coming"
        try:
            partial.write_bytes(content)
            os.replace(partial, self.beside(png))
        finally:
            partial.unlink(missing_ok=True)

    def take(self, study: str, films: Mapping[str, Path], *, of_its_own: bool = True) -> int:
        """Take films of a study, whose files lie in `came`, and return how many are new.

        Args:
            study, films: by their UIDs, or what else the PACS calls the study.
            of_its_own: the PACS has sent them, unasked: they are on the disk when this returns. Their study is looked
                at once it is settled, and one in which a film was before, too.

        Raises:
            WriteFailed: the disk does not take it. OSError: alike.
        """
        study, digests = self.name_of("study", study), {}
        for uid, file in films.items():
            with file.open("rb") as content:
                digests[uid] = hashlib.file_digest(content, "sha256").hexdigest()
                if of_its_own:
                    os.fsync(content.fileno())
        with self._database.writing() as connection:
            for uid, file in films.items():
                os.replace(file, self.came(digests[uid]))
            if of_its_own:
                sync(self.folder / "came")
            named = {self.name_of("film", uid): sha256 for uid, sha256 in digests.items()}
            return sum(self._taken(connection, study, film, sha256, of_its_own) for film, sha256 in named.items())

    def _taken(self, connection: Connection, study: str, film: str, sha256: str, of_its_own: bool) -> bool:
        asked = "SELECT sha256, fate FROM films WHERE study = ? AND film = ?"
        known = connection.execute(asked, (study, film)).fetchone()
        if known is not None and known[0] == sha256 and known[1] != GONE:
            if known[1] != WAITS:
                self.came(sha256).unlink(missing_ok=True)
            return False
        connection.execute(
            "INSERT INTO films (study, film, sha256, fate) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "sha256 = excluded.sha256, fate = excluded.fate",
            (study, film, sha256, WAITS),
        )
        _log(connection, study, film, "came" if known is None else "came again")
        if of_its_own:
            moved = "UPDATE films SET fate = ? WHERE film = ? AND study <> ? AND fate <> ? RETURNING study"
            for (other,) in connection.execute(moved, (GONE, film, study, GONE)).fetchall():
                _log(connection, other, film, GONE)
                self._mark(connection, other, None)
            self._mark(connection, study, None)
        return True

    def mark(self, places: Iterable[tuple[str, str]], feed: Mapping[str, str] | None = None) -> None:
        """Have studies looked at once they are settled, and write down how far their PACS was read.

        Args:
            places: the study, as it is called in `take`, and where the PACS has it.
        """
        with self._database.writing() as connection:
            for study, place in dict(places).items():
                self._mark(connection, self.name_of("study", study), place)
            said = (feed or {}).items()
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", list(said))

    def mark_gone(self, studies: Iterable[str]) -> None:
        """Have studies looked at, by their names here, that the PACS has no more."""
        with self._database.writing() as connection:
            for study in studies:
                known = "SELECT film FROM films WHERE study = ? AND fate <> ?"
                for (film,) in connection.execute(known, (study, GONE)).fetchall():
                    _log(connection, study, film, GONE)
                connection.execute("UPDATE films SET fate = ? WHERE study = ?", (GONE, study))
                self._mark(connection, study, None)

    def _mark(self, connection: Connection, study: str, place: str | None) -> None:
        connection.execute(
            "INSERT INTO studies (study, place, first, due) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "place = excluded.place, first = coalesce(first, excluded.first), due = excluded.due",
            (study, place, now := time.time(), now + self._settle),
        )

    def due(self, most: int) -> list[Due]:
        """Return the studies that are settled, those that have waited longest first, and count that they were tried."""
        with self._database.writing() as connection:
            asked = "SELECT study, place, due, first, tries, ids FROM studies WHERE due <= ? ORDER BY due LIMIT ?"
            rows = connection.execute(asked, (time.time(), most)).fetchall()
            studies = [
                Due(study, place, due, first, tries, tuple(json.loads(ids)))
                for study, place, due, first, tries, ids in rows
            ]
            connection.executemany(
                "UPDATE studies SET tries = tries + 1 WHERE study = ?", [(study.study,) for study in studies]
            )
        return studies

    def films(self, study: str) -> list[Kept]:
        """Return what is known of a study's films, by its name here."""
        asked = "SELECT film, sha256, fate, facts, png, path FROM films WHERE study = ? ORDER BY film"
        with self._database.reading() as connection:
            rows = connection.execute(asked, (study,)).fetchall()
        return [Kept(film, sha256, fate, _header(facts), png, path) for film, sha256, fate, facts, png, path in rows]

    def intend(self, ids: Mapping[str, Iterable[str]]) -> None:
        """Write down which studies of the collection a study is about to have beside those that it has."""
        with self._database.writing() as connection:
            rows = [(json.dumps(sorted(some)), study) for study, some in ids.items()]
            connection.executemany("UPDATE studies SET ids = ? WHERE study = ?", rows)

    def settled(self, due: Due, films: Iterable[Kept], ids: Iterable[str]) -> None:
        """Write down what became of a study's films, unless others have come meanwhile: then it is looked at again."""
        films = list(films)
        fresh = [film for film in films if film.fate == BESIDE and film.png is not None]
        for film in fresh:
            sync(self.beside(film.png or ""))
        if fresh:
            sync(self.folder / "beside")
        with self._database.writing() as connection:
            for film in films:
                asked = "SELECT sha256, fate FROM films WHERE study = ? AND film = ?"
                sha256, fate = connection.execute(asked, (due.study, film.film)).fetchone() or (film.sha256, "")
                if sha256 != film.sha256 or (fate == GONE != film.fate):
                    continue  # other content has come meanwhile, or it has gone
                if fate != film.fate:
                    _log(connection, due.study, film.film, film.fate)
                connection.execute(
                    "INSERT OR REPLACE INTO films VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (due.study, film.film, film.sha256, film.fate, _facts(film.header), film.png, film.path),
                )
            connection.execute(
                "UPDATE studies SET ids = ?, tries = 0, "
                "place = iif(due = ?, NULL, place), first = iif(due = ?, NULL, first), due = iif(due = ?, NULL, due) "
                "WHERE study = ?",
                (json.dumps(sorted(ids)), due.due, due.due, due.due, due.study),
            )
            connection.execute("DELETE FROM log WHERE number <= (SELECT max(number) FROM log) - ?", (MOST_LOG,))
        self._forget({film.sha256 for film in films}, {film.png for film in films if film.png is not None})

    def put_off(self, studies: Iterable[Due], seconds: float) -> None:
        """Have studies that could not be dealt with now looked at later."""
        with self._database.writing() as connection:
            rows = [(time.time() + seconds, study.study, study.due) for study in studies]
            connection.executemany("UPDATE studies SET due = ? WHERE study = ? AND due = ?", rows)

    def tidy(self) -> None:
        """Remove what a kill has left: files of films that neither wait nor are beside others."""
        there = [path for name in ("came", "beside") for path in (self.folder / name).iterdir()]
        ours = [path for path in there if _FILE_OF_FILM.fullmatch(path.name)]
        self._forget(*({path.stem for path in ours if path.suffix == suffix} for suffix in (".dcm", ".png")))
        for path in ours:
            if path.suffix == ".coming":
                path.unlink(missing_ok=True)

    def _forget(self, came: set[str], pngs: set[str]) -> None:
        """Remove those of these files whose films wait no more, or are not beside others."""
        with self._database.writing() as connection:  # nobody takes a film meanwhile
            for name in came:
                if not _any(connection, "SELECT 1 FROM films WHERE sha256 = ? AND fate = ?", name, WAITS):
                    self.came(name).unlink(missing_ok=True)
            for name in pngs:
                if not _any(connection, "SELECT 1 FROM films WHERE png = ? AND fate = ?", name, BESIDE):
                    self.beside(name).unlink(missing_ok=True)

    def about_to_read(self, sha256: str) -> int:
        """Write down that a film is about to be decoded, and return how often that was begun and ended with no word."""
        with self._database.writing() as connection:
            [(times,)] = connection.execute(
                "INSERT INTO facts VALUES (?, '1') ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value",
                (_READING + sha256,),
            ).fetchall()
        return int(times) - 1

    def was_read(self, sha256: str) -> None:
        """Write down that decoding a film has not ended the process."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM facts WHERE name = ?", (_READING + sha256,))

    def fact(self, name: str, default: str = "") -> str:
        """Return what was written down of the PACS."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if row is None else str(row[0])

    def known(self) -> set[str]:
        """Return the studies, by their names here, that have films which are not gone."""
        with self._database.reading() as connection:
            asked = (
                "SELECT DISTINCT study FROM films WHERE fate <> ? UNION SELECT study FROM studies WHERE due IS NOT NULL"
            )
            return {row[0] for row in connection.execute(asked, (GONE,))}

    def counts(self) -> dict[str, Any]:
        """Return how many films have which fate, how many studies wait, and since when the first of them does."""
        with self._database.reading() as connection:
            fates = dict(connection.execute("SELECT fate, count(*) FROM films GROUP BY fate ORDER BY fate"))
            waiting, first, tries = connection.execute(
                "SELECT count(*), min(first), max(tries) FROM studies WHERE due IS NOT NULL"
            ).fetchone()
        age = 0.0 if first is None else max(0.0, time.time() - first)
        return {"films": fates, "studies_waiting": waiting, "oldest_seconds": round(age, 1), "most_tries": tries or 0}

    def last_entries(self, name: str = "", most: int = MOST_TOLD) -> Iterator[tuple[float, str, str, str]]:
        """Yield the last entries of the log: time, study, film and fate.

        Args:
            name: of one study or film alone, by its UID, its name here, or its study_id in the collection.
        """
        asked = (
            "SELECT time, study, film, fate FROM log WHERE ?1 = '' OR study IN (?1, ?2) OR film IN (?1, ?3) "
            "OR study IN (SELECT study FROM studies WHERE instr(ids, ?4)) ORDER BY number DESC LIMIT ?5"
        )
        given = (name, self.name_of("study", name), self.name_of("film", name), json.dumps(name), most)
        with self._database.reading() as connection:
            rows = connection.execute(asked, given).fetchall()
        yield from reversed(rows)


def _any(connection: Connection, asked: str, *given: str) -> bool:
    return connection.execute(asked, given).fetchone() is not None


def _log(connection: Connection, study: str, film: str, fate: str) -> None:
    connection.execute(
        "INSERT INTO log (time, study, film, fate) VALUES (?, ?, ?, ?)", (time.time(), study, film, fate)
    )


def _facts(header: Film | None) -> str | None:
    return None if header is None else json.dumps(asdict(header))


def _header(facts: str | None) -> Film | None:
    if facts is None:
        return None
    said = dict.fromkeys((field.name for field in fields(Film)), "") | json.loads(facts)  # an older version wrote fewer
    return Film(**(said | {"number": tuple(said["number"])}))
