"""An index and the changes since, read from a folder so that they belong together.

Knows both on disk; it must not know who else is at work there.
"""

from pathlib import Path
from typing import NamedTuple

from index.changes import Changes
from index.collection import MANIFEST, load_collection
from index.errors import ArtefactError
from index.generation import Generation

_ATTEMPTS = 8


class State(NamedTuple):
    """What is searched, and by what it is seen that another index lies there."""

    stamp: tuple[int, ...]
    generation: Generation
    changes: Changes | None


def read_state(folder: Path) -> State:
    """Read index and changes that belong together, however often others compact the folder meanwhile."""
    for _ in range(_ATTEMPTS):
        stamp = stamp_of(folder)
        try:
            collection = load_collection(folder)
        except ArtefactError:
            if stamp_of(folder) == stamp:
                raise
            continue
        generation = Generation(collection, collection.manifest.get("applied", 0))
        changes = Changes.open(folder, generation.fingerprint, generation.embedding_dim)
        cleared, since = changes.since(generation.sequence, whole=True) if changes else (0, [])
        if cleared <= generation.sequence:
            return State(stamp, generation.after(since), changes)
        if stamp_of(folder) == stamp:
            break
    raise ArtefactError(
        f"the index in {str(folder)!r} lacks studies that were added to it and compacted; restore a snapshot"
    )


def stamp_of(folder: Path) -> tuple[int, ...]:
    """Return what differs between two manifests, which are renamed into place and never rewritten."""
    try:
        found = (folder / MANIFEST).stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
