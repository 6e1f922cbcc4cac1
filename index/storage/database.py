"""A SQLite file of ours that its owner alone can read: each call is a transaction, and on the disk when it returns."""

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from index.errors import ArtefactError, StudiesError, WriteFailed

_PATIENCE = 30.0
"""Seconds that a writer waits for another; each holds the file for the milliseconds of its own transaction."""
_AT_PRESENT = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM),
}


class Database:
    """The file. Safe under threads, which take turns, and processes."""

    def __init__(self, path: Path, what: str, application: int, tables: str, *, make: bool, wal: bool = False) -> None:
        """Open a file of a kind.

        Args:
            what: the kind in words, for refusals. application: its number in the file's header.
            tables: the statements that make its tables.
            make: make the file where there is none.
            wal: keep a log beside it, which makes a transaction cheap and the file more than one.

        Raises:
            StudiesError: none is there, or others can read it. ArtefactError: it is another file, or damaged.
            WriteFailed: it cannot be made.
        """
        self.path, self._what = path, what
        if make:
            self._make(application, tables)
        self._require_private()
        self._turn = threading.Lock()
        self._connection = self._opened("WAL" if wal else "DELETE")
        with self.reading() as connection:
            if connection.execute("PRAGMA application_id").fetchone() != (application,):
                raise ArtefactError(f"expected the {what} in {str(path)!r}, got another file; name one of its own")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that sees one state. Raises ArtefactError: damaged. WriteFailed: it cannot be used now."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lock the file against other writers; on leaving, all is on the disk, after an error nothing. Raises alike."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._turn, self._errors():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _opened(self, journal: str = "DELETE") -> sqlite3.Connection:
        where = f"{self.path.resolve().as_uri()}?mode=rw"
        with self._errors():
            connection = sqlite3.connect(where, _PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute(f"PRAGMA journal_mode = {journal}")
            except sqlite3.Error:
                connection.close()
                raise
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:  # ours, never the file's
            raise
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _AT_PRESENT:
                raise WriteFailed(
                    f"the {self._what} {str(self.path)!r} cannot be used at present ({error}); nothing was "
                    "changed, try again"
                ) from error
            raise ArtefactError(
                f"the {self._what} {str(self.path)!r} is damaged ({error}); bring back a copy"
            ) from error

    def _make(self, application: int, tables: str) -> None:
        """Make the file; a kill leaves an empty one, which the next call fills, or the whole."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            if not self.path.is_file() or self.path.stat().st_size:
                return
        except OSError as error:
            raise WriteFailed(f"the {self._what} {str(self.path)!r} cannot be made: {error.strerror}") from error
        with self._errors(), closing(self._opened()) as connection:
            connection.executescript(f"BEGIN IMMEDIATE; {tables}; PRAGMA application_id = {application}; COMMIT;")

    def _require_private(self) -> None:
        if not self.path.is_file() or self.path.is_symlink():
            raise StudiesError(
                f"expected the {self._what} in the file {str(self.path)!r}, got none; name the one to use"
            )
        mode = self.path.stat().st_mode
        if mode & 0o077:
            raise StudiesError(
                f"expected a {self._what} that only its owner can read, got mode {stat.S_IMODE(mode):04o}; run: "
                f"chmod 600 {self.path}"
            )
