"""Vectors of another encoder as an export of ours: each of unit norm, put to its study, under its source's name.

The films were never read here, so nothing is known of how; whoever names the source vouches that it made all of them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.errors import VectorsError
from index.export.shards import ExportPlan, Failure, ShardFolder
from index.importing.source import Notice, Notices
from index.importing.vector_files import Vectors
from index.printable import is_visible
from index.storage.files import sha256_of
from index.storage.places import Place
from index.vectors import Embeddings

FORMAT = "precedent-vectors/1"
SHOWN = 3
"""Ids that a sentence names."""
VIEWS = ("frontal", "lateral")
_NAME = re.compile(r"([^@\s][^@]{0,199})(?:@([^@\s]{1,100}))?")
_SAME_NORM = 1e-3
NO_VECTOR = "no vector of it was given"
_CANCEL = "the vectors of its films cancel each other out"
Named = Iterable[tuple[Sequence[str], Vectors]]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """The encoder that vectors come from, as the user names it."""

    model: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source that NAME or NAME@REVISION says. Raises VectorsError."""
        match = _NAME.fullmatch(text)
        if match is None or not is_visible(text):
            raise VectorsError(f"expected the name of a model, or NAME@REVISION, got {text[:80]!r}")
        return cls(match[1].strip(), match[2] or "")

    def __str__(self) -> str:
        return f"{self.model}@{self.revision}" if self.revision else self.model

    def fingerprint(self, dim: int) -> str:
        """Return the SHA-256 of the name, not of the vectors, so that a source's later batches join the earlier."""
        said = {"format": FORMAT, "model": self.model, "revision": self.revision, "dim": dim}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Norms:
    """Lengths of vectors before each was divided by its own."""

    least: float
    median: float
    most: float

    def sentence(self) -> str:
        """Return the lengths in words."""
        if self.most - self.least <= _SAME_NORM * self.most:
            return f"norms: all {self.median:.4g}, so inner products ranked as cosines do"
        return (
            f"norms: {self.least:.4g} to {self.most:.4g}, median {self.median:.4g}; each vector was divided by its own"
        )


@dataclass(frozen=True)
class Gathered:
    """Vectors in the order in which they came, of unit norm."""

    ids: pa.Array
    """(n,) texts, each once."""
    vectors: Embeddings
    """(n, D), on the disk."""
    norms: Norms
    sha256: str
    """Of ids and vectors."""


@dataclass(frozen=True)
class Matched:
    """Which vectors are of which study."""

    places: Rows
    """(N, 2): of each study the numbers of the frontal's vector, or the study's own, and of the lateral's; else -1."""
    by: str
    """What the ids turned out to be."""
    of_films: bool


@contextmanager
def gathered(named: Named, near: Path, advance: Callable[[int], None] = lambda count: None) -> Iterator[Gathered]:
    """Yield vectors as unit vectors in a nameless file, which is gone at the end, or when the process is killed.

    Args:
        named: blocks of ids and (n, D) vectors of one D.
        near: on whose disk the file lies, whether it is there yet or not; for an address, where temporary files do.
        advance: is given how many more vectors were read.

    Raises:
        VectorsError: none, an id twice, or vectors that are not finite or zero; their ids are named.
    """
    ids, norms, bad, dim, digest = [], [], _Bad(), 0, hashlib.sha256()
    folders = () if isinstance(near, Place) else (near, *near.absolute().parents)
    with TemporaryFile(dir=next((folder for folder in folders if folder.is_dir()), None)) as file:
        for names, block in named:
            units, lengths = _units(block)
            bad.look(names, lengths)
            dim = units.shape[1]
            file.write(units.data)
            digest.update("\n".join(names).encode("utf-8", "replace") + units.tobytes())
            ids.append(pa.array(names, pa.string()))
            norms.append(lengths)
            advance(len(names))
        bad.require_none()
        if not norms:
            raise VectorsError("expected vectors, got none")
        file.flush()
        whole, lengths = pa.concat_arrays(ids), np.concatenate(norms)
        _require_once(whole)
        spread = Norms(float(lengths.min()), float(np.median(lengths)), float(lengths.max()))
        vectors = np.memmap(file, np.float32, "r", shape=(len(whole), dim))
        yield Gathered(whole, vectors, spread, digest.hexdigest())


