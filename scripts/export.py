"""`precedent export`: embed every study of a table into Parquet shards.

precedent export studies.parquet --images CheXpert/ --encoder encoder.safetensors --out embeddings/
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import pyarrow as pa
import torch

from encoder.embedder import Embedder, StudyFilms
from encoder.errors import ImageError
from encoder.layout import study_layouts
from encoder.runtime import RUNTIMES
from index.files import sha256_of
from index.shards import ExportPlan, Failure, ShardFolder
from index.studies import load_studies
from index.vectors import space_health
from scripts.terminal import progress_bar

Item = TypeVar("Item")
Done = TypeVar("Done")
VIEWS = ("frontal", "lateral")
FAILED_EXIT_CODE = 3
_HEALTH_SAMPLE = 2048
_IN_FLIGHT = 2
"""Batches the encoder has at once, so that it need not wait for one to be fused and the next to be put together."""


@dataclass(frozen=True)
class Prepared:
    """One study on its way to the encoder: its films, or why it has none."""

    row: int
    films: StudyFilms | None = None
    views: tuple[str, ...] = ()
    layouts: tuple[bytes, ...] = ()
    failure: Failure | None = None


class FilmReader:
    """Reads and preprocesses the films of a study, by its row of the table. Safe under threads."""

    def __init__(self, embedder: Embedder, studies: pa.Table, images: Path, views: str) -> None:
        self._embedder = embedder
        self._images = images
        self._ids = studies["study_id"].to_pylist()
        self._projections = studies["projection"].to_pylist()
        self._paths = {view: studies[f"{view}_path"].to_pylist() for view in VIEWS if views in ("both", view)}

    def read(self, row: int) -> Prepared:
        """Return the study's films, or the reason why one of them cannot be used."""
        paths = {view: column[row] for view, column in self._paths.items() if column[row] is not None}
        if not paths:
            return self._failed(row, f"the study has no {' or '.join(self._paths)} film")
        try:
            films = {view: self._embedder.read_film(self._images / path, name=path) for view, path in paths.items()}
        except (ImageError, OSError) as refusal:
            return self._failed(row, str(refusal))
        study = StudyFilms(films.get("frontal"), films.get("lateral"), self._projections[row])
        layouts = tuple(layout.tobytes() for layout in study_layouts(study))
        return Prepared(row, study, tuple(films), layouts)

    def _failed(self, row: int, reason: str) -> Prepared:
        return Prepared(row, failure=Failure(self._ids[row], reason))


@click.command()
@click.argument("studies", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path, file_okay=False), required=True, help="Image root.")
@click.option("--encoder", type=click.Path(path_type=Path), required=True, help="Encoder file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the shards.")
@click.option("--views", type=click.Choice(["both", *VIEWS]), default="both", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Studies a batch.")
@click.option("--shard-rows", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=None, help="Decoding threads (default: cores + 1).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), default="auto", show_default=True, help="What runs the encoder."
)
@click.option("--allow-failures", is_flag=True, help="Exit 0 even where studies could not be read.")
def command(
    studies: Path, images: Path, encoder: Path, out: Path, views: str, batch: int, shard_rows: int,
    threads: int | None, device: str, runtime: str, allow_failures: bool,
) -> None:  # fmt: skip
    """Embed every study of the table STUDIES; a killed export goes on where it stopped.

    \b
    precedent export studies.parquet --images . --encoder encoder.safetensors --out embeddings/
    """
    table = load_studies(studies)
    if not images.is_dir():
        raise NotADirectoryError(20, "expected the image root to be a folder", str(images))
    embedder = Embedder.load(encoder, device=device, runtime=runtime)
    plan = ExportPlan(
        embedder.fingerprint, embedder.embedding_dim, sha256_of(studies), table.num_rows, shard_rows, views
    )
    folder = ShardFolder(out, plan)
    reader = FilmReader(embedder, table, images, views)
    with one_torch_thread(embedder):
        export(embedder, table, reader, folder, batch=batch, threads=threads_for(threads))
    manifest = finish(folder, images)
    click.echo(f"runtime {embedder.runtime.name}" + (f": {embedder.runtime.note}" if embedder.runtime.note else ""))
    if manifest["failed"] and not allow_failures:
        sys.exit(FAILED_EXIT_CODE)


def threads_for(asked: int | None) -> int:
    """Return how many threads decode: those asked for, or one more than there are cores."""
    return asked or (os.cpu_count() or 1) + 1


@contextmanager
def one_torch_thread(embedder: Embedder) -> Iterator[None]:
    """Give OpenVINO the cores: torch's own threads, which only fuse then, would spin beside its and cost a sixth."""
    before = torch.get_num_threads()
    if embedder.runtime.name != "torch":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def export(
    embedder: Embedder, table: pa.Table, reader: FilmReader, folder: ShardFolder, *, batch: int, threads: int
) -> None:
    """Write every unfinished shard: threads decode ahead while the encoder works; memory is bounded by the batch."""
    shards = folder.unfinished()
    rows = [row for shard in shards for row in range(*folder.plan.slice_of(shard).indices(table.num_rows))]
    with progress_bar("studies") as bar, ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(_IN_FLIGHT) as lanes:
        task = bar.add_task("export", total=table.num_rows, completed=table.num_rows - len(rows))
        prepared = in_order(pool, reader.read, rows, ahead=4 * batch)
        for shard, of_shard in groupby(prepared, key=lambda study: study.row // folder.plan.shard_rows):
            done: list[Prepared] = []
            vectors: list[np.ndarray] = []
            embed = partial(_embedded, embedder)
            for group, embedded in in_order(lanes, embed, _groups(of_shard, batch), ahead=_IN_FLIGHT):
                vectors.extend(embedded)
                done.extend(group)
                bar.advance(task, len(group))
            _save(folder, shard, table, done, vectors)


def finish(folder: ShardFolder, images: Path) -> dict[str, Any]:
    """Write the manifest and print the closing lines."""
    health = space_health(folder.sample(_HEALTH_SAMPLE))
    manifest = folder.finish(image_root=str(images.resolve()), health=vars(health))
    click.echo(
        f"{folder.folder}: {manifest['rows']:,} studies embedded in {len(manifest['shards'])} shards, "
        f"{manifest['failed']:,} failed" + (f" (see {folder.folder / 'failed.parquet'})" if manifest["failed"] else "")
    )
    click.echo(health.sentence())
    return manifest


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Done], items: Iterable[Item], ahead: int
) -> Iterator[Done]:
    """Yield what becomes of the items, in their order, while at most `ahead` of them are being worked on or wait."""
    waiting: deque[Future[Done]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _groups(studies: Iterator[Prepared], batch: int) -> Iterator[list[Prepared]]:
    while group := list(islice(studies, batch)):
        yield group


def _embedded(embedder: Embedder, group: Sequence[Prepared]) -> tuple[list[Prepared], list[np.ndarray]]:
    """Return the studies without their films, which the shard has no use for, and the vectors of those that had any."""
    films = [study.films for study in group if study.films is not None]
    return [replace(study, films=None) for study in group], list(embedder.embed(films)) if films else []


def _save(
    folder: ShardFolder, shard: int, table: pa.Table, done: Sequence[Prepared], vectors: Sequence[np.ndarray]
) -> None:
    embedded = [study for study in done if study.failure is None]
    matrix = np.stack(vectors) if vectors else np.empty((0, folder.plan.embedding_dim), np.float32)
    folder.save_shard(
        shard,
        table.take([study.row for study in embedded]),
        [study.views for study in embedded],
        matrix,
        [study.failure for study in done if study.failure is not None],
        [study.layouts for study in embedded],
    )
