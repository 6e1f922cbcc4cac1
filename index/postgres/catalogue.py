"""The table that says what collections a database holds: how each was built, and which one an address means.

It is read and changed together with the studies, in one transaction, so no search sees the one without the other.
Whoever changes a collection holds its row meanwhile, so that two processes change it one after the other.
"""

import json
from typing import Any, NamedTuple

from index.engines.manifest import require_manifest
from index.errors import ArtefactError
from index.postgres.address import PostgresAddress
from index.postgres.client import LEAST_PGVECTOR, Asking, PostgresServer, Statement, sql

_MAKE = """CREATE TABLE IF NOT EXISTS precedent_collections (
    name text COLLATE "C" PRIMARY KEY, collection text COLLATE "C" NOT NULL, current boolean NOT NULL DEFAULT false,
    shards integer NOT NULL DEFAULT 0, rows bigint NOT NULL DEFAULT 0, changed boolean NOT NULL DEFAULT false,
    manifest text, gate float8[])"""
_COLUMNS = "name, collection, current, shards, rows, changed, manifest, gate"
_KINDS = {"beam": int}
_MOST_MANIFEST = 1 << 22
"""Characters of one; each column of a collection takes some 30."""
MOST_COLLECTIONS = 10_000
"""Builds that are there at a time."""


class Entry(NamedTuple):
    """What the table says of a collection."""

    name: str
    """Of its own table."""
    collection: str
    current: bool
    """Whether it is what that name means to searches."""
    shards: int
    """Those of the export that are wholly there."""
    rows: int
    changed: bool
    """Whether studies were added or deleted since it was built."""
    manifest: dict[str, Any] | None
    """Written when all studies are there and indexed."""
    gate: list[float]
    """Similarities of marked studies to the nearest of another patient."""


def entry_of(asking: Asking, name: str, *, held: bool = False) -> Entry | None:
    """Return what is said of a table; None where it is unknown.

    Args:
        held: keep it from others' changes until the transaction ends.
    """
    text = f"SELECT {_COLUMNS} FROM precedent_collections WHERE name = %s" + (" FOR UPDATE" if held else "")
    found = asking.rows(Statement(text, (name,)), 1)
    return _as_entry(found[0]) if found else None


def entries_of(asking: Asking, address: PostgresAddress) -> list[Entry]:
    """Return all that was built under the name of an address."""
    text = f"SELECT {_COLUMNS} FROM precedent_collections WHERE collection = %s ORDER BY name"
    return [_as_entry(row) for row in asking.rows(Statement(text, (address.collection,)), MOST_COLLECTIONS)]


def current_entry(asking: Asking, address: PostgresAddress) -> Entry | None:
    """Return what an address means; None where it means nothing."""
    return next((entry for entry in entries_of(asking, address) if entry.current), None)


def manifest_of(entry: Entry, address: PostgresAddress) -> dict[str, Any]:
    """Return the manifest of a whole collection of ours. Raises ArtefactError: it is none, or of another version."""
    return require_manifest(entry.manifest, address, _KINDS)


def make_catalogue(server: PostgresServer) -> None:
    """Make the table where it is not there, and pgvector.

    Raises:
        ArtefactError: pgvector is missing or too old, or the database is not in UTF-8; nothing was created.
    """
    with server.transaction(write=True) as asking:
        [(encoding,)] = asking.rows(Statement("SELECT current_setting('server_encoding')"), 1)
        if encoding != "UTF8":
            raise ArtefactError(f"expected a database in UTF8 on {server.where}, got {encoding!r}; create another")
        _require_pgvector(asking, server)
        asking.do(Statement("SELECT pg_advisory_xact_lock(hashtext('precedent_collections'))"))
        asking.do(Statement(_MAKE))


def _require_pgvector(asking: Asking, server: PostgresServer) -> None:
    least = ".".join(map(str, LEAST_PGVECTOR))
    text = "SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'vector'"
    found = asking.rows(Statement(text), 1)
    if not found:
        raise ArtefactError(
            f"expected pgvector {least} or later on {server.where}, got a server without it; nothing was created; "
            "install it beside PostgreSQL"
        )
    installed, offered = found[0]
    version = installed or offered
    if not isinstance(version, str) or _as_version(version) < LEAST_PGVECTOR:
        raise ArtefactError(
            f"expected pgvector {least} or later on {server.where}, got {str(version)[:40]!r}; nothing was created; "
            "upgrade it, then run there: ALTER EXTENSION vector UPDATE"
        )
    if installed is None:
        asking.do(Statement("CREATE EXTENSION IF NOT EXISTS vector"))


def _as_version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    return tuple(map(int, parts[:3])) if all(part.isdecimal() and len(part) < 9 for part in parts[:3]) else ()


def save_entry(asking: Asking, name: str, **facts: Any) -> None:
    """Write what is new of a collection."""
    if "manifest" in facts:
        facts["manifest"] = json.dumps(facts["manifest"])
    assigned = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(fact)) for fact in facts)
    text = sql.SQL("UPDATE precedent_collections SET {} WHERE name = %s").format(assigned)
    asking.do(Statement(text, (*facts.values(), name)))


def _as_entry(row: tuple[Any, ...]) -> Entry:
    """Return a row of the table. Raises ArtefactError: Precedent did not write it."""
    *facts, text, gate = row
    kinds = (str, str, bool, int, int, bool)
    whole = all(type(fact) is kind for fact, kind in zip(facts, kinds, strict=True))
    if not whole or not isinstance(text, str | None) or len(text or "") > _MOST_MANIFEST or not _is_gate(gate):
        raise ArtefactError(
            "precedent_collections in this database has a row that Precedent did not write; index the export anew, in "
            "another database"
        )
    try:
        manifest = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        manifest = {}  # which is no collection of Precedent
    name, collection, current, shards, rows, changed = facts
    return Entry(name, collection, current, shards, rows, changed, manifest, gate or [])


def _is_gate(gate: Any) -> bool:
    return gate is None or (isinstance(gate, list) and all(isinstance(one, float) and abs(one) < 2 for one in gate))