def _units(block: Vectors) -> tuple[Embeddings, npt.NDArray[np.float64]]:
    """Return vectors (n, D) of unit norm and their lengths (n,): NaN of what is not finite, 0 of what has none."""
    values = block.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        peaks = np.abs(values).max(axis=1)
        values /= np.where(peaks > 0, peaks, 1)[:, None]  # a square of the largest would not be finite
        lengths = np.sqrt(np.einsum("nd,nd->n", values, values))
        units = (values / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)
        return units, np.where(np.isfinite(peaks), lengths * peaks, np.nan)


class _Bad:
    """The vectors that cannot be used, as far as they were seen."""

    def __init__(self) -> None:
        self._ids: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def look(self, ids: Sequence[str], lengths: npt.NDArray[np.float64]) -> None:
        """Note those of a block."""
        for what, wrong in (("with NaN or infinity", ~np.isfinite(lengths)), ("that are all zeros", lengths == 0)):
            rows = np.flatnonzero(wrong)
            named = self._ids.setdefault(what, [])
            named.extend(ids[row] for row in rows[: SHOWN - len(named)])
            self._counts[what] = self._counts.get(what, 0) + len(rows)

    def require_none(self) -> None:
        """Raise VectorsError where there is one."""
        for what, count in self._counts.items():
            if count:
                named = _listed(self._ids[what], count)
                raise VectorsError(
                    f"expected vectors that have a direction, got {count:,} {what}: {named}; leave them out, and their "
                    "studies will be listed as without a vector"
                )


def _listed(ids: Sequence[str], count: int) -> str:
    return ", ".join(repr(text[:100]) for text in ids[:SHOWN]) + (", ..." if count > SHOWN else "")


def _require_once(ids: pa.Array) -> None:
    counts = ids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        named = _listed(repeated[:SHOWN].to_pylist(), len(repeated))
        raise VectorsError(
            f"expected each id once, got {len(repeated):,} again: {named}; where a study has several films name these, "
            "and its vector will be their mean direction"
        )


