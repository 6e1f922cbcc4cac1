"""Pseudonyms of patients, studies and films: keyed hashes of their ids, and the file that holds the key.

The key is used here and goes nowhere else.
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from index.errors import StudiesError

LEAST_KEY = 32  # bytes; patient numbers are few enough to be guessed one by one under a key that can be guessed
MOST_KEY = 4096  # bytes; a file that is longer was meant for something else
DIGITS = 16
"""64 bits: that any two of ten million ids meet has a chance of 1 in 370,000 (n^2 / 2^65)."""
OLDEST_TOLD = 89.0
"""Years. Older people are so few that an age may name one; 45 CFR 164.514(b)(2)(i)(C) lets "90 or older" stand."""


class Pseudonyms:
    """The pseudonyms under one key. The same id has the same pseudonym in every run, and on every machine."""

    def __init__(self, key: bytes, digits: int = DIGITS) -> None:
        """Take a key of at least `LEAST_KEY` bytes. Raises StudiesError where it is shorter."""
        if len(key) < LEAST_KEY:
            raise StudiesError(f"expected a key of {LEAST_KEY} bytes or more, got {len(key)}; make one with --new-key")
        self._key = key
        self._digits = digits
        self._given: dict[str, bytes] = {}

    def of(self, kind: str, identity: str) -> str:
        """Return `kind` and the first hex digits of HMAC-SHA-256 over kind and identity (RFC 2104, FIPS 198-1).

        Raises:
            StudiesError: another identity has got the same pseudonym. Cut to `DIGITS`, it is not to be expected; but
                if it came, two patients would be one, so nothing is written.
        """
        whole = hmac.new(self._key, f"{kind}:{identity}".encode("utf-8", "surrogateescape"), hashlib.sha256)
        pseudonym = kind + whole.hexdigest()[: self._digits]
        if self._given.setdefault(pseudonym, whole.digest()) != whole.digest():
            raise StudiesError(
                f"expected pseudonyms that differ, got {pseudonym!r} for two different ids; use another key"
            )
        return pseudonym


def capped_age(years: float | None) -> float | None:
    """Return the age in years as it may stand beside a pseudonym: 90 for everyone over 89."""
    return None if years is None else OLDEST_TOLD + 1 if years > OLDEST_TOLD else years


def make_key(path: Path) -> None:
    """Write a new key of 256 random bits, as 64 hex digits, into a file that only its owner can read.

    Raises:
        StudiesError: there is a file already; without the old key no patient gets the pseudonym of before again.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StudiesError(
            f"expected no file at {str(path)!r} yet, got one; leave out --new-key to use its key"
        ) from None
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(handle)


def load_key(path: Path) -> bytes:
    """Return the key: all bytes of the file, but for line ends after the last.

    Raises:
        StudiesError: no file, one that others can read, or too long. OSError: it cannot be read.
    """
    if not path.is_file():  # a pipe would block whoever opens it
        raise StudiesError(f"expected a key in the file {str(path)!r}, got none; make one with --new-key")
    with path.open("rb") as file:
        status, key = os.fstat(file.fileno()), file.read(MOST_KEY + 1)
    if status.st_mode & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        raise StudiesError(f"expected a key that only its owner can read, got mode {mode}; run: chmod 600 {path}")
    if len(key) > MOST_KEY:
        raise StudiesError(f"expected a key of at most {MOST_KEY} bytes, got more; is {path.name!r} a key?")
    return key.rstrip(b"\r\n")


def require_apart(path: Path, folders: Iterable[Path]) -> None:
    """Raise StudiesError where a path is one of the folders or below it, links resolved."""
    resolved = path.resolve()
    for folder in folders:
        if resolved.is_relative_to(folder.resolve()):
            raise StudiesError(
                f"expected {path.name!r} outside the folder {str(folder)!r}, whose files are read as films or given to "
                "others; keep the key in a folder of its own"
            )
