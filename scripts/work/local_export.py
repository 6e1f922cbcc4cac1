"""An export on this machine: what was asked for, the unfinished shards with a progress bar, and the closing lines."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoder.embedder import Embedder
from encoder.films.image import READING
from encoder.maps.region_maps import regions_of
from encoder.runtime.runtimes import Runtime
from index.export.reliability import NOT_MEASURED, facts_of, warning_of
from index.export.shards import FAILED, ExportPlan, ShardFolder
from index.judging.agreement import agreement_of
from index.storage.files import sha256_of
from index.vectors import space_health
from scripts.terminal import progress_bar, say, say_warning
from scripts.work.shard_writing import FilmReader, one_torch_thread, threads_for, write_shards

_HEALTH_SAMPLE = 2048
_LEAST_TIMED = 10.0
"""Seconds of the first films by which the rest is judged."""
_LONG_HOURS = 1.0


@dataclass(frozen=True)
class ExportTask:
    """What the command was asked to do."""

    table: pa.Table
    studies: Path
    images: Path
    encoder: Path
    out: Path
    views: str
    batch: int | None
    """Studies a batch; None is what suits the device."""
    shard_rows: int
    threads: int | None
    device: str
    runtime: str
    retry_failed: bool = False
    ignored_parts: frozenset[str] = frozenset()
    regions: bool = False
    """Whether the feature maps of films are kept, to search by a part of one."""

    def folder_for(self, embedder: Embedder) -> ShardFolder:
        """Return the folder of the shards. Raises what `ShardFolder` does."""
        dim, rows = embedder.embedding_dim, self.table.num_rows
        plan = ExportPlan(
            embedder.fingerprint,
            dim,
            sha256_of(self.studies),
            rows,
            self.shard_rows,
            self.views,
            embedder.runtime.name,
            READING,
            regions_of(embedder) if self.regions else "",
        )
        return ShardFolder(self.out, plan)


def export_here(task: ExportTask) -> tuple[ShardFolder, Runtime]:
    """Embed what is still to be done with this machine; return where it lies and what ran."""
    embedder = Embedder.load(task.encoder, device=task.device, runtime=task.runtime, ignored_parts=task.ignored_parts)
    folder = task.folder_for(embedder)
    reader = FilmReader(embedder, task.table, task.images, task.views)
    with one_torch_thread(embedder):
        export(
            embedder,
            task.table,
            reader,
            folder,
            batch=task.batch or embedder.batch,
            threads=threads_for(task.threads),
            retry_failed=task.retry_failed,
        )
    return folder, embedder.runtime


def export(
    embedder: Embedder,
    table: pa.Table,
    reader: FilmReader,
    folder: ShardFolder,
    *,
    batch: int,
    threads: int,
    retry_failed: bool = False,
) -> None:
    """Write every unfinished shard, and show how far it is."""
    shards = folder.unfinished(retry_failed=retry_failed)
    with shard_bar(folder, shards) as advance:
        write_shards(embedder, table, reader, folder, shards, batch=batch, threads=threads, advance=advance)


@contextmanager
def shard_bar(folder: ShardFolder, shards: Sequence[int]) -> Iterator[Callable[[int], None]]:
    """Show a bar of all studies, those of the unfinished shards still to come; yield what moves it on."""
    to_come = sum(part.stop - part.start for part in map(folder.plan.slice_of, shards))
    with progress_bar("studies") as bar:
        task = bar.add_task("export", total=folder.plan.rows, completed=folder.plan.rows - to_come)
        pace = Pace(to_come)

        def advance(studies: int) -> None:
            bar.advance(task, studies)
            if (warned := pace.after(studies, time.monotonic())) is not None:
                say(warned, err=True)

        yield advance


class Pace:
    """How long an export will take, said once, by its first films, where that is long."""

    def __init__(self, to_come: int) -> None:
        self._to_come, self._done, self._began, self._said = to_come, 0, -1.0, False

    def after(self, studies: int, now: float) -> str | None:
        """Return a sentence once, after so many more studies at a time in seconds; None where there is none to say.

        The first batch, in which a runtime warms up, does not count.
        """
        self._to_come -= studies
        if self._began < 0:
            self._began = now
            return None
        self._done += studies
        if self._said or now - self._began < _LEAST_TIMED:
            return None
        self._said = True
        rate = self._done / (now - self._began)
        hours = self._to_come / rate / 3600
        if hours < _LONG_HOURS:
            return None
        return (
            f"about {rate:,.2g} studies a second, so about {hours:,.0f} hours for the {self._to_come:,} studies to "
            "come; an export that is stopped goes on where it was"
        )


def finish(
    folder: ShardFolder,
    images: Path | None,
    trained: bool | None,
    *,
    quiet: bool = False,
    why_failed: str = "--retry-failed tries again",
    **facts: Any,
) -> dict[str, Any]:
    """Write the manifest and, unless quiet, print the closing lines.

    Args:
        trained: whether the encoder was, where that is known.
        why_failed: what is to be said of studies that have no vector.
        facts: what else the manifest has to say.
    """
    studies, vectors = folder.sample(_HEALTH_SAMPLE)
    health = space_health(vectors)
    agreement = agreement_of(studies, vectors) if studies is not None else None
    root = None if images is None else str(images.resolve())
    manifest = folder.finish(image_root=root, health=vars(health), **facts_of(trained, agreement), **facts)
    if quiet:
        return manifest
    say(
        f"{folder.folder}: {manifest['rows']:,} studies embedded in {len(manifest['shards'])} shards, "
        f"{manifest['failed']:,} failed"
        + (f" (see {folder.folder / FAILED}; {why_failed})" if manifest["failed"] else "")
    )
    say(health.sentence())
    say(f"neighbours: {agreement.sentence() if agreement is not None else NOT_MEASURED}")
    say_warning(warning_of(manifest))
    return manifest