def matched(ids: pa.Array, studies: pa.Table, notices: Notices) -> Matched:
    """Return which vectors are of which study: by study_id, or by path, name or stem of a film, as most ids fit.

    Noted: ids that fit no study, vectors of further films of a study, which an export does not look at either, and
    studies without a vector.

    Raises:
        VectorsError: no id fits; StudiesError: `notices` are strict and there is one.
    """
    count = len(studies)
    places_by = {what: _places_of(ids, keys) for what, keys in _ways(studies).items()}
    by = max(places_by, key=lambda what: np.count_nonzero(places_by[what] >= 0))  # the first of equals
    places = places_by[by]
    if not (places >= 0).any():
        raise VectorsError(
            f"expected ids of studies or films, got {len(ids):,} of which none is in the table, such as "
            f"{str(ids[0])[:100]!r}; it has {studies['study_id'][0].as_py()!r} with "
            f"{(studies['frontal_path'][0].as_py() or studies['lateral_path'][0].as_py())!r}"
        )
    lost = np.flatnonzero(places < 0)
    notices.add(
        "unmatched", f"vectors whose id is of no study ({by} were looked for)", ids.take(pa.array(lost)).to_pylist()
    )
    further = np.flatnonzero(places >= 2 * count)
    notices.add("further", "vectors of further films of a study, left out", ids.take(pa.array(further)).to_pylist())
    numbers = np.flatnonzero((places >= 0) & (places < 2 * count))
    at = np.full((count, 2), -1, np.int64)
    at[places[numbers] % count, places[numbers] // count] = numbers
    bare = np.flatnonzero((at < 0).all(axis=1))
    notices.add("without", "studies without a vector", studies["study_id"].take(pa.array(bare)).to_pylist())
    return Matched(at, by, by != _STUDIES)


_STUDIES = "study ids"


def _ways(studies: pa.Table) -> dict[str, pa.Array]:
    """Return what ids may be, as keys: of the studies, or of frontal, lateral and then all further films."""
    others = studies["other_paths"].combine_chunks()
    paths = pa.concat_arrays(
        [
            *(studies[f"{view}_path"].combine_chunks().cast(pa.string()) for view in VIEWS),
            others.flatten().cast(pa.string()),
        ]
    )
    names = pc.replace_substring_regex(paths, r"^.*[/\\]", "")
    stems = pc.replace_substring_regex(names, r"(.)\.[^.]*$", r"\1")
    return {
        _STUDIES: studies["study_id"].combine_chunks(),
        "paths of films": paths,
        "names of films": names,
        "names of films without their ending": stems,
    }


def _places_of(ids: pa.Array, keys: pa.Array) -> Rows:
    """Return of each id the place of the key that equals it, -1 where none does or several do."""
    counts = keys.value_counts()
    several = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    unclear = pc.is_in(ids, several.drop_null())
    places = pc.if_else(unclear, pa.scalar(None, pa.int32()), pc.index_in(ids, keys))
    return np.asarray(pc.fill_null(places, -1).to_numpy(zero_copy_only=False), np.int64)


@dataclass(frozen=True)
class ImportedVectors:
    """What became of vectors: the folder of their shards, all of them written."""

    folder: ShardFolder
    vectors: int
    """How many were read."""
    norms: Norms
    by: str
    """What their ids were taken for."""
    notices: tuple[Notice, ...]


def import_vectors(
    vectors: Gathered,
    source: Source,
    studies: pa.Table,
    studies_file: Path,
    out: Path,
    *,
    shard_rows: int,
    strict: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> ImportedVectors:
    """Write the shards that are not there yet; the caller finishes the export.

    A study's vector is its own, or the mean direction of its frontal's and its lateral's. Studies without one are
    listed as failed.

    Args:
        advance: is given how many more studies are done, first those that were there.

    Raises:
        VectorsError, StudiesError: as `matched`. FingerprintMismatch, ArtefactError: the folder holds another export.
    """
    notices = Notices(strict)
    match = matched(vectors.ids, studies, notices)
    dim = vectors.vectors.shape[1]
    plan = ExportPlan(
        source.fingerprint(dim),
        dim,
        sha256_of(studies_file),
        studies.num_rows,
        shard_rows,
        runtime=f"elsewhere, {vectors.sha256[:16]}",
    )
    folder = ShardFolder(out, plan)
    unfinished = folder.unfinished()
    advance(studies.num_rows - sum(part.stop - part.start for part in map(plan.slice_of, unfinished)))
    for shard in unfinished:
        part = plan.slice_of(shard)
        _save(folder, shard, studies.slice(part.start, part.stop - part.start), match, vectors.vectors)
        advance(part.stop - part.start)
    return ImportedVectors(folder, len(vectors.ids), vectors.norms, match.by, tuple(notices.met))


def _save(folder: ShardFolder, shard: int, studies: pa.Table, match: Matched, vectors: Embeddings) -> None:
    places = match.places[folder.plan.slice_of(shard)]
    sums = np.zeros((len(studies), folder.plan.embedding_dim), np.float64)
    for view in range(len(VIEWS)):
        rows = np.flatnonzero(places[:, view] >= 0)
        sums[rows] += vectors[places[rows, view]]
    lengths = np.sqrt(np.einsum("nd,nd->n", sums, sums))
    given = np.asarray((places >= 0).any(axis=1))
    kept = np.flatnonzero(given & (lengths > 1e-6))
    views = [
        _views(paths, place, match.of_films) for paths, place in zip(_paths(studies, kept), places[kept], strict=True)
    ]
    failures = [
        Failure(studies["study_id"][int(row)].as_py(), _CANCEL if given[row] else NO_VECTOR)
        for row in np.setdiff1d(np.arange(len(studies)), kept)
    ]
    units = (sums[kept] / lengths[kept, None]).astype(np.float32)
    folder.save_shard(shard, studies.take(pa.array(kept)), views, units, failures)


def _paths(studies: pa.Table, rows: Rows) -> list[tuple[Any, ...]]:
    columns = (studies[f"{view}_path"].take(pa.array(rows)).to_pylist() for view in VIEWS)
    return list(zip(*columns, strict=True))


def _views(paths: Sequence[str | None], places: Rows, of_films: bool) -> list[str]:
    """Return the views that a vector was made of: of a study's own vector, which does not say, all that it has."""
    there = (places >= 0).tolist() if of_films else [path is not None for path in paths]
    return [view for view, is_there in zip(VIEWS, there, strict=True) if is_there]
