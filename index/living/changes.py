"""Studies that were added or deleted since an index was built, in one SQLite file beside it.

SQLite makes a change durable and orders writers.
"""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from index.errors import ArtefactError, CollectionError, FingerprintMismatch, WriteFailed
from index.living.added_films import MOST_NAMES, NAME, NAMES
from index.living.changes_file import (
    APPLICATION,
    NOTHING,
    VERSION,
    digest,
    films_of,
    mark_changed,
    new_films,
    origin_text,
    require_tables,
    save_facts,
    set_up,
    sqlite_errors,
    summed,
)
from index.storage.files import finite, parse_json, seal_of
from index.storage.folder import CHANGES, GIVE_UP, REMEDY, require_plain_files, was_changed
from index.storage.origin import is_at_origin
from index.storage.places import require_here

_FIRST = -(2**63)
_FACTS = {
    "fingerprint": re.compile(r"\w{1,64}"),
    "embedding_dim": None,
    "name": NAME,
    "former": NAMES,
    "also": NAMES,
    "origin": re.compile(r"\{.{0,8000}\}", re.DOTALL),
    "cleared": None,
    "last": None,
    "sum": re.compile(r"[0-9a-f]{64}"),
}
"""What each fact looks like; None: a whole number. A name becomes part of a path, so it is checked."""
_LATER = {"former": "", "also": "", "origin": "{}"}
"""Facts that files of older versions lack, and the values they are given then."""
_PATIENCE = 30.0
"""Seconds that a writer waits for another; each holds the file for the milliseconds of its own transaction."""


@dataclass(frozen=True)
class Change:
    """The latest change of a study: it was added with a row and a vector, or deleted (both None)."""

    sequence: int
    study_id: str
    row: Mapping[str, Any] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    """(D,)."""


