"""`precedent add`: embed the studies of a table and add them to an index, which may be served meanwhile.

precedent add index/ new.parquet --images CheXpert/ --encoder encoder.safetensors
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.embedder import Embedder
from encoder.films.image import READING
from encoder.runtime.runtimes import RUNTIMES
from index.errors import StudiesError, UntrustedRoot
from index.export.reliability import require_reading, warning_of
from index.export.shards import MANIFEST, load_manifest, load_shards
from index.living.additions import Addition, Writable, joined
from index.opening import Address
from index.storage.places import place
from index.table.studies import Study, label_names, load_studies
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import CollectionAddress, opened
from scripts.options.encoder_file import EncoderFile
from scripts.options.places import Anywhere
from scripts.terminal import FAILED_EXIT_CODE, progress_bar, say, say_json, say_warning
from scripts.work.shard_writing import FilmReader, Prepared, one_torch_thread, threads_for


@click.command()
@click.argument("index", type=CollectionAddress())
@click.argument("studies", type=Anywhere())
@click.option(
    "--images",
    type=Anywhere(exists=True, file_okay=False),
    help="Image root: the folder that the paths in the table start from.",
)
@click.option("--encoder", type=EncoderFile(), help="The encoder file that the index was built with, or: builtin.")
@click.option("--replace", is_flag=True, help="Replace stored studies that have the same id and other content.")
@click.option(
    "--mix-readings",
    is_flag=True,
    help="Add even where the stored films were read by another version of this software.",
)
@ignored_parts
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Studies in a batch; each is one transaction.",
)
@click.option("--device", default="auto", show_default=True, help="Where the encoder runs: auto, cpu or cuda.")
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="auto",
    show_default=True,
    help="Runtime of the encoder; auto takes the fastest that is installed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(
    index: Address,
    studies: Path,
    images: Path | None,
    encoder: Path | None,
    replace: bool,
    mix_readings: bool,
    ignored: frozenset[str],
    batch: int,
    device: str,
    runtime: str,
    as_json: bool,
) -> None:
    """Add the studies of the table STUDIES to INDEX. A study that is there already, with the same content, is skipped.

    Each batch is written to disk, and found by searches, before the next one is embedded. After an interruption, run
    the same command again. If STUDIES is a finished export, of export or import vectors, its vectors are added.

    \b
    precedent add index/ new.parquet --images CheXpert/ --encoder encoder.safetensors
    precedent add index/ new-embeddings/
    """
    if (studies / MANIFEST).is_file():
        if images is not None or encoder is not None:
            raise click.UsageError("--images and --encoder are for a table; an export holds its vectors already")
        living = opened(index)
        counts = _add_export(living, studies, batch, replace=replace, mix_readings=mix_readings)
        _report(index, living, counts, None, as_json=as_json)
        return
    if images is None or encoder is None:
        raise click.UsageError("give --images and --encoder, which turn films into vectors")
    table, living = load_studies(studies), opened(index)
    if not mix_readings:
        require_reading(living.manifest, READING)
    table, further = (table, {}) if replace else with_stored_films(table, living)
    require_image_root(living, images)
    embedder = Embedder.load(encoder, device=device, runtime=runtime, ignored_parts=ignored)
    living.require_fingerprint(embedder.fingerprint)
    counts = {"added": 0, "already_there": 0, "failed": 0}
    with one_torch_thread(embedder):
        for group in _prepared(FilmReader(embedder, table, images, "both"), table.num_rows, batch):
            read = [prepared for prepared in group if prepared.films is not None]
            fresh = living.add(_additions(embedder, table, read, further), replace=replace) if read else []
            counts["added"] += sum(fresh)
            counts["already_there"] += len(fresh) - sum(fresh)
            counts["failed"] += len(group) - len(read)
            for prepared in group:
                if prepared.failure is not None:
                    say(f"left out: {prepared.failure.study_id}: {prepared.failure.reason}", err=True)
    _report(index, living, counts, embedder.trained, as_json=as_json)
    if counts["failed"]:
        sys.exit(FAILED_EXIT_CODE)


def _add_export(living: Writable, folder: Path, batch: int, *, replace: bool, mix_readings: bool) -> dict[str, int]:
    """Add the studies of an export with their vectors; return how many were new and how many there already."""
    manifest, counts = load_manifest(folder), {"added": 0, "already_there": 0, "failed": 0}
    living.require_fingerprint(manifest["fingerprint"])
    if not mix_readings:
        require_reading(living.manifest, manifest.get("reading", 1))
    if manifest.get("image_root"):
        require_image_root(living, place(manifest["image_root"]))
    with progress_bar("studies") as bar:
        task = bar.add_task("add", total=manifest["rows"])
        for table, vectors in load_shards(folder):
            labels = label_names(table.schema)
            for start in range(0, len(table), batch):
                rows = table.slice(start, batch).to_pylist()
                additions = [
                    Addition(Study.from_row(row, labels), tuple(row["views"]), vector)
                    for row, vector in zip(rows, vectors[start : start + batch], strict=True)
                ]
                fresh = living.add(additions, replace=replace)
                counts["added"] += sum(fresh)
                counts["already_there"] += len(fresh) - sum(fresh)
                bar.advance(task, len(rows))
    return counts


def _report(index: Address, living: Writable, counts: dict[str, int], trained: bool | None, *, as_json: bool) -> None:
    said = f"{index}: {counts['added']:,} added, {counts['already_there']:,} already there, {counts['failed']:,} failed"
    warning = warning_of(living.manifest, trained, READING)
    if as_json:
        say_json({**counts, "warning": warning})
    else:
        say(f"{said}; {len(living):,} studies now")
        if counts["added"] and living.manifest.get("regions"):
            say("searches by a region leave the added studies out: no feature maps are kept of them")
        say_warning(warning)


def require_image_root(living: Writable, images: Path) -> None:
    """Refuse films from another image root than the index's own, where that is there.

    An index that was made elsewhere is taken at the user's word.

    Raises:
        StudiesError: they are.
    """
    try:
        root = living.remembered_root()
    except UntrustedRoot:  # made elsewhere, where films may lie anywhere
        return
    if root is not None and root.is_dir() and root.resolve() != images.resolve():
        raise StudiesError(
            f"expected films below {str(root)!r}, which the paths of this index lead from, got {str(images)!r}; "
            "move them there and import them again"
        )


def _prepared(reader: FilmReader, studies: int, batch: int) -> Iterator[list[Prepared]]:
    """Yield the studies with their films, so many at a time, while the next are being read."""
    with progress_bar("studies") as bar, ThreadPoolExecutor(threads_for(None)) as pool:
        task = bar.add_task("add", total=studies)
        prepared = reader.ahead(pool, range(studies), 2 * batch)
        while group := list(islice(prepared, batch)):
            yield group
            bar.advance(task, len(group))


def with_stored_films(table: pa.Table, living: Writable) -> tuple[pa.Table, dict[int, tuple[Study, Study]]]:
    """Return the table with the films that stored studies have already added to those that the table names.

    Returns:
        the table, to read films by; and of the rows of such studies, the study as it is to be and as it is.
    """
    now, labels = living.now(), label_names(table.schema)
    further = {}
    for row, study_id in enumerate(table["study_id"].to_pylist()):
        if study_id in now:
            stored = now.study(study_id)
            whole = joined(stored, *Study.from_table(table.slice(row, 1), labels))
            if whole is not None:
                further[row] = (whole, stored)
    for name in ("frontal_path", "lateral_path", "projection") if further else ():
        values = table[name].to_pylist()
        for row, (whole, _) in further.items():
            values[row] = getattr(whole, name)
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return table, further


def _additions(
    embedder: Embedder, table: pa.Table, read: Sequence[Prepared], further: Mapping[int, tuple[Study, Study]]
) -> list[Addition]:
    studies = Study.from_table(table.take([prepared.row for prepared in read]), label_names(table.schema))
    vectors = embedder.embed([prepared.films for prepared in read if prepared.films is not None])
    return [
        _addition(study, prepared, vector, further.get(prepared.row))
        for study, prepared, vector in zip(studies, read, vectors, strict=True)
    ]


def _addition(
    study: Study, read: Prepared, vector: npt.NDArray[np.float32], further: tuple[Study, Study] | None
) -> Addition:
    if further is None:
        return Addition(study, read.views, vector)
    whole, stored = further
    return Addition(whole, read.views, vector, stored if whole != stored else None)
