"""A collection at one moment: the index as it was built, without what was deleted since, and what was added since.

Both parts are searched and their answers made one, as if all had been indexed together. `read_state` reads them from a
folder so that they belong together, whoever else is at work there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.built.collection import MANIFEST, Collection, read_collection
from index.built.vector_index import VectorIndex
from index.errors import ArtefactError, CollectionError
from index.living.added_films import PATH as ADDED_FILM
from index.living.changes import Change, Changes
from index.search.answer import Answer, Hit, Query
from index.search.retriever import Retriever
from index.search.searchable import Choices, Searchable, Stored
from index.storage.files import read_settled, stamp
from index.table.studies import Study, require_studies
from index.vectors import Embeddings, as_embeddings


class Generation(Searchable):
    """One state of a collection. Immutable: a change makes another, at a cost that grows with what was added alone."""

    def __init__(self, collection: Collection, sequence: int = 0) -> None:
        """Take a collection as it was built; `sequence` is that of the last change which it holds."""
        self.collection, self.sequence = collection, sequence
        self.manifest, self.fingerprint = collection.manifest, collection.manifest["fingerprint"]
        self._built = Retriever(collection)
        self.embedding_dim = self._built.embedding_dim
        self.added: pa.Table = collection.studies.slice(0, 0)
        self.added_vectors: Embeddings = np.empty((0, self.embedding_dim), np.float32)
        self._parts = [self._built]

    def after(self, changes: Sequence[Change]) -> Self:
        """Return the generation after these changes, oldest first."""
        if not changes:
            return self
        following = type(self).__new__(type(self))
        following.__dict__.update(self.__dict__)
        following._take(changes)
        return following

    def _take(self, changes: Sequence[Change]) -> None:
        self.sequence = changes[-1].sequence
        touched = [change.study_id for change in changes]
        if any(study_id in self._built for study_id in touched):
            self._built = self._built.without(touched)
        kept = pc.invert(pc.is_in(self.added["study_id"], pa.array(touched)))
        fresh = [change for change in changes if change.row is not None and change.embedding is not None]
        rows = self._as_rows(fresh)
        vectors = [self._as_kept(change.embedding) for change in fresh]
        self.added = pa.concat_tables([self.added.filter(kept), rows]).combine_chunks()
        self.added_vectors = np.concatenate([self.added_vectors[kept.to_numpy()], *vectors])
        self._parts = [self._built]
        if len(self.added):
            self._parts.append(Retriever(Collection(self.manifest, self.added, VectorIndex.build(self.added_vectors))))

    def _as_rows(self, changes: Sequence[Change]) -> pa.Table:
        try:
            rows = pa.Table.from_pylist([change.row for change in changes], self.schema)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise ArtefactError(f"studies were added that do not fit the columns of this index: {error}") from error
        require_studies(rows, "the added studies")
        return rows

    def _as_kept(self, embedding: Any) -> Embeddings:
        """Return a vector as (1, D) in the index's precision, so that compaction changes no similarity."""
        vector = as_embeddings(embedding, self.embedding_dim)
        return vector.astype(np.float16).astype(np.float32) if self.collection.vectors.precision == "fp16" else vector

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __contains__(self, study_id: str) -> bool:
        return any(study_id in part for part in self._parts)

    @property
    def schema(self) -> Any:
        """The Arrow schema of the studies."""
        return self.collection.studies.schema

    @property
    def choices(self) -> Choices:
        """What a reader can narrow by, of what was built and of what was added."""
        return reduce(Choices.merged, (part.choices for part in self._parts))

    @property
    def moved(self) -> frozenset[str]:
        """The studies that were deleted or replaced since the index was built."""
        return self._built.moved

    def film_paths(self) -> set[str]:
        """Return the paths of the added films that its studies name, relative to the image root."""
        built = self.collection.studies
        gone = pc.is_in(built["study_id"], pa.array(sorted(self.moved), pa.string()))
        tables = [built.filter(pc.invert(gone)), self.added]
        columns = [table[name] for table in tables for name in ("frontal_path", "lateral_path")]
        named = (column.filter(pc.match_substring_regex(column, f"^{ADDED_FILM.pattern}$")) for column in columns)
        return set(chain.from_iterable(paths.to_pylist() for paths in named))

    def stored(self, study_id: str) -> Stored:
        """Return a stored study with its vector. Raises StudyNotFound."""
        part = next((part for part in self._parts if study_id in part), self._built)
        return part.stored(study_id)

    def listed(self, text: str = "", columns: Iterable[str] = (), *, after: str = "", limit: int = 20) -> list[Study]:
        """Return the first studies of both parts behind an id that begin with a text; as `Searchable` says."""
        columns = list(columns)
        found = chain.from_iterable(part.listed(text, columns, after=after, limit=limit) for part in self._parts)
        return sorted(found, key=lambda study: study.study_id)[:limit]

    def answer(self, query: Query) -> Answer:
        """Return the most similar studies of both parts, ranked as one; as `Searchable` says."""
        if len(self._parts) == 1:
            return self._built.answer(query)
        query, _ = self.resolved(query)
        if query.region is not None:
            return self._by_region(query)
        answers = [part.answer(query) for part in self._parts]
        hits = _ordered(chain.from_iterable(answer.hits for answer in answers))
        if query.group_by == "patient":
            nearest = {hit.study.patient_id: hit for hit in reversed(hits)}  # the last to come is the most similar
            hits = _ordered(nearest.values())
        ranked = [replace(hit, rank=rank) for rank, hit in enumerate(hits[: query.k], start=1)]
        matched, exact = sum(answer.matched_total for answer in answers), all(answer.exact for answer in answers)
        return Answer(ranked, matched, exact, self.fingerprint, pairs=answers[0].pairs)

    def _by_region(self, query: Query) -> Answer:
        """Return what was built, ranked by a region; of what was added since no maps are kept."""
        answer = self._built.answer(query)
        added = sum(part.answer(replace(query, region=None, k=1)).matched_total for part in self._parts[1:])
        matched, missing = answer.matched_total + added, answer.regions_missing + added
        return replace(answer, matched_total=matched, exact=answer.exact and not added, regions_missing=missing)


def _ordered(hits: Iterable[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.similarity, hit.study.study_id))


class State(NamedTuple):
    """What is searched, with a stamp of its manifest that shows when another index has replaced it."""

    stamp: tuple[int, ...]
    generation: Generation
    changes: Changes | None


def read_state(folder: Path, device: str = "cpu") -> State:
    """Return an index and the changes that belong to it, however often others compact the folder meanwhile.

    Args:
        device: what its vectors are searched on, of `index.built.gpu.DEVICES`.

    Raises:
        ArtefactError: there is none, or a file of it is missing, damaged or of another state. NoGpu.
    """
    return read_settled(folder / MANIFEST, partial(_read, folder, device))


def _read(folder: Path, device: str) -> State:
    seen, collection = stamp_of(folder), read_collection(folder, device)
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
    """Return a stamp of the manifest in a folder, which differs as soon as another one replaces it."""
    return stamp(folder / MANIFEST)
