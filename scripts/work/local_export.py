"""An export on this machine: what was asked for, the unfinished shards with a progress bar, and the closing lines."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoder.embedder import Embedder
from encoder.films.image import READING
from encoder.runtime.runtimes import Runtime
from index.export.reliability import NOT_MEASURED, facts_of, warning_of
from index.export.shards import FAILED, ExportPlan, ShardFolder
from index.judging.agreement import agreement_of
from index.storage.files import sha256_of
from index.vectors import space_health
from scripts.terminal import progress_bar, say, say_warning
from scripts.work.shard_writing import FilmReader, one_torch_thread, threads_for, write_shards

FAILED_EXIT_CODE = 3
_HEALTH_SAMPLE = 2048


@dataclass(frozen=True)
class ExportTask:
    """What the command was asked to do."""

    table: pa.Table
    studies: Path
    images: Path
    encoder: Path
    out: Path
    views: str
    batch: int
    shard_rows: int
    threads: int | None
    device: str
    runtime: str
    retry_failed: bool = False
    ignored_parts: frozenset[str] = frozenset()

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
            batch=task.batch,
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
    with shard_bar(folder, shards) as told:
        write_shards(embedder, table, reader, folder, shards, batch=batch, threads=threads, told=told)


@contextmanager
def shard_bar(folder: ShardFolder, shards: Sequence[int]) -> Iterator[Callable[[int], None]]:
    """Show a bar of all studies, those of the unfinished shards still to come; yield what moves it on."""
    to_come = sum(part.stop - part.start for part in map(folder.plan.slice_of, shards))
    with progress_bar("studies") as bar:
        task = bar.add_task("export", total=folder.plan.rows, completed=folder.plan.rows - to_come)
        yield lambda studies: bar.advance(task, studies)


def finish(folder: ShardFolder, images: Path, trained: bool | None, *, quiet: bool = False) -> dict[str, Any]:
    """Write the manifest and, unless quiet, print the closing lines.

    Args:
        trained: whether the encoder was, where that is known.
    """
    studies, vectors = folder.sample(_HEALTH_SAMPLE)
    health = space_health(vectors)
    agreement = agreement_of(studies, vectors) if studies is not None else None
    manifest = folder.finish(image_root=str(images.resolve()), health=vars(health), **facts_of(trained, agreement))
    if quiet:
        return manifest
    say(
        f"{folder.folder}: {manifest['rows']:,} studies embedded in {len(manifest['shards'])} shards, "
        f"{manifest['failed']:,} failed"
        + (f" (see {folder.folder / FAILED}; --retry-failed tries again)" if manifest["failed"] else "")
    )
    say(health.sentence())
    say(f"neighbours: {agreement.sentence() if agreement is not None else NOT_MEASURED}")
    say_warning(warning_of(manifest))
    return manifest
