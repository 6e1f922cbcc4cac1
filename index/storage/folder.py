"""The folder of an index: which files show that it was changed, and a lock for whoever rebuilds, compacts or copies it.

Searches need no lock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.errors import ArtefactError, CollectionError
from index.storage.places import require_here

CHANGES = "changes.sqlite"
"""What was added to an index and deleted from it since it was built."""
CHANGES_MARKER = "changes.kept"
"""Shows that there must be such a file: without it, studies that were deleted would be found again."""
CHANGE_FILES = (CHANGES, f"{CHANGES}-wal", CHANGES_MARKER)
"""Any of them shows that something was changed; the second is SQLite's log."""
GIVE_UP = (
    f"stop what uses the folder and move {CHANGES}* and {CHANGES_MARKER} away to discard what was added or deleted "
    "since the index was built"
)
REMEDY = f"restore a snapshot, or {GIVE_UP}"


def was_changed(folder: Path) -> bool:
    """Return whether studies were added to an index, or deleted from it, since it was built."""
    return any((folder / name).exists() for name in CHANGE_FILES)


def require_plain_files(folder: Path) -> None:
    """Refuse links, pipes and folders in place of the files of changes, and what would lead SQLite out of the folder.

    SQLite writes to what a link leads to. A rollback journal can name a further file, which SQLite removes, wherever
    that lies, before any table is read; ours are in WAL mode and never have one.

    Raises:
        ArtefactError: there is a link, a pipe, a device or a folder, or a rollback journal.
    """
    names = (CHANGES, *(f"{CHANGES}-{ending}" for ending in ("wal", "shm", "journal")), CHANGES_MARKER)
    for path in (folder / name for name in names):
        if path.is_symlink():
            raise ArtefactError(f"expected {path.name!r} to be a file of {str(folder)!r}, got a link; {REMEDY}")
        if path.exists() and not path.is_file():  # never opened and closed here: that would drop SQLite's own locks
            raise ArtefactError(f"expected {path.name!r} to be a file of {str(folder)!r}, got none; {REMEDY}")
    if (folder / f"{CHANGES}-journal").exists():
        raise ArtefactError(
            f"expected no {CHANGES}-journal in {str(folder)!r}, got one, which Precedent did not write; {REMEDY}"
        )


@contextmanager
def held_alone(folder: Path, *, patient: bool = False) -> Iterator[None]:
    """Lock a folder until leaving; when a process dies, its lock is gone.

    Args:
        patient: wait until nobody else has locked it.

    Raises:
        CollectionError: another process holds it, or it lies at an address.
    """
    require_here(folder)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if patient:
            fcntl.flock(handle, fcntl.LOCK_EX)
        else:
            _take(handle, folder)
        yield
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CollectionError(
            f"{str(folder)!r} is being indexed, compacted or copied by another process; try again when it has finished"
        ) from None
