"""The file of changes: its tables and facts, what SQLite refuses of it, and how an empty one is made beside an index.

A change that was turned, moved or lost is noticed by the SHA-256 of each, by their sum, and by a seal on the facts.
"""

import hashlib
import json
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from index.errors import ArtefactError, WriteFailed
from index.storage.files import seal_of, sync
from index.storage.folder import CHANGES, CHANGES_MARKER, REMEDY
from index.storage.origin import origin_of

VERSION = 2
APPLICATION = 0x50524543  # "PREC": tells the file from any other SQLite database
MOST_VALUE = 1 << 24
"""Bytes of a row or a vector: a study's columns as JSON have a few thousand."""
_FRESH = re.compile(rf"\.{re.escape(CHANGES)}\.[0-9a-f]{{16}}\.new(-wal|-shm|-journal)?")
_TABLES = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE changes (
    sequence INTEGER PRIMARY KEY,
    study_id TEXT NOT NULL UNIQUE,
    row TEXT,
    embedding BLOB,
    sha256 TEXT NOT NULL
);
"""
NOTHING = 64 * "0"
"""The sum of no changes."""
_AT_PRESENT = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
)


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Raise our errors for those of SQLite.

    Raises:
        WriteFailed: the disk does not take it, at present or for this user. ArtefactError: the file is damaged.
    """
    try:
        yield
    except sqlite3.ProgrammingError:  # ours, never the file's
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_CANTOPEN:
            raise WriteFailed(
                f"{str(path)!r} cannot be opened; SQLite writes beside it also for those who only search: let this "
                "user write to the folder, or compact the collection and copy it without its changes"
            ) from error
        if code in _AT_PRESENT:
            raise WriteFailed(
                f"{str(path)!r} cannot be used at present ({error}); nothing was changed, try again"
            ) from error
        raise ArtefactError(f"{str(path)!r} is damaged ({error}); {REMEDY}") from error


def require_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Raise ArtefactError unless a file holds our tables and nothing else: a view or a trigger of another's would run.

    Called before any of its tables is asked for. From then on no value of it is longer than MOST_VALUE.
    """
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE)
    asked = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name LIMIT 100"
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(_TABLES)
        expected = ours.execute(asked).fetchall()
    if connection.execute(asked).fetchall() != expected:
        raise ArtefactError(f"{str(path)!r} holds tables that Precedent did not write; {REMEDY}")


def mark_changed(folder: Path) -> None:
    """Note beside the changes of a folder that they are there; any number of processes may do so at once."""
    with suppress(FileExistsError), (folder / CHANGES_MARKER).open("x", encoding="utf-8") as file:
        file.write(f"{CHANGES} holds what was added to this index and deleted from it.\n")
        sync(folder)


def set_up(path: Path, applied: int, facts: Mapping[str, Any]) -> None:
    """Write an empty file of changes, there whole or not at all; another process may be quicker.

    Args:
        applied: up to where the index beside it holds all changes.
        facts: the fingerprint and the embedding_dim of its vectors.
    """
    fresh = path.with_name(f".{CHANGES}.{new_name()}.new")
    try:
        with sqlite_errors(fresh), closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
            connection.executescript(_TABLES)
            said = {"former": "", "also": "", "cleared": applied, "last": applied, "sum": NOTHING}
            save_facts(connection, {**facts, **new_films(path.parent), **said})
            connection.execute("PRAGMA journal_mode = WAL")
        sync(fresh)
        with suppress(FileExistsError, FileNotFoundError):  # another's is there, and took this for left over
            os.link(fresh, path)
        sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def remove_left_over(folder: Path) -> None:
    """Remove unfinished first files that killed processes have left, once there is a finished one."""
    for path in folder.glob(f".{CHANGES}.*"):
        if _FRESH.fullmatch(path.name):
            path.unlink(missing_ok=True)


def save_facts(connection: sqlite3.Connection, facts: Mapping[str, Any]) -> None:
    """Write facts and their seal, within the caller's transaction."""
    connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", [*facts.items(), ("seal", seal_of(facts))])


def new_films(folder: Path, becomes: Path | None = None) -> dict[str, str]:
    """Return the facts of a new folder of films for the collection in `folder`, by a name that no other collection has.

    Args:
        becomes: where that is about to be moved to.
    """
    name = new_name()
    return {"name": name, "origin": origin_text(folder, name, becomes)}


def origin_text(folder: Path, name: str, becomes: Path | None = None) -> str:
    """Return where the folder of films was named, as JSON."""
    return json.dumps(origin_of(folder, films_of(name), becomes))


def films_of(name: str) -> str:
    """Return the name of the folder of films that an origin stands for."""
    return f"films {name}"


def new_name() -> str:
    """Return a name that no other collection has."""
    return secrets.token_hex(8)


def digest(sequence: Any, study_id: Any, text: Any, blob: Any) -> str:
    """Return the SHA-256 of a change, 64 hex digits; "" where its parts are of types that no change has."""
    try:
        parts = (str(sequence).encode(), study_id.encode(), (text or "").encode(), bytes(memoryview(blob or b"")))
    except (AttributeError, TypeError):
        return ""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()


def summed(total: str, added: Sequence[str], gone: Sequence[str] = ()) -> str:
    """Return a sum of digests, modulo 2^256 and in hex, with some added and some removed, in whatever order."""
    value = int(total, 16) + sum(int(digest, 16) for digest in added) - sum(int(digest, 16) for digest in gone)
    return f"{value % 2**256:064x}"
