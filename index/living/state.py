"""An index and the changes since, read from a folder so that they belong together, whoever else is at work there."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from index.built.collection import MANIFEST, load_collection
from index.errors import ArtefactError, CollectionError
from index.living.changes import Changes
from index.living.generation import Generation
from index.storage.files import read_settled, stamp


class State(NamedTuple):
    """What is searched, and by what it is seen that another index lies there."""

    stamp: tuple[int, ...]
    generation: Generation
    changes: Changes | None


def read_state(folder: Path) -> State:
    """Read index and changes that belong together, however often others compact the folder meanwhile.

    Raises:
        ArtefactError: there is none, or a file of it is missing, damaged or of another state.
    """
    return read_settled(folder / MANIFEST, partial(_read, folder))


def _read(folder: Path) -> State:
    seen, collection = stamp_of(folder), load_collection(folder)
    generation = Generation(collection, collection.manifest.get("applied", 0))
    changes = Changes.open(folder, generation.fingerprint, generation.embedding_dim)
    if changes is None:
        return State(seen, generation, None)
    try:
        cleared, since = changes.since(generation.sequence, whole=True)
        if cleared > generation.sequence:
            raise ArtefactError(
                f"the index in {str(folder)!r} lacks studies that were added to it and compacted; restore a snapshot"
            )
        return State(seen, generation.after(since), changes)
    except CollectionError:
        changes.close()
        raise


def stamp_of(folder: Path) -> tuple[int, ...]:
    """Return what differs between two manifests, which are renamed into place and never rewritten."""
    return stamp(folder / MANIFEST)
