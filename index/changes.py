"""Studies that were added or deleted since an index was built, in one SQLite file beside it.

SQLite alone makes a change durable and orders writers. It must not know what is searched, nor what a row means.
"""

import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from index.errors import ArtefactError, CollectionError, FingerprintMismatch, WriteFailed
from index.files import sync
from index.places import require_here

FILE = "changes.sqlite"
VERSION = 1
_APPLICATION = 0x50524543  # "PREC": tells the file from any other SQLite database
_PATIENCE = 30.0
"""Seconds that a writer waits for another; each holds the file for the milliseconds of its own transaction."""
_TABLES = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE changes (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    study_id TEXT NOT NULL UNIQUE,
    row TEXT,
    embedding BLOB,
    sha256 TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Change:
    """The last thing that happened to a study: it was added with a row and a vector, or deleted (both None)."""

    sequence: int
    study_id: str
    row: Mapping[str, Any] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    """(D,)."""


class Changes:
    """The open file. One connection: its owner sees to it that one thread uses it at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    @classmethod
    def open(cls, folder: Path, fingerprint: str, embedding_dim: int) -> Self | None:
        """Return the changes of the collection in a folder; None where there never were any.

        Raises:
            ArtefactError: the file is damaged, of another version, or no file of ours.
            FingerprintMismatch: its vectors are of another encoder.
        """
        path = folder / FILE
        if not path.exists():
            return None
        with _told(path):
            connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=rw", _PATIENCE, isolation_level=None, check_same_thread=False, uri=True
            )
            found = cls(connection, path)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")  # what was deleted is gone from the file as well
                found._require_facts(fingerprint, embedding_dim)
            except (sqlite3.Error, CollectionError):
                connection.close()
                raise
        return found

    @classmethod
    def make(cls, folder: Path, fingerprint: str, embedding_dim: int, applied: int) -> Self:
        """Return the changes of the collection in a folder; where there are none, a new file's come after `applied`.

        Raises WriteFailed: it cannot be made; PlaceError: the index lies at an address; and what `open` raises.
        """
        path = require_here(folder) / FILE
        if not path.exists():
            fresh = folder / f".{FILE}.{_name()}.new"
            try:
                _set_up(fresh, applied, {"fingerprint": fingerprint, "embedding_dim": embedding_dim})
                with suppress(FileExistsError):  # another process was quicker
                    os.link(fresh, path)
                sync(folder)
            except OSError as error:
                raise WriteFailed(f"{str(path)!r} cannot be made: {error}") from error
            finally:
                fresh.unlink(missing_ok=True)
        found = cls.open(folder, fingerprint, embedding_dim)
        assert found is not None  # nobody removes the file
        return found

    def _require_facts(self, fingerprint: str, embedding_dim: int) -> None:
        if self._value("PRAGMA application_id") != _APPLICATION:
            raise ArtefactError(f"{str(self._path)!r} is no file of ours; {_REMEDY}")
        version = self._value("PRAGMA user_version")
        if version != VERSION:
            raise ArtefactError(f"expected changes of version {VERSION} in {str(self._path)!r}, got {version}")
        found = self._fact("fingerprint")
        if found != fingerprint or self._fact("embedding_dim") != embedding_dim:
            raise FingerprintMismatch(
                f"the index is of encoder {fingerprint[:12]}, studies were added to its folder by encoder "
                f"{str(found)[:12]}; index to another folder, or move {FILE} away to give those studies up"
            )

    @property
    def name(self) -> str:
        """The collection's own name in the folder of added films; no other collection has it."""
        return str(self._fact("name"))

    def rename(self) -> None:
        """Take a new name, as a copy has to."""
        with self.writing():
            self._connection.execute("UPDATE facts SET value = ? WHERE name = 'name'", (_name(),))

    def version(self) -> int:
        """Return a number that differs from the one before exactly if somebody else has changed the file since."""
        with _told(self._path):
            return self._value("PRAGMA data_version")

    def since(self, sequence: int) -> tuple[int, list[Change]]:
        """Return up to where changes were cleared away, and every change after `sequence`, oldest first.

        Raises:
            ArtefactError: a change is not what was written.
        """
        with _told(self._path), self._transaction("BEGIN"):
            cleared = int(self._fact("cleared"))
            asked = (
                "SELECT sequence, study_id, row, embedding, sha256 FROM changes WHERE sequence > ? ORDER BY sequence"
            )
            return cleared, [self._change(*row) for row in self._connection.execute(asked, (sequence,))]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the file against other writers; on leaving, all that was put is on the disk, after an error nothing.

        Raises:
            WriteFailed: the disk is full or does not take it, or another writer does not come to an end.
        """
        with _told(self._path), self._transaction("BEGIN IMMEDIATE"):
            yield

    def put(self, study_id: str, row: Mapping[str, Any] | None, embedding: npt.NDArray[np.float32] | None) -> None:
        """Write what happened to a study, in place of what happened to it before; None and None delete it."""
        text = None if row is None else json.dumps(row, ensure_ascii=False, allow_nan=False)
        blob = None if embedding is None else np.ascontiguousarray(embedding, dtype="<f4").tobytes()
        self._connection.execute(
            "INSERT OR REPLACE INTO changes (study_id, row, embedding, sha256) VALUES (?, ?, ?, ?)",
            (study_id, text, blob, _digest(study_id, text, blob)),
        )

    def clear(self, sequence: int) -> None:
        """Remove the changes up to `sequence`, which an index holds now, from the disk."""
        with self.writing():
            self._connection.execute("DELETE FROM changes WHERE sequence <= ?", (sequence,))
            self._connection.execute("UPDATE facts SET value = max(value, ?) WHERE name = 'cleared'", (sequence,))
        with _told(self._path):
            self._value("PRAGMA wal_checkpoint(TRUNCATE)")  # SQLite's log holds them too

    def faults(self) -> list[str]:
        """Return what SQLite finds wrong with the file, a sentence each."""
        with _told(self._path):
            found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check")]
        return [f"{FILE}: {one}" for one in found if one != "ok"]

    def copy_to(self, path: Path) -> None:
        """Write the file as it is at this moment, with all that was acknowledged, to another path."""
        with _told(path), closing(sqlite3.connect(path)) as other:
            self._connection.backup(other)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _change(self, sequence: int, study_id: str, text: str | None, blob: bytes | None, sha256: str) -> Change:
        if _digest(study_id, text, blob) != sha256:
            raise ArtefactError(f"change {sequence} in {str(self._path)!r} is not what was written; {_REMEDY}")
        vector = None if blob is None else np.frombuffer(blob, dtype="<f4")
        return Change(sequence, study_id, None if text is None else json.loads(text), vector)

    def _value(self, statement: str, given: Sequence[Any] = ()) -> Any:
        row = self._connection.execute(statement, given).fetchone()
        return None if row is None else row[0]

    def _fact(self, name: str) -> Any:
        return self._value("SELECT value FROM facts WHERE name = ?", (name,))


_REMEDY = f"restore a snapshot, or move {FILE} away to give up what was added or deleted since the index was built"
_UNWRITTEN = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
              sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)  # fmt: skip


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in our words what SQLite refuses."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNWRITTEN:
            raise WriteFailed(
                f"{str(path)!r} cannot be used at present ({error}); nothing was changed, try again"
            ) from error
        raise ArtefactError(f"{str(path)!r} is damaged ({error}); {_REMEDY}") from error


def _set_up(path: Path, applied: int, facts: Mapping[str, Any]) -> None:
    """Write an empty file of changes, whole on the disk when this returns."""
    with _told(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(_TABLES)
        connection.executemany(
            "INSERT INTO facts VALUES (?, ?)", {**facts, "cleared": applied, "name": _name()}.items()
        )
        connection.execute("INSERT INTO sqlite_sequence VALUES ('changes', ?)", (applied,))
        connection.execute("PRAGMA journal_mode = WAL")
    sync(path)


def _digest(study_id: str, text: str | None, blob: bytes | None) -> str:
    parts = (study_id.encode(), b"" if text is None else text.encode(), blob or b"")
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()


def _name() -> str:
    return secrets.token_hex(8)
