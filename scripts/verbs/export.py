"""`precedent export`: embed every study of a table into Parquet shards.

precedent export studies.parquet --images CheXpert/ --encoder encoder.safetensors --out embeddings/
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc

from encoder.embedder import Embedder
from encoder.films.image import READING
from encoder.network.checkpoint import trained_of
from encoder.runtime.runtimes import RUNTIMES, Runtime
from index.errors import StudiesError
from index.export.reliability import NOT_MEASURED, facts_of, warning_of
from index.export.shards import FAILED, ExportPlan, ShardFolder
from index.judging.agreement import agreement_of
from index.storage.files import sha256_of
from index.table.studies import load_studies
from index.vectors import space_health
from scripts.options.body_parts import ignored_parts
from scripts.options.places import Anywhere, Here
from scripts.terminal import progress_bar, say, say_json, say_warning
from scripts.work.shard_writing import VIEWS, FilmReader, one_torch_thread, threads_for, write_shards

FAILED_EXIT_CODE = 3
_HEALTH_SAMPLE = 2048
_FILMS_LOOKED_FOR = 20


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
            embedder.fingerprint, dim, sha256_of(self.studies), rows, self.shard_rows, self.views,
            embedder.runtime.name, READING,
        )  # fmt: skip
        return ShardFolder(self.out, plan)


@click.command()
@click.argument("studies", type=Anywhere())
@click.option("--images", type=Anywhere(file_okay=False), required=True, help="Image root.")
@click.option("--encoder", type=Here(), required=True, help="Encoder file.")
@click.option("--out", type=Anywhere(), required=True, help="Folder of the shards.")
@click.option("--views", type=click.Choice(["both", *VIEWS]), default="both", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Studies a batch.")
@click.option("--shard-rows", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=None, help="Decoding threads (default: cores + 1).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), default="auto", show_default=True, help="What runs the encoder."
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This machine, or Ray: the cluster at RAY_ADDRESS, else one of its own here.",
)
@click.option(
    "--actor-cores", type=click.IntRange(1), help="Ray: cores an encoder gets (default: the smallest node's)."
)
@ignored_parts
@click.option("--retry-failed", is_flag=True, help="Write those shards again in which a study could not be read.")
@click.option("--allow-failures", is_flag=True, help="Exit 0 even where studies could not be read.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, the runtime and the health as JSON.")
def command(
    studies: Path, images: Path, encoder: Path, out: Path, views: str, batch: int, shard_rows: int,
    threads: int | None, device: str, runtime: str, engine: str, actor_cores: int | None, ignored: frozenset[str],
    retry_failed: bool, allow_failures: bool, as_json: bool,
) -> None:  # fmt: skip
    """Embed every study of the table STUDIES; a killed export goes on where it stopped.

    \b
    precedent export studies.parquet --images . --encoder encoder.safetensors --out embeddings/
    """
    table = load_studies(studies)
    if not images.is_dir():
        raise NotADirectoryError(20, "expected the image root to be a folder", str(images))
    require_films(table, images)
    task = ExportTask(
        table, studies, images, encoder, out, views, batch, shard_rows, threads, device, runtime, retry_failed,
        ignored,
    )  # fmt: skip
    if engine == "ray":
        if retry_failed:
            raise click.UsageError("--retry-failed is for --engine local, which goes on with what Ray wrote")
        from scripts.work.ray_export import export_on_ray

        folder, ran = export_on_ray(task, actor_cores)
    else:
        folder, ran = export_here(task)
    manifest = finish(folder, images, trained_of(encoder), quiet=as_json)
    if as_json:
        say_json({**manifest, "runtime": ran.name, "runtime_note": ran.note, "warning": warning_of(manifest)})
    else:
        say(f"runtime {ran.name}" + (f": {ran.note}" if ran.note else ""))
    if (manifest["failed"] or not manifest["rows"]) and not allow_failures:
        sys.exit(FAILED_EXIT_CODE)


def require_films(table: pa.Table, images: Path) -> None:
    """Refuse an image root below which there is not one of some films of the table, before the long work.

    Raises:
        StudiesError: there is none; the first path that was looked for is named.
    """
    step = max(table.num_rows // _FILMS_LOOKED_FOR, 1)
    paths = pc.coalesce(table["frontal_path"], table["lateral_path"]).to_pylist()[::step]
    if paths and not any((images / path).is_file() for path in paths):
        raise StudiesError(
            f"expected films below {str(images)!r}, got none at {str(images / paths[0])!r}, nor at {len(paths) - 1} "
            "other paths of the table; is --images the folder that they lead from?"
        )


def export_here(task: ExportTask) -> tuple[ShardFolder, Runtime]:
    """Embed what is still to be done with this machine; return where it lies and what ran."""
    embedder = Embedder.load(task.encoder, device=task.device, runtime=task.runtime, ignored_parts=task.ignored_parts)
    folder = task.folder_for(embedder)
    reader = FilmReader(embedder, task.table, task.images, task.views)
    with one_torch_thread(embedder):
        export(
            embedder, task.table, reader, folder,
            batch=task.batch, threads=threads_for(task.threads), retry_failed=task.retry_failed,
        )  # fmt: skip
    return folder, embedder.runtime


def export(
    embedder: Embedder, table: pa.Table, reader: FilmReader, folder: ShardFolder,
    *, batch: int, threads: int, retry_failed: bool = False,
) -> None:  # fmt: skip
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
