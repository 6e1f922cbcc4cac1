"""The folder of an index: which files show that it was changed, and a lock for whoever rebuilds, compacts or copies it.

Searches need no lock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.errors import CollectionError
from index.storage.places import require_here

CHANGES = "changes.sqlite"
"""What was added to an index and deleted from it since it was built."""
CHANGES_MARKER = "changes.kept"
"""Shows that there must be such a file: without it, studies that were deleted would be found again."""
CHANGE_FILES = (CHANGES, f"{CHANGES}-wal", CHANGES_MARKER)
"""Any of them shows that something was changed; the second is SQLite's log."""


def was_changed(folder: Path) -> bool:
    """Return whether studies were added to an index, or deleted from it, since it was built."""
    return any((folder / name).exists() for name in CHANGE_FILES)


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
