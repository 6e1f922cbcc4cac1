"""`precedent bench search`: speed, memory and recall of each kind of index on simulated vectors, beside FAISS flat.

precedent bench search --rows 10000 --rows 100000
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import click
import numpy as np

from index.built.collection import KIND_NAMES, build_vectors, with_enough_effort
from index.built.vector_index import VectorIndex
from index.vectors import Embeddings, Mask, Rows
from scripts.benches.drawn import Drawn, share_found, true_neighbours
from scripts.benches.measured import (
    Clocked,
    interleaved,
    json_option,
    machine_facts,
    markdown_table,
    medians,
    repeat_option,
    resident_bytes,
)
from scripts.benches.other_indexes import Way, ways_of
from scripts.terminal import say, say_json

SIZES = (10_000, 100_000, 224_000, 1_000_000)
SHARES = (0.001, 0.01, 0.1, 0.5)
_K = 10
_FLAT_QUERIES = 3
_OUR_QUERIES = 50
_FLAT_UP_TO = 2_000_000
"""Rows beyond which a flat FAISS index would not fit into the memory of a small machine."""
_MS = 1000
_HEADINGS = (
    "rows",
    "kind",
    "vectors kept in",
    "recall@10",
    "one query, ms",
    "one-bit codes read once, ms",
    "FAISS flat, ms",
    "vectors read once, ms",
    "queries a second in batches",
    "build, s",
    "open, s",
    "bytes a vector on disk",
    "own memory, MB",
    "mapped from disk, MB",
)
_OTHER_HEADINGS = (
    "rows",
    "index",
    "recall@10",
    "one query, ms",
    "processor ms of one query",
    "queries a second in batches",
    "processor ms of a query in a batch",
    "build, s",
)
_FILTER_HEADINGS = ("filter", "rows that pass", "exact", "recall@10", "one query, ms", "times as fast as unfiltered")


@click.command("search")
@click.option(
    "--rows",
    type=click.IntRange(100),
    multiple=True,
    default=SIZES,
    show_default=True,
    help="Studies in an index; repeatable.",
)
@click.option("--dim", type=click.IntRange(8), default=512, show_default=True, help="Length of a vector.")
@click.option(
    "--kind", type=click.Choice(KIND_NAMES), default="auto", show_default=True, help="Kind of the index; as of index."
)
@click.option(
    "--queries", type=click.IntRange(10), default=200, show_default=True, help="Queries that recall is measured with."
)
@click.option("--batch", type=click.IntRange(2), default=1000, show_default=True, help="Queries searched together.")
@repeat_option(5)
@click.option("--alone", is_flag=True, help="Leave out ScaNN, SVS and a GPU, though they are there.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the measured index lies; removed afterwards.")
@json_option
def command(
    rows: tuple[int, ...],
    dim: int,
    kind: str,
    queries: int,
    batch: int,
    repeat: int,
    alone: bool,
    folder: Path | None,
    json_wanted: bool,
) -> None:
    """Build, save, open and search an index of each size, and search the same vectors with a flat FAISS index.

    The vectors are drawn at random from a model of those of trained encoders (`scripts/benches/drawn.py`). The flat
    index holds 32-bit floats and is asked one query at a time. Two more columns say what the machine allows at best:
    the time in which one core reads every one-bit code once, and every 32-bit vector once.

    Where they are installed, ScaNN and SVS are built over the same vectors, and where there is a GPU they are searched
    there: each with the least effort that finds 99.5 % of the ten nearest.

    \b
    precedent bench search --rows 100000 --json
    """
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    figures = {
        "k": _K,
        "dim": dim,
        "repeat": repeat,
        "batch": batch,
        "queries": queries,
        "threads": threads,
        "sizes": [_measure(Drawn(n, dim), kind, queries, batch, repeat, folder, not alone and threads) for n in rows],
        **machine_facts("faiss-cpu", "faiss-gpu", "numpy", "scann", "scalable-vs"),
    }
    if json_wanted:
        say_json(figures)
    else:
        say(*_sentences(figures).split("\n"))


def _measure(
    drawn: Drawn, kind: str, count: int, batch: int, repeat: int, folder: Path | None, threads: int
) -> dict[str, Any]:
    """Return the figures of one size; those of other indexes by so many threads, none of them for 0."""
    queries = drawn.queries(max(count, batch))
    filters = _filters(drawn)
    masks = [np.ones(drawn.rows, dtype=bool), *filters.values()]
    truths = true_neighbours(drawn.blocks(), queries[:count], masks, _K)
    with TemporaryDirectory(dir=folder, prefix="bench-") as place:
        index, facts = _built(drawn, kind, Path(place))
        rows = index.search(queries[:count], _K)[1]
        facts["recall_at_10"] = share_found(truths[0], rows)
        facts["resident_bytes"] = _difference(facts.pop("before"), resident_bytes())
        facts["filters"] = _filtered(index, queries, filters, truths[1:], repeat)
        facts |= _timed(index, drawn, queries, batch, repeat)
        if threads:
            facts |= _beside_others(index, drawn, queries, truths[0], batch, repeat, threads)
        return facts


def _built(drawn: Drawn, kind: str, place: Path) -> tuple[VectorIndex, dict[str, Any]]:
    """Return the index as a service holds it, mapped from files, and what it took to get there."""
    start = perf_counter()
    built, estimate = with_enough_effort(build_vectors(drawn.blocks(), kind, drawn.rows))
    seconds = perf_counter() - start
    exact, codes = place / "exact.faiss", place / "codes.faiss"
    built.save(exact, codes)
    effort, kind = built.effort, built.kind
    del built
    before, start = resident_bytes(), perf_counter()
    index = VectorIndex.load(exact, codes if codes.exists() else None, kind, effort)
    sizes = {path.stem: path.stat().st_size for path in (exact, codes) if path.exists()}
    return index, {
        "rows": drawn.rows,
        "kind": index.kind,
        "precision": index.precision,
        "effort": asdict(index.effort),
        "build_seconds": seconds,
        "load_seconds": perf_counter() - start,
        "before": before,
        "estimated_recall_at_10": estimate,
        "bytes_a_vector": {name: size / drawn.rows for name, size in sizes.items()},
    }


def _filters(drawn: Drawn) -> dict[str, Mask]:
    """Return (N,) masks: rows by chance, and rows that lie furthest along a direction, for each share."""
    along = np.concatenate([block @ drawn.direction() for block in drawn.blocks()])
    order = np.argsort(-along)
    chance = np.random.default_rng(2).permutation(drawn.rows)
    masks = {}
    for share in SHARES:
        for name, ranked in (("by chance", chance), ("by what it shows", order)):
            mask = np.zeros(drawn.rows, dtype=bool)
            mask[ranked[: max(round(share * drawn.rows), 1)]] = True
            masks[f"{share:.1%} {name}"] = mask
    return masks


def _filtered(
    index: VectorIndex, queries: Embeddings, filters: dict[str, Mask], truths: list[Rows], repeat: int
) -> list[dict[str, Any]]:
    count = len(truths[0])
    subjects = {"no filter": _one_by_one(index, queries[:count])}
    subjects |= {name: _one_by_one(index, queries[:count], mask) for name, mask in filters.items()}
    seconds, rows = interleaved(subjects, repeat, warm_up=1, description=f"{len(index):,} filtered")
    middle = medians(seconds)
    return [
        {
            "filter": name,
            "passing": int(np.count_nonzero(mask)),
            "exact": index.select(mask).few or index.kind == "flat",
            "recall_at_10": share_found(truth, rows[name]),
            "one_query_ms": _MS * middle[name] / count,
            "rate_of_unfiltered": middle["no filter"] / middle[name],
        }
        for (name, mask), truth in zip(filters.items(), truths, strict=True)
    ]


def _one_by_one(index: VectorIndex, queries: Embeddings, mask: Mask | None = None) -> Callable[[], Rows]:
    among = None if mask is None else index.select(mask)
    return lambda: np.concatenate([index.search(query[None], _K, among=among)[1] for query in queries])


def _timed(index: VectorIndex, drawn: Drawn, queries: Embeddings, batch: int, repeat: int) -> dict[str, Any]:
    """Return milliseconds of one query and queries a second, those of a flat FAISS index, and the machine's limits."""
    codes = np.ones(drawn.rows * drawn.dim // 64, dtype=np.uint64)
    subjects: dict[str, tuple[Callable[[], Any], int]] = {
        "one query": (_one_by_one(index, queries[:_OUR_QUERIES]), _OUR_QUERIES),
        "batch": (lambda: index.search(queries[:batch], _K)[1], batch),
        "codes read once": (codes.max, 1),
    }
    if drawn.rows <= _FLAT_UP_TO:
        flat = VectorIndex.build(drawn.blocks(), "flat", drawn.rows)
        vectors = np.ones(drawn.rows * drawn.dim // 2, dtype=np.uint64)
        subjects["FAISS flat"] = (_one_by_one(flat, queries[:_FLAT_QUERIES]), _FLAT_QUERIES)
        subjects["vectors read once"] = (vectors.max, 1)
    calls = {name: call for name, (call, _) in subjects.items()}
    seconds, _ = interleaved(calls, repeat, warm_up=1, description=f"{drawn.rows:,} rows")
    each = {name: middle / subjects[name][1] for name, middle in medians(seconds).items()}
    return {
        "milliseconds": {name: _MS * value for name, value in each.items()},
        "queries_a_second": {name: 1 / value for name, value in each.items() if "read" not in name},
        "seconds": seconds,
    }


def _beside_others(
    index: VectorIndex, drawn: Drawn, queries: Embeddings, truth: Rows, batch: int, repeat: int, threads: int
) -> dict[str, Any]:
    """Return the figures of every index that this machine has, at equal recall, and why the others have none."""
    vectors = np.concatenate(list(drawn.blocks()))
    ways, absent = ways_of(index, vectors, queries[: len(truth)], truth, threads)
    calls: dict[str, Clocked[Any]] = {}
    for way in ways:
        calls[f"{way.name}, one"] = Clocked(partial(_each, way, queries[:_OUR_QUERIES]))
        calls[f"{way.name}, batch"] = Clocked(partial(way.search_batch, queries[:batch], _K))
    middle = medians(interleaved(calls, repeat, warm_up=1, description=f"{drawn.rows:,} rows, all indexes")[0])
    return {
        "absent": absent,
        "others": [
            {
                "index": way.name,
                "recall_at_10": way.recall,
                "one_query_ms": _MS * middle[f"{way.name}, one"] / _OUR_QUERIES,
                "one_query_processor_ms": _MS * calls[f"{way.name}, one"].middle() / _OUR_QUERIES,
                "queries_a_second": batch / middle[f"{way.name}, batch"],
                "batch_processor_ms": _MS * calls[f"{way.name}, batch"].middle() / batch,
                "build_seconds": way.build_seconds,
            }
            for way in ways
        ],
    }


def _each(way: Way, queries: Embeddings) -> list[Rows]:
    return [way.search_one(query[None], _K) for query in queries]


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


def _sentences(figures: dict[str, Any]) -> str:
    sizes = figures["sizes"]
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    return "\n\n".join(
        (
            markdown_table(_HEADINGS, [_line(size) for size in sizes]),
            markdown_table(_FILTER_HEADINGS, [_filter_line(size, cell) for size in sizes for cell in size["filters"]]),
            *_others(sizes),
            f"{figures['dim']} dimensions, k {figures['k']}; milliseconds are of one query, queries a second of a "
            f"batch of {figures['batch']}; medians of {figures['repeat']} runs.\n"
            f"{figures['cores']} cores ({figures['processor']}), {figures['threads']} threads, "
            f"load average {figures['load_1_min']}; {versions}.",
        )
    )


def _others(sizes: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table of all indexes, and a line of those that are absent."""
    cells = [(size, rival) for size in sizes for rival in size.get("others", ())]
    if len({rival["index"].split(",")[0] for _, rival in cells}) > 1:
        yield markdown_table(_OTHER_HEADINGS, [_other_line(size, rival) for size, rival in cells])
    if absent := sizes[0].get("absent"):
        yield f"Not measured: {'; '.join(f'{name}, {why}' for name, why in absent.items())}."


def _other_line(size: dict[str, Any], rival: dict[str, Any]) -> list[str]:
    return [
        f"{size['rows']:,}",
        rival["index"],
        f"{rival['recall_at_10']:.3f}",
        f"{rival['one_query_ms']:.3f}",
        f"{rival['one_query_processor_ms']:.3f}",
        f"{rival['queries_a_second']:,.0f}",
        f"{rival['batch_processor_ms']:.3f}",
        f"{rival['build_seconds'] or size['build_seconds']:.0f}",
    ]


def _line(size: dict[str, Any]) -> list[str]:
    times, resident = size["milliseconds"], size["resident_bytes"]
    return [
        f"{size['rows']:,}",
        size["kind"],
        size["precision"],
        f"{size['recall_at_10']:.3f}",
        f"{times['one query']:.2f}",
        f"{times['codes read once']:.2f}",
        *(f"{times[name]:.1f}" if name in times else "-" for name in ("FAISS flat", "vectors read once")),
        f"{size['queries_a_second']['batch']:,.0f}",
        f"{size['build_seconds']:.0f}",
        f"{size['load_seconds']:.2f}",
        f"{sum(size['bytes_a_vector'].values()):,.0f}",
        *(f"{resident[name] / 1e6:,.0f}" for name in ("anonymous", "file")),
    ]


def _filter_line(size: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    return [
        f"{size['rows']:,}, {cell['filter']}",
        f"{cell['passing']:,}",
        "yes" if cell["exact"] else "no",
        f"{cell['recall_at_10']:.3f}",
        f"{cell['one_query_ms']:.2f}",
        f"{cell['rate_of_unfiltered']:.2f}",
    ]
