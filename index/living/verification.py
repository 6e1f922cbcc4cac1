"""Checks everything that can be wrong with a collection on disk: digests, rows, vectors, ids, changes, films.

Nothing is repaired.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.built.collection import MANIFEST, Collection, load_collection
from index.built.map import MAP_MANIFEST, load_map
from index.built.mirror import fetched
from index.built.vector_index import VectorIndex
from index.errors import BackendUnavailable, CollectionError, StaleMap, UntrustedRoot
from index.living.added_films import changed_films, left_films, unnamed_films
from index.living.changes import Change, Changes
from index.living.generation import Generation, stamp_of
from index.storage.folder import CHANGES, CHANGES_MARKER
from index.storage.origin import remembered_root
from index.table.studies import as_studies
from index.vectors import as_embeddings

_ATTEMPTS = 8
_BLOCK = 1 << 14


@dataclass
class Verdict:
    """The outcome of a verification."""

    studies: int = 0
    """Number of studies that a search can find."""
    faults: list[str] = field(default_factory=list)
    """What is wrong, a sentence each."""
    notes: list[str] = field(default_factory=list)
    """What is no fault but could be removed, a sentence each."""


def verify(folder: Path, image_root: Path | None = None, *, trusted: bool = False) -> Verdict:
    """Return what is wrong with the collection in a folder or at an address, after reading all of it.

    Args:
        image_root: of the added films; None takes the one that the index remembers, where that is there.
        trusted: take that one even where the index was made elsewhere, or by another user.

    Raises:
        BackendUnavailable: the address cannot be reached.
    """
    verdict = Verdict()
    try:
        with fetched(folder) as here:
            for _ in range(_ATTEMPTS):
                before, verdict = stamp_of(here), _verdict(here, _AddedFilms(folder, image_root, trusted))
                if not verdict.faults or stamp_of(here) == before:  # else it was compacted beside this
                    break
    except BackendUnavailable:
        raise
    except CollectionError as error:
        verdict.faults.append(str(error))
    return verdict


def _verdict(folder: Path, films: "_AddedFilms") -> Verdict:
    verdict = Verdict()
    try:
        collection = _look(folder, films, verdict)
    except BackendUnavailable:
        raise
    except CollectionError as error:
        verdict.faults.append(str(error))
        return verdict
    verdict.notes += [f"{path.name} belongs to no collection; remove it" for path in _strangers(folder, collection)]
    return verdict


@dataclass(frozen=True)
class _AddedFilms:
    """Where the added films are to be looked for."""

    where: Path
    """The folder, or the address, by which the collection was asked for."""
    image_root: Path | None
    trusted: bool

    def root(self, collection: Collection, verdict: Verdict) -> Path | None:
        """Return the image root, where it is known and there; a note says where it may not be looked at."""
        try:
            root = self.image_root or remembered_root(self.where, collection.manifest, trusted=self.trusted)
        except UntrustedRoot as refusal:
            verdict.notes.append(f"added films were not checked: {refusal}")
            return None
        return root if root is not None and root.is_dir() else None


def _look(folder: Path, films: _AddedFilms, verdict: Verdict) -> Collection:
    collection = load_collection(folder)  # every SHA-256, and the manifest's own
    verdict.faults += _of_rows(collection.studies) + _of_vectors(collection.vectors)
    generation = Generation(collection, collection.manifest.get("applied", 0))
    changes = Changes.open(folder, generation.fingerprint, generation.embedding_dim)
    if changes is not None:
        with closing(changes):
            generation = _changed(changes, generation, verdict)
            if (root := films.root(collection, verdict)) is not None:
                _look_at_films(root, changes, generation, verdict)
    verdict.studies = len(generation)
    try:
        load_map(folder)
    except StaleMap as stale:  # nothing is lost, and the next compaction mends it as well
        verdict.notes.append(str(stale))
    except CollectionError as error:
        verdict.faults.append(str(error))
    return collection


def _of_rows(studies: pa.Table) -> list[str]:
    apart = [name for name in ("views",) if name in studies.column_names]
    return refusals(partial(as_studies, studies.drop_columns(apart)))


def _of_vectors(vectors: VectorIndex) -> list[str]:
    faults: list[str] = []
    for start in range(0, len(vectors), _BLOCK):
        block = vectors.vectors(np.arange(start, min(start + _BLOCK, len(vectors))))
        faults += [f"rows from {start:,}: {refusal}" for refusal in refusals(partial(as_embeddings, block))]
    return faults


def _changed(changes: Changes, generation: Generation, verdict: Verdict) -> Generation:
    """Return the collection with its changes."""
    verdict.faults += changes.faults()
    cleared, since = changes.since(generation.sequence, whole=True)
    if cleared > generation.sequence:
        verdict.faults.append(f"{MANIFEST} lacks studies that were added and compacted; restore a snapshot")
    verdict.faults += [fault for change in since for fault in _of_change(change, generation)]
    return generation.after(since)


def _of_change(change: Change, generation: Generation) -> Iterator[str]:
    if change.row is None or change.embedding is None:
        return
    for fault in (
        *refusals(partial(as_embeddings, change.embedding, generation.embedding_dim)),
        *_of_rows(pa.Table.from_pylist([change.row], generation.schema)),
    ):
        yield f"{CHANGES}: change {change.sequence} ({change.study_id!r}): {fault}"


def _look_at_films(root: Path, changes: Changes, generation: Generation, verdict: Verdict) -> None:
    named = generation.film_paths()
    own, others = changes.film_folders()
    verdict.faults += [f"{path}: the film is missing or has changed" for path in changed_films(root, named)]
    for path in (path for folder in own for path in unnamed_films(root, folder, named)):
        verdict.notes.append(f"{path.relative_to(root)} belongs to no study; precedent compact removes it")
    if left := left_films(root, others, named):
        verdict.notes.append(left)


def _strangers(folder: Path, collection: Collection) -> Iterator[Path]:
    """Yield the files that a kill may have left."""
    named = {entry["name"] for entry in collection.manifest["files"].values()}
    for path in sorted(folder.iterdir()):
        ours = path.name in {*named, MANIFEST, MAP_MANIFEST, CHANGES_MARKER} or path.name.startswith((CHANGES, "map-"))
        if not ours and path.is_file():
            yield path


def refusals(check: Callable[[], object]) -> list[str]:
    """Return the sentence that a check refuses with; nothing where it does not."""
    try:
        check()
    except CollectionError as refusal:
        return [str(refusal)]
    return []
