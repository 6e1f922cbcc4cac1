"""The names of the changes' files, and what SQLite refuses of them, in our words.

Knows SQLite's codes; it must not know what is kept.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.errors import ArtefactError, WriteFailed

FILE = "changes.sqlite"
WITNESS = "changes.kept"
"""Says that there is such a file, since without it what was deleted would be found again."""
FILES = (FILE, f"{FILE}-wal", WITNESS)
"""Any of which says that something was changed; the second is SQLite's log, of which another file must know nothing."""
GIVE_UP = (
    f"stop what uses the folder and move {FILE}* and {WITNESS} away to give up what was added or deleted since the "
    "index was built"
)
REMEDY = f"restore a snapshot, or {GIVE_UP}"
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
def told(path: Path) -> Iterator[None]:
    """Say in our words what SQLite refuses.

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
