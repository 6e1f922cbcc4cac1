"""Studies that were added or deleted since an index was built, in one SQLite file beside it.

SQLite alone makes a change durable and orders writers; it must not know what is searched, nor what a row means.
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

from index.added_films import NAME
from index.change_digests import NOTHING, digest, seal, summed
from index.change_faults import FILE, FILES, GIVE_UP, REMEDY, told
from index.change_layout import APPLICATION, VERSION, bear_witness, new_name, require_no_links, save_facts, set_up
from index.errors import ArtefactError, CollectionError, FingerprintMismatch, WriteFailed
from index.places import require_here

_FIRST = -(2**63)
_FACTS = {
    "fingerprint": re.compile(r"\w{1,64}"),
    "embedding_dim": None,
    "name": NAME,
    "cleared": None,
    "last": None,
    "sum": re.compile(r"[0-9a-f]{64}"),
}
"""What each fact looks like; None: a whole number. A name is part of a path, and may be somebody else's."""
_PATIENCE = 30.0
"""Seconds that a writer waits for another; each holds the file for the milliseconds of its own transaction."""


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

    _facts: dict[str, Any]
    """While it is written: fingerprint, embedding_dim, name, up to where it was `cleared`, the `last` sequence that was
    given, and the `sum` of all digests, modulo 2^256, in hex."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    @classmethod
    def open(cls, folder: Path, fingerprint: str, embedding_dim: int) -> Self | None:
        """Return the changes of the collection in a folder; None where there never were any.

        Raises:
            ArtefactError: the file is missing, damaged, of another version, or no file of ours.
            FingerprintMismatch: its vectors are of another encoder.
        """
        path = folder / FILE
        require_no_links(folder)
        expected = any((folder / name).exists() for name in FILES)  # looked at first: a first writer may be at work
        if not path.exists():
            if expected:
                raise ArtefactError(f"{FILE} is missing from {str(folder)!r}; {REMEDY}")
            return None
        with told(path):
            connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=rw", _PATIENCE, isolation_level=None, check_same_thread=False, uri=True
            )
            found = cls(connection, path)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")  # what was deleted is gone from the file as well
                connection.execute("PRAGMA cell_size_check = ON")
                connection.execute("PRAGMA trusted_schema = OFF")
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
        try:
            if not any((folder / name).exists() for name in FILES):
                set_up(path, applied, {"fingerprint": fingerprint, "embedding_dim": embedding_dim})
            found = cls.open(folder, fingerprint, embedding_dim)
            assert found is not None  # nobody removes the file
            bear_witness(folder)
        except OSError as error:
            raise WriteFailed(f"{str(path)!r} cannot be made: {error}") from error
        return found

    def _require_facts(self, fingerprint: str, embedding_dim: int) -> None:
        if self._value("PRAGMA application_id") != APPLICATION:
            raise ArtefactError(f"{str(self._path)!r} is no file of ours; {REMEDY}")
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
        """The collection's own name in the folder of added films; no other collection has it."""
        with told(self._path):
            return str(self._read_facts()["name"])

    def rename(self) -> None:
        """Take a new name, as a copy has to."""
        with self.writing():
            self._facts["name"] = new_name()

    def version(self) -> int:
        """Return a number that differs from the one before exactly if somebody else has changed the file since."""
        with told(self._path):
            return self._value("PRAGMA data_version")

    def since(self, sequence: int, *, whole: bool = False) -> tuple[int, list[Change]]:
        """Return up to where changes were cleared away, and every change after `sequence`, oldest first.

        Args:
            whole: read all that is kept, and miss what is not there.

        Raises:
            ArtefactError: a change is not what was written or, of the whole, one is missing.
        """
        with told(self._path), self._transaction("BEGIN"):
            facts = self._read_facts()
            asked = (
                "SELECT sequence, study_id, row, embedding, sha256 FROM changes WHERE sequence > ? ORDER BY sequence"
            )
            rows = self._connection.execute(asked, (_FIRST if whole else sequence,)).fetchall()
            changes = [self._change(*row) for row in rows]
            if whole and summed(NOTHING, [row[-1] for row in rows]) != facts["sum"]:
                raise ArtefactError(f"{str(self._path)!r} does not hold all that was written to it; {REMEDY}")
            return facts["cleared"], [change for change in changes if change.sequence > sequence]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the file against other writers; on leaving, all that was put is on the disk, after an error nothing.

        Raises:
            WriteFailed: the disk is full or does not take it, or another writer does not come to an end.
        """
        with told(self._path), self._transaction("BEGIN IMMEDIATE"):
            before = self._read_facts()
            self._facts = dict(before)
            yield
            if self._facts != before:
                save_facts(self._connection, self._facts)

    def put(self, study_id: str, row: Mapping[str, Any] | None, embedding: npt.NDArray[np.float32] | None) -> None:
        """Write what happened to a study, in place of what happened to it before; None and None delete it."""
        text = None if row is None else json.dumps(row, ensure_ascii=False, allow_nan=False)
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
        with told(self._path):
            self._value("PRAGMA wal_checkpoint(TRUNCATE)")  # SQLite's log holds them too

    def faults(self) -> list[str]:
        """Return what SQLite finds wrong with the file, a sentence each."""
        with told(self._path):
            found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check")]
        return [f"{FILE}: {one}" for one in found if one != "ok"]

    def copy_to(self, folder: Path) -> None:
        """Write the file as it is at this moment, with all that was acknowledged, to another folder."""
        with told(folder / FILE), closing(sqlite3.connect(folder / FILE)) as other:
            self._connection.backup(other)
        bear_witness(folder)

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

    def _change(self, sequence: Any, study_id: Any, text: Any, blob: Any, sha256: Any) -> Change:
        if not sha256 or digest(sequence, study_id, text, blob) != sha256:
            raise ArtefactError(f"change {sequence} in {str(self._path)!r} is not what was written; {REMEDY}")
        vector = None if blob is None else np.frombuffer(blob, dtype="<f4")
        return Change(sequence, study_id, None if text is None else json.loads(text), vector)

    def _digests(self, condition: str, given: Any) -> list[str]:
        asked = f"SELECT sequence, study_id, row, embedding, sha256 FROM changes WHERE {condition}"
        rows = self._connection.execute(asked, (given,)).fetchall()
        for row in rows:
            self._change(*row)
        return [row[-1] for row in rows]

    def _read_facts(self) -> dict[str, Any]:
        found = dict(self._connection.execute("SELECT name, value FROM facts"))
        if not (told := found.pop("seal", None)) or told != seal(found):
            raise ArtefactError(f"{str(self._path)!r} is not what was written; {REMEDY}")
        for name, expected in _FACTS.items():
            if not isinstance(value := found.get(name), str if expected else int) or (
                expected and not expected.fullmatch(value)
            ):
                raise ArtefactError(f"{str(self._path)!r} says {name} {str(value)[:40]!r}, which is none; {REMEDY}")
        return found

    def _value(self, statement: str) -> Any:
        row = self._connection.execute(statement).fetchone()
        return None if row is None else row[0]
