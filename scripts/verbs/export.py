"""`precedent export`: embed every study of a table into Parquet shards.

precedent export studies.parquet --images CheXpert/ --encoder encoder.safetensors --out embeddings/
"""

import sys
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc

from encoder.network.checkpoint import trained_of
from encoder.runtime.runtimes import RUNTIMES
from index.errors import StudiesError
from index.export.reliability import warning_of
from index.table.studies import load_studies
from scripts.options.body_parts import ignored_parts
from scripts.options.places import Anywhere, Here
from scripts.terminal import say, say_json
from scripts.work.local_export import FAILED_EXIT_CODE, ExportTask, export_here, finish
from scripts.work.shard_writing import VIEWS

_FILMS_LOOKED_FOR = 20


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
    studies: Path,
    images: Path,
    encoder: Path,
    out: Path,
    views: str,
    batch: int,
    shard_rows: int,
    threads: int | None,
    device: str,
    runtime: str,
    engine: str,
    actor_cores: int | None,
    ignored: frozenset[str],
    retry_failed: bool,
    allow_failures: bool,
    as_json: bool,
) -> None:
    """Embed every study of the table STUDIES; a killed export goes on where it stopped.

    \b
    precedent export studies.parquet --images . --encoder encoder.safetensors --out embeddings/
    """
    table = load_studies(studies)
    if not images.is_dir():
        raise NotADirectoryError(20, "expected the image root to be a folder", str(images))
    require_films(table, images)
    task = ExportTask(
        table,
        studies,
        images,
        encoder,
        out,
        views,
        batch,
        shard_rows,
        threads,
        device,
        runtime,
        retry_failed,
        ignored,
    )
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