class Changes:
    """The open file. One connection: its owner sees to it that one thread uses it at a time."""

    _facts: dict[str, Any]
    """While it is written: fingerprint, embedding_dim, up to where it was `cleared`, the `last` sequence that was
    given, and the `sum` of all digests, modulo 2^256, in hex; of the added films, the `name` of the folder that they
    are kept in, the `origin` of that, names that it has `also`, and the `former` ones, which another may have."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    @classmethod
    def open(cls, folder: Path, fingerprint: str, embedding_dim: int) -> Self | None:
        """Return the changes of the collection in a folder; None where there never were any.

        Raises:
            ArtefactError: the file is missing, damaged, of another version, or no file of ours.
            FingerprintMismatch: its vectors are of another encoder.
        """
        path = folder / CHANGES
        require_plain_files(folder)
        expected = was_changed(folder)  # looked at first: a first writer may be at work
        if not path.exists():
            if expected:
                raise ArtefactError(f"{CHANGES} is missing from {str(folder)!r}; {REMEDY}")
            return None
        with sqlite_errors(path):
            connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=rw", _PATIENCE, isolation_level=None, check_same_thread=False, uri=True
            )
            changes = cls(connection, path)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")  # what was deleted is gone from the file as well
                connection.execute("PRAGMA cell_size_check = ON")
                connection.execute("PRAGMA trusted_schema = OFF")
                require_tables(connection, path)
                changes._require_facts(fingerprint, embedding_dim)
            except (sqlite3.Error, CollectionError):
                connection.close()
                raise
        return changes

    @classmethod
    def make(cls, folder: Path, fingerprint: str, embedding_dim: int, applied: int) -> Self:
        """Return the changes of the collection in a folder; where there are none, a new file's come after `applied`.

        Raises WriteFailed: it cannot be made; PlaceError: the index lies at an address; and what `open` raises.
        """
        path = require_here(folder) / CHANGES
        try:
            if not was_changed(folder):
                set_up(path, applied, {"fingerprint": fingerprint, "embedding_dim": embedding_dim})
            changes = cls.open(folder, fingerprint, embedding_dim)
            assert changes is not None  # nobody removes the file
            mark_changed(folder)
        except OSError as error:
            raise WriteFailed(f"{str(path)!r} cannot be made: {error}") from error
        return changes

    def _require_facts(self, fingerprint: str, embedding_dim: int) -> None:
        if self._value("PRAGMA application_id") != APPLICATION:
            raise ArtefactError(f"{str(self._path)!r} was not written by Precedent; {REMEDY}")
        version = self._value("PRAGMA user_version")
        if version != VERSION:
            raise ArtefactError(
                f"expected changes of version {VERSION} in {str(self._path)!r}, got {version}; compact the folder with "
                f"the Precedent that wrote them, then {GIVE_UP}"
            )
        facts = self._read_facts()
        if (facts["fingerprint"], facts["embedding_dim"]) != (fingerprint, embedding_dim):
            raise FingerprintMismatch(
                f"the index is of encoder {fingerprint[:12]}, studies were added to its folder by encoder "
                f"{facts['fingerprint'][:12]}; index to another folder, or {GIVE_UP}"
            )

    @property
    def name(self) -> str:
        """The folder that films are added to, once the changes are `settle`d; no other collection has it."""
        with sqlite_errors(self._path):
            return str(self._read_facts()["name"])

    def film_folders(self) -> tuple[list[str], list[str]]:
        """Return the names of the folders whose films are this collection's, and of those that may be another's.

        Where the folder of the collection is a copy, or may be one, all are another's.
        """
        with sqlite_errors(self._path):
            facts = self._read_facts()
        own, former = [facts["name"], *facts["also"].split()], facts["former"].split()
        return (own, former) if self._is_at_origin(facts) else ([], [*own, *former])

    def settle(self, becomes: Path | None = None) -> None:
        """Make it safe to add films: a copied collection gets its own folder for them.

        Args:
            becomes: where its folder is about to be moved to, which is a copy then in any case.
        """
        with sqlite_errors(self._path):
            if becomes is None and self._is_at_origin(self._read_facts()):
                return
        with self.writing():
            facts = self._facts
            if becomes is not None or not self._is_at_origin(facts):
                former = _joined(facts["name"], facts["also"], facts["former"])
                facts |= {"also": "", "former": former} | new_films(self._path.parent, becomes)

    def claim(self) -> None:
        """Take ownership of all films that it has ever named: the collection was moved, not copied."""
        with self.writing():
            facts = self._facts
            facts |= {"also": _joined(facts["also"], facts["former"]), "former": ""}
            facts["origin"] = origin_text(self._path.parent, facts["name"])

    def _is_at_origin(self, facts: Mapping[str, Any]) -> bool:
        return is_at_origin(self._path.parent, _origin(facts), films_of(facts["name"]))

    def version(self) -> int:
        """Return a number that changes whenever another process has changed the file."""
        with sqlite_errors(self._path):
            return self._value("PRAGMA data_version")

    def since(self, sequence: int, *, whole: bool = False) -> tuple[int, list[Change]]:
        """Return the number of the last change that was removed, and every change after `sequence`, oldest first.

        Args:
            whole: read every change, and check that none is missing.

        Raises:
            ArtefactError: a change is not what was written or, of the whole, one is missing.
        """
        with sqlite_errors(self._path), self._transaction("BEGIN"):
            facts = self._read_facts()
            asked = (
                "SELECT sequence, study_id, row, embedding, sha256 FROM changes WHERE sequence > ? ORDER BY sequence"
            )
            rows = self._rows(asked, _FIRST if whole else sequence)
            changes = [self._change(row, facts["embedding_dim"]) for row in rows]
            if whole and summed(NOTHING, [row[-1] for row in rows]) != facts["sum"]:
                raise ArtefactError(f"{str(self._path)!r} does not hold all that was written to it; {REMEDY}")
            return facts["cleared"], [change for change in changes if change.sequence > sequence]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the file against other writers; on leaving, all that was put is on the disk, after an error nothing.

        Raises:
            WriteFailed: the disk is full or does not take it, or another writer does not come to an end.
        """
        with sqlite_errors(self._path), self._transaction("BEGIN IMMEDIATE"):
            before = self._read_facts()
            self._facts = dict(before)
            yield
            if self._facts != before:
                save_facts(self._connection, self._facts)

    def put(self, study_id: str, row: Mapping[str, Any] | None, embedding: npt.NDArray[np.float32] | None) -> None:
        """Write what happened to a study, in place of what happened to it before; None and None delete it."""
        text = None if row is None else json.dumps(finite(row), ensure_ascii=False, allow_nan=False)
        blob = None if embedding is None else np.ascontiguousarray(embedding, dtype="<f4").tobytes()
        gone = self._digests("study_id = ?", study_id)
        sequence = self._facts["last"] + 1
        sha256 = digest(sequence, study_id, text, blob)
        self._connection.execute(
            "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?)", (sequence, study_id, text, blob, sha256)
        )
        self._facts |= {"last": sequence, "sum": summed(self._facts["sum"], [sha256], gone)}

    def clear(self, sequence: int) -> None:
        """Remove the changes up to `sequence`, which an index holds now, from the disk."""
        with self.writing():
            gone = self._digests("sequence <= ?", sequence)
            self._connection.execute("DELETE FROM changes WHERE sequence <= ?", (sequence,))
            self._facts["cleared"] = max(self._facts["cleared"], sequence)
            self._facts["sum"] = summed(self._facts["sum"], [], gone)
        with sqlite_errors(self._path):
            self._value("PRAGMA wal_checkpoint(TRUNCATE)")  # SQLite's log holds them too

    def faults(self) -> list[str]:
        """Return what SQLite finds wrong with the file, a sentence each."""
        with sqlite_errors(self._path):
            answers = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check")]
        return [f"{CHANGES}: {answer}" for answer in answers if answer != "ok"]

    def copy_to(self, folder: Path) -> None:
        """Write the file as it is at this moment, with all that was acknowledged, to another folder."""
        with sqlite_errors(folder / CHANGES), closing(sqlite3.connect(folder / CHANGES)) as other:
            self._connection.backup(other)
        mark_changed(folder)

    def close(self) -> None:
        """Close the file."""
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

    def _rows(self, asked: str, given: Any) -> list[tuple[Any, ...]]:
        """Return rows, of no more bytes than the file has: in a damaged one, a circle of pages would never end."""
        room = sum(beside.stat().st_size for beside in self._path.parent.glob(f"{CHANGES}*"))
        rows: list[tuple[Any, ...]] = []
        for row in self._connection.execute(asked, (given,)):
            room -= sum(len(value) for value in row if isinstance(value, str | bytes))
            if room < 0:
                raise ArtefactError(f"{str(self._path)!r} is damaged: its rows are longer than the file; {REMEDY}")
            rows.append(row)
        return rows

    def _change(self, kept: tuple[Any, ...], dim: int | None = None) -> Change:
        """Return a change. Raises ArtefactError: it is not what was written, or nothing that could have been."""
        sequence, study_id, text, blob, sha256 = kept
        if not sha256 or digest(sequence, study_id, text, blob) != sha256:
            raise ArtefactError(f"change {sequence} in {str(self._path)!r} is not what was written; {REMEDY}")
        try:
            row = None if text is None else parse_json(text)
            vector = None if blob is None else np.frombuffer(blob, dtype="<f4")
        except (ValueError, TypeError) as error:
            raise ArtefactError(
                f"change {sequence} in {str(self._path)!r} cannot be read ({error}); {REMEDY}"
            ) from error
        if row is None and vector is None:
            return Change(sequence, study_id)
        fits = isinstance(row, dict) and row.get("study_id") == study_id
        if not fits or vector is None or (dim is not None and len(vector) != dim):
            raise ArtefactError(f"change {sequence} in {str(self._path)!r} is no study with its vector; {REMEDY}")
        return Change(sequence, study_id, row, vector)

    def _digests(self, condition: str, given: Any) -> list[str]:
        asked = f"SELECT sequence, study_id, row, embedding, sha256 FROM changes WHERE {condition}"
        rows = self._rows(asked, given)
        for row in rows:
            self._change(row)
        return [row[-1] for row in rows]

    def _read_facts(self) -> dict[str, Any]:
        facts = dict(self._connection.execute("SELECT name, value FROM facts LIMIT 100"))
        if not (kept := facts.pop("seal", None)) or kept != seal_of(facts):
            raise ArtefactError(f"{str(self._path)!r} is not what was written; {REMEDY}")
        facts = _LATER | facts
        for name, expected in _FACTS.items():
            value = facts.get(name)
            fits = isinstance(value, int) if expected is None else isinstance(value, str) and expected.fullmatch(value)
            if not fits:
                raise ArtefactError(
                    f"{str(self._path)!r} says {name} {str(value)[:40]!r}, which is not valid; {REMEDY}"
                )
        return facts

    def _value(self, statement: str) -> Any:
        row = self._connection.execute(statement).fetchone()
        return None if row is None else row[0]


def _joined(*names: str) -> str:
    """Return names as one fact, the latest first; those for which there is no room are dropped."""
    return " ".join(" ".join(names).split()[:MOST_NAMES])


def _origin(facts: Mapping[str, Any]) -> dict[str, Any]:
    try:
        origin = json.loads(facts["origin"])
    except (ValueError, RecursionError):
        return {}
    return origin if isinstance(origin, dict) else {}
