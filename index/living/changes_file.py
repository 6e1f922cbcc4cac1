"""What a file of changes looks like, and how an empty one comes to lie beside an index.

Knows the tables and the facts; it must not know what a change is.
"""

import json
import os
import re
import secrets
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from index.errors import ArtefactError
from index.living.change_digests import NOTHING, seal
from index.living.change_faults import FILE, REMEDY, WITNESS, told
from index.storage.files import sync
from index.storage.origin import origin_of

VERSION = 2
APPLICATION = 0x50524543  # "PREC": tells the file from any other SQLite database
MOST_VALUE = 1 << 24
"""Bytes of a row or a vector: a study's columns as JSON have a few thousand."""
_FRESH = re.compile(rf"\.{re.escape(FILE)}\.[0-9a-f]{{16}}\.new(-wal|-shm|-journal)?")
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


def require_plain_files(folder: Path) -> None:
    """Refuse what is no file in the place of the changes' files, and what SQLite would follow out of the folder.

    It writes to what a link leads to. A rollback journal can name a further file, which SQLite removes, wherever that
    lies, before any table is read; ours are in WAL mode and never have one.

    Raises:
        ArtefactError: there is a link, a pipe, a device or a folder, or a rollback journal.
    """
    names = (FILE, *(f"{FILE}-{ending}" for ending in ("wal", "shm", "journal")), WITNESS)
    for path in (folder / name for name in names):
        if path.is_symlink():
            raise ArtefactError(f"expected {path.name!r} to be a file of {str(folder)!r}, got a link; {REMEDY}")
        if path.exists() and not path.is_file():  # never opened and closed here: that would drop SQLite's own locks
            raise ArtefactError(f"expected {path.name!r} to be a file of {str(folder)!r}, got none; {REMEDY}")
    if (folder / f"{FILE}-journal").exists():
        raise ArtefactError(f"expected no {FILE}-journal in {str(folder)!r}, got one, which is none of ours; {REMEDY}")


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
        raise ArtefactError(f"{str(path)!r} holds other tables than ours; {REMEDY}")


def bear_witness(folder: Path) -> None:
    """Note beside the changes of a folder that they are there; any number of processes may do so at once."""
    with suppress(FileExistsError), (folder / WITNESS).open("x", encoding="utf-8") as file:
        file.write(f"{FILE} holds what was added to this index and deleted from it.\n")
        sync(folder)


def set_up(path: Path, applied: int, facts: Mapping[str, Any]) -> None:
    """Write an empty file of changes, there whole or not at all; another process may be quicker.

    Args:
        applied: up to where the index beside it holds all changes.
        facts: the fingerprint and the embedding_dim of its vectors.
    """
    fresh = path.with_name(f".{FILE}.{new_name()}.new")
    try:
        with told(fresh), closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
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
    """Remove what kills have left of files that were to be the first, once there is one."""
    for path in folder.glob(f".{FILE}.*"):
        if _FRESH.fullmatch(path.name):
            path.unlink(missing_ok=True)


def save_facts(connection: sqlite3.Connection, facts: Mapping[str, Any]) -> None:
    """Write facts and their seal, within the caller's transaction."""
    connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", [*facts.items(), ("seal", seal(facts))])


def new_films(folder: Path, becomes: Path | None = None) -> dict[str, str]:
    """Return facts of a folder of films that no other collection has, named for the collection in `folder`.

    Args:
        becomes: where that is about to be moved to.
    """
    name = new_name()
    return {"name": name, "origin": origin_text(folder, name, becomes)}


def origin_text(folder: Path, name: str, becomes: Path | None = None) -> str:
    """Return where a folder of films was named, as a fact is written."""
    return json.dumps(origin_of(folder, films_of(name), becomes))


def films_of(name: str) -> str:
    """Return what the origin of a folder of films holds for."""
    return f"films {name}"


def new_name() -> str:
    """Return a name that no other collection has."""
    return secrets.token_hex(8)
