"""`precedent neighbours`: the nearest studies of every study in an index, or all pairs that are nearly the same.

precedent neighbours index/ -k 10 --out graph.parquet
precedent neighbours index/ --at-least 0.98 --out pairs.csv
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from rich.box import SIMPLE
from rich.table import Table

from encoder.films.image import READING
from index.errors import CollectionError
from index.export.reliability import warning_of
from index.living.collection import LivingCollection
from index.search.neighbours import BLOCK, PAIRS, near_duplicates, nearest_neighbours
from index.storage.files import written_whole
from scripts.options.collection_address import CollectionAddress, device_option
from scripts.options.places import Here
from scripts.terminal import progress_bar, say, say_json, say_warning, show

SHOWN = 20
"""Pairs that are printed, the most similar first; a file holds all."""
Write = Callable[[pa.Table], None]


@click.command()
@click.argument("index", type=CollectionAddress("export its studies and index them in a folder"))
@click.option("-k", type=click.IntRange(1), help="Find so many nearest studies of each.")
@click.option(
    "--at-least", type=click.FloatRange(-1, 1, min_open=True), help="Find all pairs with a cosine of at least this."
)
@click.option("--same-patient", is_flag=True, help="With -k: studies of the same patient count too.")
@click.option(
    "--approximate", is_flag=True, help="With -k: as the index searches; its recall is printed (default: exact)."
)
@click.option(
    "--most", type=click.IntRange(1), default=10_000_000, show_default=True, help="With --at-least: refuse more pairs."
)
@click.option("--out", type=Here(dir_okay=False), help="File for all pairs: .parquet, .csv or .jsonl (a line a pair).")
@device_option("auto", "What compares vectors; the pairs are the same on each.")
@click.option("--json", "as_json", is_flag=True, help="Print counts and the most similar pairs as JSON.")
def command(
    index: Path,
    k: int | None,
    at_least: float | None,
    same_patient: bool,
    approximate: bool,
    most: int,
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Find the nearest studies of every study in INDEX, of other patients, or all pairs that are nearly the same.

    \b
    precedent neighbours index/ -k 10 --out graph.parquet
    precedent neighbours index/ --at-least 0.98 --out pairs.csv
    """
    if (k is None) == (at_least is None):
        raise click.UsageError("give either -k or --at-least")
    if k is None and (same_patient or approximate):
        raise click.UsageError("--same-patient and --approximate go with -k")
    writing = _writer(out)
    living = LivingCollection(index, device)
    here = living.now()
    if here.moved or len(here.added):
        raise CollectionError(
            f"studies were added to or deleted from {str(index)!r} since it was built; run: precedent compact {index}"
        )
    built = here.collection
    if k is not None:
        blocks = nearest_neighbours(built, k, same_patient=same_patient, approximate=approximate)
    else:
        blocks = near_duplicates(built, float(at_least or 0), most=most)
    exact = built.vectors.is_exact(not approximate, None)
    with writing as write:
        counts, first = _written(blocks, write, len(here))
    warning = " ".join(filter(None, (warning_of(here.manifest, None, READING), here.patients_warning))) or None
    figures = {
        "studies": len(here),
        **counts,
        "exact": exact,
        "recall_at_10": 1.0 if exact else here.manifest["recall_at_10"],
        "fingerprint": here.fingerprint,
        "most_similar": first.to_pylist(),
        "out": None if out is None else str(out),
        "warning": warning,
    }
    if as_json:
        say_json(figures)
        return
    show(as_table(first))
    how = "exact" if exact else f"approximate, recall@10 {figures['recall_at_10']:.3f}"
    say(
        f"{len(here):,} studies, {counts['pairs']:,} pairs, {counts['same_patient']:,} of the same patient ({how})"
        + (f"; wrote {out}" if out else f"; the {len(first)} most similar are shown, --out writes all")
    )
    say_warning(warning)


def as_table(pairs: pa.Table) -> Table:
    """Return pairs as a table for a terminal."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("similarity", "study", "and", "patient"):
        table.add_column(heading, justify="right" if heading == "similarity" else "left", no_wrap=True)
    for pair in pairs.to_pylist():
        patient = "the same" if pair["same_patient"] else "another"
        table.add_row(f"{pair['similarity']:.4f}", pair["study_id"], pair["neighbour_id"], patient)
    return table


def _written(blocks: Iterator[pa.Table], write: Write, studies: int) -> tuple[dict[str, int], pa.Table]:
    """Write all pairs; return how many there are, and the most similar of them."""
    pairs, own, first = 0, 0, PAIRS.empty_table()
    with progress_bar("blocks") as bar:
        for block in bar.track(blocks, total=-(-studies // BLOCK), description=f"{studies:,} studies"):
            write(block)
            pairs += block.num_rows
            own += pc.sum(block["same_patient"]).as_py() or 0
            both = pa.concat_tables([first, block])
            order = [("similarity", "descending"), ("study_id", "ascending"), ("rank", "ascending")]
            first = both.take(pc.select_k_unstable(both, min(SHOWN, both.num_rows), order)) if both.num_rows else both
    return {"pairs": pairs, "same_patient": own}, first


def _writer(out: Path | None) -> AbstractContextManager[Write]:
    """Return what opens a file of pairs, whole or not at all, and gives a function that writes a table to it."""
    if out is None:
        return _nowhere()
    if out.suffix not in _WRITERS:
        raise click.UsageError(f"expected a file that ends in {', '.join(_WRITERS)}, got {out.name!r}")
    return _WRITERS[out.suffix](out)


@contextmanager
def _nowhere() -> Iterator[Write]:
    yield lambda table: None


@contextmanager
def _as_parquet(out: Path) -> Iterator[Write]:
    with written_whole(out) as partial, pq.ParquetWriter(partial, PAIRS, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _as_csv(out: Path) -> Iterator[Write]:
    with written_whole(out) as partial, pa_csv.CSVWriter(partial, PAIRS) as writer:
        yield writer.write_table


@contextmanager
def _as_lines(out: Path) -> Iterator[Write]:
    with written_whole(out) as partial, partial.open("w", encoding="utf-8") as file:
        yield lambda table: file.writelines(json.dumps(pair) + "\n" for pair in table.to_pylist())


_WRITERS = {".parquet": _as_parquet, ".csv": _as_csv, ".jsonl": _as_lines}
