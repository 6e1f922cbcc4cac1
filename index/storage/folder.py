"""The folder of an index, held by one process that rebuilds, compacts or copies it; searches need no leave.

Knows a folder; it must not know what is in it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.errors import CollectionError
from index.storage.places import require_here


@contextmanager
def held_alone(folder: Path, *, patient: bool = False) -> Iterator[None]:
    """Hold a folder until leaving; a process that dies lets go of it.

    Args:
        patient: wait until nobody else holds it.

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
