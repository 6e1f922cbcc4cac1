"""Sessions of browsers: random ids that stand for a token, in one file beside the tokens that all processes share.

A browser sends its cookies to every port of a host, so what it is given is not the token: a session opens less, for
half a day at most, and ends by signing out. The file holds hashes, of sessions as of tokens.
"""

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

from service.errors import SessionsError
from service.guard.tokens import SECRET_BYTES, Clock, Token, now

LIFETIME = timedelta(hours=12)
"""A reader's day; then the token is asked for again."""
KEPT = 32
"""Sessions of a token: beyond, the oldest ends."""
_PATIENCE = 1.0
"""Seconds to wait for another process, which holds the file for the milliseconds of a sign-in."""
_TABLE = (
    "CREATE TABLE IF NOT EXISTS sessions "
    "(sha256 TEXT PRIMARY KEY, token TEXT NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID"
)


def sessions_path(tokens: Path) -> Path:
    """Return the file of the sessions that the tokens of a file have begun."""
    return tokens.with_name(tokens.name + ".sessions")


class Sessions:
    """The sessions of one file of tokens. Safe under threads and processes: each look opens the file anew."""

    def __init__(self, tokens: Path, clock: Clock = now) -> None:
        """Keep the sessions beside the file `tokens`."""
        self._path, self._clock = sessions_path(tokens), clock

    def begin(self, token: Token) -> str:
        """Return the id of a new session of a token: 256 random bits. Raises SessionsError."""
        fresh, at = secrets.token_urlsafe(SECRET_BYTES), int(self._clock().timestamp())
        with self._open() as file:
            file.execute("BEGIN IMMEDIATE")
            file.execute("DELETE FROM sessions WHERE expires <= ?", (at,))
            file.execute(
                "DELETE FROM sessions WHERE sha256 IN (SELECT sha256 FROM sessions WHERE token = ? "
                "ORDER BY expires DESC LIMIT -1 OFFSET ?)",
                (token.sha256, KEPT - 1),
            )
            until = at + int(LIFETIME.total_seconds())
            file.execute("INSERT INTO sessions VALUES (?, ?, ?)", (_hashed(fresh), token.sha256, until))
            file.execute("COMMIT")
        return fresh

    def token_of(self, session: str) -> str | None:
        """Return the SHA-256 of the token that began a session; None where it has ended or never was.

        Raises:
            SessionsError: the file cannot be read, or is not its owner's alone; nobody is let in by it then.
        """
        if not self._path.exists():
            return None
        with self._open() as file:
            row = file.execute(
                "SELECT token FROM sessions WHERE sha256 = ? AND expires > ?",
                (_hashed(session), int(self._clock().timestamp())),
            ).fetchone()
        return None if row is None else str(row[0])

    def end(self, session: str) -> None:
        """End a session, in every process. Raises SessionsError."""
        if self.token_of(session) is not None:  # looked at first: strangers may sign out as often as they like
            with self._open() as file:
                file.execute("DELETE FROM sessions WHERE sha256 = ?", (_hashed(session),))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                mode = os.fstat(handle).st_mode & 0o777
            finally:
                os.close(handle)
            if mode & 0o077:
                raise self._unusable(f"expected it to be its owner's alone, got mode {mode:04o}")
            with closing(sqlite3.connect(self._path, _PATIENCE, isolation_level=None)) as file:
                file.execute("PRAGMA trusted_schema = OFF")
                file.execute(_TABLE)
                yield file
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(getattr(error, "strerror", None) or str(error)) from error

    def _unusable(self, reason: str) -> SessionsError:
        return SessionsError(
            f"cannot use the sessions of {str(self._path)!r}: {reason}; remove the file, and all sign in again"
        )


def _hashed(session: str) -> str:
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()
