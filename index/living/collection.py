"""A collection in a folder that changes: studies are added and deleted while any number of processes search it.

An acknowledged change is on the disk and found by the next search, here and in every other process.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from index.built.collection import MANIFEST, Collection
from index.built.mirror import at_hand
from index.errors import FingerprintMismatch, WriteFailed
from index.living.added_films import film_path, left_films, save_film, unnamed_films
from index.living.additions import Addition, Writable, as_rows, is_same
from index.living.changes import Changes
from index.living.changes_file import remove_left_over
from index.living.compaction import mend_map, save_generation
from index.living.generation import Generation, State, read_state, stamp_of
from index.search.answer import Answer, Query
from index.search.familiarity import FamiliarityGate
from index.search.searchable import Choices, Stored
from index.storage.folder import held_alone, was_changed
from index.storage.origin import remembered_root
from index.vectors import as_embedding


class LivingCollection(Writable):
    """The collection in a folder. Safe under threads; each search sees one generation, the newest."""

    _stamp: tuple[int, ...]
    _generation: Generation
    _changes: Changes | None = None
    _version: int | None

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Open a folder, or an address that can be searched and not changed.

        Args:
            device: what its vectors are searched on, of `index.built.gpu.DEVICES`.

        Raises:
            ArtefactError: no collection there, or a file is missing, damaged or of another state.
            FingerprintMismatch: index and changes are of different encoders. NoGpu.
        """
        self._device = device
        self._source = folder.resolve()  # a link may be turned to another folder; writes follow what is searched
        self.folder = at_hand(self._source)
        self._looking = threading.Lock()
        self._writing = threading.Lock()
        self._replace(read_state(self.folder, self._device))

    def now(self) -> Generation:
        """Return the collection as it is at this moment; further changes leave it as it is."""
        with self._looking:
            if self._changes is None and was_changed(self.folder):
                self._changes = Changes.open(self.folder, self.fingerprint, self.embedding_dim)
            if self._changes is not None and (version := self._changes.version()) != self._version:
                cleared, changes = self._changes.since(self._generation.sequence)
                if cleared > self._generation.sequence:  # compacted, by another process, before they were seen here
                    self._replace(read_state(self.folder, self._device))
                else:
                    self._generation, self._version = self._generation.after(changes), version
            return self._generation

    def reload(self) -> None:
        """Load the index that is in the folder now; searches go on in the old one until it is loaded.

        Raises:
            FingerprintMismatch: it is of another encoder than the one before, with which queries are embedded.
        """
        opened = read_state(at_hand(self._source), self._device)
        if (theirs := opened.generation.fingerprint) != self.fingerprint:
            if opened.changes is not None:
                opened.changes.close()
            raise FingerprintMismatch(
                f"{str(self._source)!r} holds an index of encoder {theirs[:12]} now, what is searched is of encoder "
                f"{self.fingerprint[:12]}; activate it with its encoder, or open the folder anew"
            )
        with self._looking:
            self._replace(opened)

    def add(
        self,
        additions: Sequence[Addition],
        *,
        replace: bool = False,
        films: Mapping[str, bytes] | None = None,
        image_root: Path | None = None,
    ) -> list[bool]:
        """Add studies, as `Writable` says; return for each whether anything was new. They are on the disk then."""
        with self._written() as (before, changes):
            rows = as_rows(additions, self.schema)
            vectors = [as_embedding(addition.embedding, self.embedding_dim) for addition in additions]
            fresh = [
                not is_same(before, row, vector, replace=replace, joins=addition.joins)
                for row, vector, addition in zip(rows, vectors, additions, strict=True)
            ]
            if any(fresh) and films and image_root is not None:
                for path, content in films.items():
                    save_film(image_root, path, content)
            for row, vector, new in zip(rows, vectors, fresh, strict=True):
                if new:
                    changes.put(row["study_id"], row, vector)
        return fresh

    def delete(self, study_ids: Sequence[str], image_root: Path | None = None) -> None:
        """Delete studies, as `Writable` says; their added films go with the next compaction."""
        for study_id in study_ids:
            self.study(study_id)  # refused before a file of changes is made for it
        with self._written() as (before, changes):
            for study_id in study_ids:
                before.study(study_id)
            for study_id in study_ids:
                changes.put(study_id, None, None)

    def film_path(self, content: bytes, suffix: str) -> str:
        """Return where a film of an added study belongs, relative to the image root."""
        with self._writing:
            self._follow()
            changes = self._make_changes()
        with closing(changes):
            changes.settle()
            return film_path(changes.name, content, suffix)

    def compact(self, image_root: Path | None = None, *, moved: bool = False) -> dict[str, Any]:
        """Write a new index that holds the changes, remove them from their file, and search it; return its manifest.

        Searches, adds and deletes go on meanwhile, here and in other processes.

        Args:
            image_root: films below it that this collection has added, and none of its studies names any more, are
                removed. A copy has added none of those that its studies name.
            moved: it lies elsewhere than it was made, and is no copy.

        Raises:
            CollectionError: another process compacts, or no study is left. WriteFailed: the disk does not take it.
        """
        with held_alone(self._source):
            self._follow()
            generation = self.now()
            try:
                if self._changes is not None:
                    save_generation(self.folder, generation)
            except OSError as error:
                raise WriteFailed(f"the index cannot be written ({error}); nothing was changed") from error
            if self._changes is not None:
                self.reload()
                with closing(self._make_changes()) as changes:
                    changes.clear(self.collection.manifest.get("applied", 0))
                remove_left_over(self._source)
            try:
                mend_map(self.folder)
            except OSError as error:
                raise WriteFailed(f"the map cannot be written ({error}); run: precedent map {self._source}") from error
        if self._changes is not None and moved:
            with closing(self._make_changes()) as changes:
                changes.claim()
        if self._changes is not None and image_root is not None:
            self._remove_unnamed_films(image_root)
        return self.manifest

    def left_films(self, image_root: Path) -> str:
        """Return why films that no study here names are left where they are; "" where there are none."""
        self.now()
        if self._changes is None:
            return ""
        with closing(self._make_changes()) as changes:
            return left_films(image_root, changes.film_folders()[1], self.now().film_paths())

    def remembered_root(self, *, trusted: bool = False) -> Path | None:
        """Return the image root that the collection names; as `Writable` says."""
        return remembered_root(self._source, self.manifest, trusted=trusted)

    def _follow(self) -> None:
        """Load the index in the folder if another process has replaced it. Raises as `reload`."""
        if stamp_of(self.folder) != self._stamp:
            self.reload()

    def _remove_unnamed_films(self, image_root: Path) -> None:
        with self._written() as (generation, changes):  # no film is between its file and its study
            named = generation.film_paths()
            for folder in changes.film_folders()[0]:
                for path in unnamed_films(image_root, folder, named):
                    path.unlink(missing_ok=True)

    @contextmanager
    def _written(self) -> Iterator[tuple[Generation, Changes]]:
        """Lock the folder's changes against other writers; yield the generation they make, and where to put more."""
        with self._writing:
            self._follow()
            with closing(self._make_changes()) as changes, changes.writing():
                yield self.now(), changes

    def _make_changes(self) -> Changes:
        return Changes.make(self._source, self.fingerprint, self.embedding_dim, self.manifest.get("applied", 0))

    def _replace(self, opened: State) -> None:
        self.close()
        self._stamp, self._generation, self._changes = opened
        self._version = None
        self.manifest, self.fingerprint = self._generation.manifest, self._generation.fingerprint
        self.embedding_dim = self._generation.embedding_dim

    def close(self) -> None:
        """Close the file of changes; what was searched last can still be searched."""
        if self._changes is not None:
            self._changes.close()

    def gate(self) -> FamiliarityGate:
        """Return how near the collection's own studies are to each other, as it was built."""
        return FamiliarityGate.build(self.collection)

    @property
    def built_at(self) -> str | None:
        """When the index was written, ISO 8601 in UTC."""
        written = datetime.fromtimestamp((self.folder / MANIFEST).stat().st_mtime, UTC)
        return written.isoformat(timespec="seconds")

    @property
    def collection(self) -> Collection:
        """The collection as it was built, without the changes since."""
        return self._generation.collection

    @property
    def schema(self) -> Any:
        """The Arrow schema of the studies."""
        return self._generation.schema

    @property
    def choices(self) -> Choices:
        """What a reader can narrow by."""
        return self.now().choices

    @property
    def moved(self) -> frozenset[str]:
        """The studies that were deleted or replaced since the index was built."""
        return self.now().moved

    def __len__(self) -> int:
        return len(self.now())

    def __contains__(self, study_id: str) -> bool:
        return study_id in self.now()

    def stored(self, study_id: str) -> Stored:
        """Return a stored study with its vector. Raises StudyNotFound."""
        return self.now().stored(study_id)

    def answer(self, query: Query) -> Answer:
        """Return what the newest generation answers; a stored study is looked up in the same one."""
        return self.now().answer(query)
