"""The way back from a pseudonymised study to the StudyInstanceUID that a PACS knows it by, for who holds the key.

A file of its own, which its owner alone can read and in which each UID is encrypted: it is no part of a table, an index
or a snapshot, and nothing that serves one opens it.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from index.errors import StudiesError
from index.storage.database import Database

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_APPLICATION = 0x50435857  # "PCXW"
_TABLES = "CREATE TABLE IF NOT EXISTS origins (study_id TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT"


class Crosswalk:
    """The file, open under a key. Safe under threads and processes."""

    def __init__(self, database: Database, cipher: "Fernet") -> None:
        self._database, self._cipher = database, cipher

    @classmethod
    def open(cls, path: Path, key: bytes, *, make: bool = False) -> Self:
        """Return the crosswalk in a file, under the key of its pseudonyms.

        Args:
            make: make an empty one where there is none.

        Raises:
            StudiesError: none is there, others can read it, or `cryptography` is missing. ArtefactError: it is no
                crosswalk. WriteFailed: it cannot be made.
        """
        try:
            from cryptography.fernet import Fernet
        except ImportError as error:
            raise StudiesError(
                f"expected cryptography for a crosswalk ({error}); run: pip install 'cxr-precedent[pacs]'"
            ) from error
        derived = hmac.new(key, b"precedent crosswalk", hashlib.sha256).digest()  # as of RFC 5869, one block
        database = Database(path, "crosswalk", _APPLICATION, _TABLES, make=make)
        return cls(database, Fernet(base64.urlsafe_b64encode(derived)))

    def add(self, origins: Mapping[str, str]) -> None:
        """Write down, by study_id, what studies were called before; it is on the disk then. Raises WriteFailed."""
        sealed = [(study_id, self.seal(uid)) for study_id, uid in origins.items()]
        with self._database.writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO origins VALUES (?, ?)", sealed)

    def study_uid(self, study_id: str) -> str | None:
        """Return what a study was called before, its StudyInstanceUID; None where it is not here.

        Raises:
            StudiesError: it was written under another key.
        """
        with self._database.reading() as connection:
            row = connection.execute("SELECT sealed FROM origins WHERE study_id = ?", (study_id,)).fetchone()
        return None if row is None else self.unseal(row[0])

    def seal(self, text: str) -> bytes:
        """Return a text under the key."""
        return self._cipher.encrypt(text.encode())

    def unseal(self, sealed: bytes) -> str:
        """Return the text that was sealed. Raises StudiesError: under another key."""
        from cryptography.fernet import InvalidToken

        try:
            return self._cipher.decrypt(sealed).decode()
        except InvalidToken:
            raise StudiesError(
                f"expected the key that {self._database.path.name!r} was written under, got another; use that of its "
                "pseudonyms"
            ) from None
