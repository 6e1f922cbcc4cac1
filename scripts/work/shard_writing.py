"""Studies to shards: threads read films ahead, the encoder embeds them in batches, and each shard is saved whole."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pyarrow as pa
import torch

from encoder.embedder import Embedder
from encoder.errors import ImageError
from encoder.films.layout import study_layouts
from encoder.films.study import StudyFilms
from encoder.maps.region_maps import RegionMap, region_maps
from index.export.film_maps import as_record
from index.export.shards import Failure, ShardFolder

Item = TypeVar("Item")
Done = TypeVar("Done")
VIEWS = ("frontal", "lateral")
_TOGETHER = 4  # studies that a thread reads at a time
IN_FLIGHT = 2
"""Batches the encoder has at once, so that it need not wait for one to be fused and the next to be put together."""


@dataclass(frozen=True)
class Prepared:
    """One study on its way to the encoder: its films, or why it has none."""

    row: int
    films: StudyFilms | None = None
    views: tuple[str, ...] = ()
    layouts: tuple[bytes, ...] = ()
    squares: tuple[tuple[float, ...], ...] = ()
    """Where the network's square lies on each film, in shares of it."""
    regions: tuple[bytes, ...] = ()
    failure: Failure | None = None


class FilmReader:
    """Reads and preprocesses the films of a study, by its row of the table. Safe under threads."""

    def __init__(self, embedder: Embedder, studies: pa.Table, images: Path, views: str) -> None:
        """Take the films below `images`."""
        self._embedder = embedder
        self._images = images
        self._ids, self._projections = studies["study_id"], studies["projection"]
        self._paths = {view: studies[f"{view}_path"] for view in VIEWS if views in ("both", view)}

    def read(self, row: int) -> Prepared:
        """Return the study's films, or the reason why one of them cannot be used."""
        preprocessing = self._embedder.preprocessing
        given = {view: column[row].as_py() for view, column in self._paths.items()}
        paths = {view: path for view, path in given.items() if path is not None}
        if not paths:
            return self._failed(row, f"the study has no {' or '.join(self._paths)} film")
        try:
            planes = {view: self._embedder.read_plane(self._images / path, name=path) for view, path in paths.items()}
            films = {view: preprocessing(plane) for view, plane in planes.items()}
        except (ImageError, OSError) as refusal:
            return self._failed(row, str(refusal))
        study = StudyFilms(films.get("frontal"), films.get("lateral"), self._projections[row].as_py())
        layouts = tuple(layout.tobytes() for layout in study_layouts(study))
        squares = tuple(preprocessing.square_in(plane.shape) for plane in planes.values())
        return Prepared(row, study, tuple(films), layouts, squares)

    def ahead(self, pool: ThreadPoolExecutor, rows: Iterable[int], most: int) -> Iterator[Prepared]:
        """Yield the studies of rows, in their order, while the pool reads about `most` further ones.

        Some at a time, as to hand over each alone takes threads as long as a small film; but the first, which may be
        all, one by one.
        """
        rows = iter(rows)
        groups = chain(([row] for row in islice(rows, _TOGETHER**2)), _groups(rows, _TOGETHER))
        return chain.from_iterable(in_order(pool, self._read_all, groups, ahead=max(1, most // _TOGETHER)))

    def _read_all(self, rows: Sequence[int]) -> list[Prepared]:
        return [self.read(row) for row in rows]

    def _failed(self, row: int, reason: str) -> Prepared:
        return Prepared(row, failure=Failure(self._ids[row].as_py(), reason))


def threads_for(asked: int | None) -> int:
    """Return how many threads decode: those asked for, or one more than there are cores."""
    return asked or cores() + 1


def cores() -> int:
    """Return how many cores there are."""
    return os.cpu_count() or 1


@contextmanager
def one_torch_thread(embedder: Embedder) -> Iterator[None]:
    """Give OpenVINO the cores: torch's own threads, which only fuse then, would spin beside its and cost a sixth.

    OpenCV has one thread too, in each of those that read films.
    """
    before, opencv = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)
    if embedder.runtime.name != "torch":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(opencv)


def write_shards(
    embedder: Embedder,
    table: pa.Table,
    reader: FilmReader,
    folder: ShardFolder,
    shards: Sequence[int],
    *,
    batch: int,
    threads: int,
    advance: Callable[[int], None],
    first_row: int = 0,
) -> None:
    """Write these shards: threads decode ahead while the encoder works; memory is bounded by the batch.

    A batch never reaches over the end of a shard, so that a shard's vectors do not depend on what else is written.

    Args:
        table: the studies, from `first_row` of the whole table on; `reader` reads the films of its rows.
        advance: is given how many more studies are done.
    """
    plan = folder.plan
    rows = (row - first_row for shard in shards for row in range(*plan.slice_of(shard).indices(plan.rows)))
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(IN_FLIGHT) as lanes:
        prepared = reader.ahead(pool, rows, 4 * batch)
        for shard, of_shard in groupby(prepared, key=lambda study: (study.row + first_row) // plan.shard_rows):
            done: list[Prepared] = []
            vectors: list[np.ndarray] = []
            embed = partial(_embedded, embedder, plan.regions)
            for group, embedded in in_order(lanes, embed, _groups(of_shard, batch), ahead=IN_FLIGHT):
                vectors.extend(embedded)
                done.extend(group)
                advance(len(group))
            _save(folder, shard, table, done, vectors)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Done], items: Iterable[Item], ahead: int
) -> Iterator[Done]:
    """Yield what becomes of the items, in their order, while at most `ahead` of them are being worked on or wait."""
    waiting: deque[Future[Done]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # where a store is out of reach, each would wait in vain
            future.cancel()


def _groups(items: Iterator[Item], most: int) -> Iterator[list[Item]]:
    while group := list(islice(items, most)):
        yield group


def _embedded(embedder: Embedder, regions: str, group: Sequence[Prepared]) -> tuple[list[Prepared], list[np.ndarray]]:
    """Return the studies without their films, which the shard has no use for, and the vectors of those that had any.

    Args:
        regions: as an export's plan has it; where it is not "", the studies come with the maps of their films.
    """
    films = [study.films for study in group if study.films is not None]
    maps = iter(region_maps(embedder, films) if regions and films else ())
    done = [
        replace(study, films=None, regions=_records(regions, study, next(maps)) if regions and study.films else ())
        for study in group
    ]
    return done, list(embedder.embed(films)) if films else []


def _records(regions: str, study: Prepared, maps: dict[str, RegionMap]) -> tuple[bytes, ...]:
    squares = zip(study.views, study.squares, strict=True)
    return tuple(as_record(regions, square, maps[view]).tobytes() for view, square in squares)


def _save(
    folder: ShardFolder, shard: int, table: pa.Table, done: Sequence[Prepared], vectors: Sequence[np.ndarray]
) -> None:
    embedded = [study for study in done if study.failure is None]
    matrix = np.stack(vectors) if vectors else np.empty((0, folder.plan.embedding_dim), np.float32)
    folder.save_shard(
        shard,
        table.take(pa.array([study.row for study in embedded], pa.int64())),  # of no study at all, too
        [study.views for study in embedded],
        matrix,
        [study.failure for study in done if study.failure is not None],
        [study.layouts for study in embedded],
        [study.regions for study in embedded] if folder.plan.regions else None,
    )
