"""`precedent bench engines`: a folder and collections on database servers over the same vectors, in one run.

precedent bench engines --on postgresql:///radiology/bench?host=/var/run/postgresql
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import click
import numpy as np

from index.built.collection import build_collection
from index.engines.address import ServerAddress
from index.engines.collection import EngineCollection
from index.engines.manifest import NotThere
from index.living.additions import Writable
from index.opening import Address, parse_server
from index.vectors import Embeddings, Rows
from scripts.benches.drawn import Drawn, share_found, true_neighbours
from scripts.benches.living import additions
from scripts.benches.measured import json_option, machine_facts, markdown_table
from scripts.benches.serve import row_of, save_drawn
from scripts.options.collection_address import opened, token
from scripts.terminal import say, say_json

_FINGERPRINT = "f" * 64
_K = 10
_MS = 1000
_ASKERS = 2
_HEADINGS = (
    "engine",
    "kind",
    "rows a second, copied",
    "build in all, s",
    "recall@10",
    "p50 ms",
    "p95 ms",
    "queries a second",
    "with a filter, p50 ms",
    "adds a second",
)
_WHERE = {"must": [{"key": "age", "range": {"gte": 80}}, {"key": "sex", "match": {"value": "Female"}}]}


@click.command("engines")
@click.option("--rows", type=click.IntRange(100), default=224_000, show_default=True, help="Studies in each.")
@click.option("--dim", type=click.IntRange(8), default=512, show_default=True, help="Length of a vector.")
@click.option("--on", "servers", multiple=True, help="The address of a collection that is not there yet; repeatable.")
@click.option("--queries", type=click.IntRange(10), default=200, show_default=True, help="Queries asked of each.")
@click.option("--adds", type=click.IntRange(1), default=100, show_default=True, help="Studies added, one at a time.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the export lies; removed afterwards.")
@json_option
def command(
    rows: int, dim: int, servers: tuple[str, ...], queries: int, adds: int, folder: Path | None, json_wanted: bool
) -> None:
    """Build, search and add to an index in a folder and to a collection at each address, from one export.

    Nothing that is there is touched: an address must mean nothing yet. What is built there stays.

    \b
    precedent bench engines --rows 20000 --on postgresql:///radiology/bench?host=/var/run/postgresql
    """
    addresses = [parse_server(text) for text in servers]
    for address in addresses:
        _require_nothing(address)
    drawn = Drawn(rows, dim)
    with TemporaryDirectory(dir=folder, prefix="bench-") as name:
        save_drawn(drawn, _FINGERPRINT, Path(name) / "embeddings")
        asked = drawn.queries(queries)
        [truth] = true_neighbours(drawn.blocks(), asked, [np.ones(rows, bool)], _K)
        where: list[Address] = [Path(name) / "index", *addresses]
        measured = [_measured(address, Path(name) / "embeddings", drawn, asked, truth, adds) for address in where]
    facts = machine_facts("faiss-cpu", "psycopg", "pymilvus") | {"rows": rows, "dim": dim}
    if json_wanted:
        say_json({"engines": measured} | facts)
    else:
        say(*_sentences(measured, facts))


def _require_nothing(address: Address) -> None:
    try:
        with closing(opened(address)):
            pass
    except NotThere:
        return
    raise click.UsageError(f"{address} is there already; name a collection that is not")


def _measured(
    address: Address, embeddings: Path, drawn: Drawn, asked: Embeddings, truth: Rows, adds: int
) -> dict[str, Any]:
    """Return the figures of one engine."""
    copied, built = _built(address, embeddings)
    with closing(opened(address)) as collection:
        found = np.array([_rows_found(collection, vector) for vector in asked])
        seconds = sorted(_timed(partial(collection.search, vector, _K)) for vector in asked)
        filtered = sorted(_timed(partial(collection.search, vector, _K, where=_WHERE)) for vector in asked)
        with ThreadPoolExecutor(_ASKERS) as pool:
            together = _timed(lambda: list(pool.map(lambda vector: collection.search(vector, _K), asked)))
        fresh = list(islice(additions(drawn), adds))
        adding = _timed(lambda: [collection.add([addition]) for addition in fresh])
        return {
            "engine": _engine_of(collection),
            "kind": collection.manifest["kind"],
            "rows_a_second": drawn.rows / copied if copied else None,
            "build_seconds": built,
            "recall_at_10": share_found(truth, found),
            "p50_ms": _MS * seconds[len(seconds) // 2],
            "p95_ms": _MS * seconds[len(seconds) * 95 // 100],
            "queries_a_second": len(asked) / together,
            "filtered_p50_ms": _MS * filtered[len(filtered) // 2],
            "adds_a_second": adds / adding,
        }


def _built(address: Address, embeddings: Path) -> tuple[float | None, float]:
    """Return the seconds until all rows were there, where that is told apart, and until they can be searched."""
    start, last = perf_counter(), list[float]()
    if not isinstance(address, ServerAddress):
        build_collection(embeddings, address)
        return None, perf_counter() - start
    _builder(address)(embeddings, address, advance=lambda _: last.append(perf_counter() - start))
    return last[-1], perf_counter() - start


def _builder(address: ServerAddress) -> Callable[..., Any]:
    if address.backend == "postgres":
        from index.postgres.building import build_on_postgres

        return build_on_postgres
    from index.milvus.building import build_on_milvus

    return partial(build_on_milvus, token=token())


def _rows_found(collection: Writable, vector: Embeddings) -> list[int]:
    rows = [row_of(hit.study.study_id) for hit in collection.search(vector, _K).hits]
    return [*rows, *[-1] * (_K - len(rows))]


def _timed(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def _engine_of(collection: Writable) -> str:
    return collection.server_version if isinstance(collection, EngineCollection) else "a folder"


def _sentences(measured: Sequence[dict[str, Any]], facts: dict[str, Any]) -> tuple[str, ...]:
    table = [
        [
            one["engine"],
            one["kind"],
            "-" if one["rows_a_second"] is None else f"{one['rows_a_second']:,.0f}",
            f"{one['build_seconds']:.1f}",
            f"{one['recall_at_10']:.3f}",
            *(
                f"{one[name]:.1f}"
                for name in ("p50_ms", "p95_ms", "queries_a_second", "filtered_p50_ms", "adds_a_second")
            ),
        ]
        for one in measured
    ]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        *markdown_table(_HEADINGS, table).split("\n"),
        f"{facts['rows']:,} x {facts['dim']}; {_ASKERS} ask at once for queries a second; {facts['cores']} cores "
        f"({facts['processor']}), load average {facts['load_1_min']}; {versions}",
    )
