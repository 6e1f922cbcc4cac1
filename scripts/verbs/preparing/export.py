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
from scripts.options.encoder_file import EncoderFile
from scripts.options.places import Anywhere, images_option
from scripts.terminal import FAILED_EXIT_CODE, say, say_json
from scripts.work.local_export import ExportTask, export_here, finish
from scripts.work.shard_writing import VIEWS

_FILMS_LOOKED_FOR = 20


@click.command()
@click.argument("studies", type=Anywhere())
@images_option
@click.option("--encoder", type=EncoderFile(), required=True, help="Encoder file, or: builtin.")
@click.option("--out", type=Anywhere(), required=True, help="Folder for the vectors.")
@click.option("--views", type=click.Choice(["both", *VIEWS]), default="both", show_default=True, help="Films to use.")
@click.option("--batch", type=click.IntRange(1), help="Studies in a batch (default: 16, or what fits a GPU's memory).")
@click.option(
    "--shard-rows", type=click.IntRange(1), default=2048, show_default=True, help="Studies in each Parquet file."
)
@click.option("--threads", type=click.IntRange(1), default=None, help="Threads that decode films (default: cores + 1).")
@click.option("--device", default="auto", show_default=True, help="Where the encoder runs: auto, cpu or cuda.")
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="auto",
    show_default=True,
    help="Runtime of the encoder; auto takes the fastest that is installed.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="local: this machine; ray: the cluster at RAY_ADDRESS, or without it one started here.",
)
@click.option(
    "--actor-cores",
    type=click.IntRange(1),
    help="With Ray: cores for each encoder (default: all of the smallest machine).",
)
@click.option(
    "--regions",
    is_flag=True,
    help="Keep the feature map of each film too, some KB, so that a part of a film can be searched by.",
)
@ignored_parts
@click.option("--retry-failed", is_flag=True, help="Try studies again that could not be read.")
@click.option("--allow-failures", is_flag=True, help="Exit with 0 even if some studies could not be read.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the manifest, the runtime and the quality of the vectors as JSON."
)
def command(
    studies: Path,
    images: Path,
    encoder: Path,
    out: Path,
    views: str,
    batch: int | None,
    shard_rows: int,
    threads: int | None,
    device: str,
    runtime: str,
    engine: str,
    actor_cores: int | None,
    regions: bool,
    ignored: frozenset[str],
    retry_failed: bool,
    allow_failures: bool,
    as_json: bool,
) -> None:
    """Turn every study of the table STUDIES into a vector. To go on after an interruption, run the same command again.

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
        regions,
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
