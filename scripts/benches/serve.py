"""`precedent bench serve`: what a server takes for a vector and for a film, beside the bare calls and an export."""

from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import click
import numpy as np
import pyarrow as pa

from encoder.embedder import Embedder
from index.built.collection import KIND_NAMES, build_collection
from index.export.shards import ExportPlan, ShardFolder
from index.search.retriever import Retriever
from index.table.studies import studies_schema
from scripts.benches.clients import Asked, Load, film_request, running, served, vector_request
from scripts.benches.drawn import Drawn
from scripts.benches.export import embedder_of
from scripts.benches.films import KINDS, draw
from scripts.benches.measured import interleaved, json_option, machine_facts, markdown_table, repeat_option
from scripts.options.encoder_file import EncoderFile
from scripts.terminal import say, say_json
from scripts.work.local_export import export
from scripts.work.shard_writing import FilmReader, one_torch_thread, threads_for

CLIENTS = (1, 8, 32)
_FILMS = 8
_VECTORS = 64
_K = 10
_PERCENTILES = (50, 95, 99)
_MS = 1000
_SHARD_ROWS = 50_000


@click.command("serve")
@click.option("--rows", type=click.IntRange(100), default=20_000, show_default=True, help="Studies in the index.")
@click.option(
    "--index-kind",
    type=click.Choice(KIND_NAMES),
    default="auto",
    show_default=True,
    help="Kind of the index; as of index.",
)
@click.option(
    "--encoder", type=EncoderFile(), help="Encoder file, or: builtin (default: two EfficientNet-B0 of random weights)."
)
@click.option("--kind", type=click.Choice(list(KINDS)), default="small", show_default=True, help="Kind of the films.")
@click.option("--vectors", type=click.IntRange(1), default=320, show_default=True, help="Searches by vector in a run.")
@click.option("--films", type=click.IntRange(1), default=96, show_default=True, help="Searches by film in a run.")
@repeat_option(3)
@json_option
def command(
    rows: int,
    index_kind: str,
    encoder: Path | None,
    kind: str,
    vectors: int,
    films: int,
    repeat: int,
    json_wanted: bool,
) -> None:
    """Search over HTTP with 1, 8 and 32 clients at once, and without HTTP for comparison.

    `precedent serve` runs in a process of its own on this machine. Vectors and films are simulated. Without HTTP the
    same vectors are searched, and the same films embedded and searched, and exported, in this process.

    \b
    precedent bench serve --rows 20000
    """
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        embedder = embedder_of(encoder, "auto", "auto", folder)
        drawn = Drawn(rows, embedder.embedding_dim)
        retriever = build_index(drawn, embedder.fingerprint, index_kind, folder)
        files = write_films(folder / "films", kind)
        weights = (encoder or folder / "encoder.safetensors").absolute()  # the server runs in another folder
        words = [str(folder / "index"), "--encoder", str(weights), "--port", "0"]
        with one_torch_thread(embedder), running(words) as server:
            trial = Trial(embedder, retriever, drawn, files, server.url, folder)
            figures = trial.measure(vectors, films, repeat) | {
                "ready_seconds": server.ready_seconds,
                "server_memory_bytes": server.memory_bytes(),
                "server_own_bytes": server.memory_bytes("RssAnon"),
            }
    facts = machine_facts("flask", "h11", "faiss-cpu", "torch") | {
        "rows": rows,
        "dim": drawn.dim,
        "index_kind": retriever.manifest["kind"],
        "films": kind,
        "backbone": embedder.encoder.config.backbone,
        "runtime": embedder.runtime.name,
        "side": embedder.preprocessing.size,
        "repeat": repeat,
    }
    if json_wanted:
        say_json(figures | facts)
    else:
        say(*_report(figures, facts).split("\n"))


def build_index(drawn: Drawn, fingerprint: str, kind: str, folder: Path) -> Retriever:
    """Return the retriever of `folder`/index, made of drawn vectors as an export would have left them."""
    save_drawn(drawn, fingerprint, folder / "embeddings")
    build_collection(folder / "embeddings", folder / "index", kind=kind)
    return Retriever.load(folder / "index")


def save_drawn(drawn: Drawn, fingerprint: str, folder: Path) -> None:
    """Write drawn vectors as an export would have left them."""
    plan = ExportPlan(fingerprint, drawn.dim, "0" * 64, drawn.rows, _SHARD_ROWS, "frontal")
    shards, start = ShardFolder(folder, plan), 0
    for number, block in enumerate(drawn.blocks()):
        shards.save_shard(number, _studies(start, len(block)), [["frontal"]] * len(block), block, [])
        start += len(block)
    shards.finish(image_root="")


def row_of(study_id: str) -> int:
    """Return the row of a drawn study."""
    patient, number = study_id.removeprefix("patient").split("/study")
    return 2 * int(patient) + int(number) - 1


def _studies(start: int, count: int) -> pa.Table:
    """Return studies, two a patient, each with a film's name and labels of its own."""
    rows = [
        {
            "study_id": f"patient{number // 2:06d}/study{number % 2 + 1}",
            "patient_id": f"patient{number // 2:06d}",
            "frontal_path": f"patient{number // 2:06d}/study{number % 2 + 1}/view1_frontal.jpg",
            "projection": ("AP", "PA")[number % 3 == 0],
            "sex": ("Female", "Male")[number // 2 % 2],
            "age": float(number // 2 % 90),
            "Edema": (1, 0, -1, None)[number % 4],
        }
        for number in range(start, start + count)
    ]
    return pa.Table.from_pylist(rows, studies_schema([]))


def write_films(folder: Path, kind: str) -> list[Path]:
    """Return the files of some simulated films of a kind."""
    folder.mkdir()
    made, rng = KINDS[kind], np.random.default_rng(0)
    files = [folder / f"{number}{made.suffix}" for number in range(_FILMS)]
    for file in files:
        file.write_bytes(made.encode(draw(made.shape, made.highest, rng)))
    return files


class Trial:
    """One server, and the calls that it stands in front of."""

    def __init__(
        self, embedder: Embedder, retriever: Retriever, drawn: Drawn, files: list[Path], url: str, folder: Path
    ) -> None:
        self._embedder, self._retriever, self._url, self._folder = embedder, retriever, url, folder
        self._queries, self._files = drawn.queries(_VECTORS), files
        self._films = [file.read_bytes() for file in files]
        self._runs = 0

    def measure(self, vectors: int, films: int, repeat: int) -> dict[str, Any]:
        """Return latencies and rates by what is asked and by how many clients; the subjects take turns."""
        loads: dict[str, list[Load]] = {}
        subjects: dict[str, Callable[[], Load]] = {
            "vector, direct": lambda: _timed(self._search, self._queries, vectors),
            "film, direct": lambda: _timed(self._embed, self._films, films // 4 or 1),
        }
        asked = {
            "vector": [vector_request(query.tolist(), _K) for query in self._queries],
            "film": [film_request(film, _K) for film in self._films],
        }
        for clients in CLIENTS:
            for what, count in (("vector", vectors), ("film", films)):
                subjects[by_clients(what, clients)] = partial(self._ask, asked[what], clients, count)
        subjects["film, precedent export"] = lambda: self._export(films)
        kept = {name: partial(_keep, loads.setdefault(name, []), run) for name, run in subjects.items()}
        interleaved(kept, repeat, warm_up=1, description="serve")
        return _figures({name: runs[1:] for name, runs in loads.items()})

    def _search(self, query: Any) -> None:
        self._retriever.search(query, _K)

    def _embed(self, film: bytes) -> None:
        self._retriever.search(self._embedder.embed_study(film, None), _K)

    def _ask(self, asked: list[Asked], clients: int, count: int) -> Load:
        return served(self._url, asked, clients, count if clients > 1 else max(1, count // 4))

    def _export(self, films: int) -> Load:
        """Return how long an export of the same films takes; it has no latencies."""
        names = [file.name for file in islice(cycle(self._files), films)]
        rows = [
            {"study_id": f"study{row}", "patient_id": f"patient{row}", "frontal_path": name}
            for row, name in enumerate(names)
        ]
        table = pa.Table.from_pylist(rows, studies_schema([]))
        plan = ExportPlan(self._embedder.fingerprint, self._embedder.embedding_dim, "0" * 64, films, 2048, "frontal")
        self._runs += 1
        shards = ShardFolder(self._folder / f"export{self._runs}", plan)
        reader = FilmReader(self._embedder, table, self._files[0].parent, "frontal")
        start = perf_counter()
        export(self._embedder, table, reader, shards, batch=16, threads=threads_for(None))
        return Load([], perf_counter() - start, films)


def by_clients(what: str, clients: int) -> str:
    """Return the name of the searches by so many clients at once."""
    return f"{what}, HTTP, {clients} client{'s' if clients > 1 else ''}"


def _keep(runs: list[Load], run: Callable[[], Load]) -> None:
    runs.append(run())


def _timed(call: Callable[[Any], None], queries: Any, count: int) -> Load:
    """Return the load that one caller makes without a server."""
    latencies, begun = [], perf_counter()
    for query in islice(cycle(queries), count):
        start = perf_counter()
        call(query)
        latencies.append(perf_counter() - start)
    return Load(latencies, perf_counter() - begun, count)


def _figures(loads: dict[str, list[Load]]) -> dict[str, Any]:
    """Return medians over the turns, and what HTTP costs and keeps: each turn is compared with itself."""
    subjects: dict[str, Any] = {}
    for name, runs in loads.items():
        subjects[name] = {"queries_per_second": median(run.rate for run in runs), "busy": sum(run.busy for run in runs)}
        if runs[0].latencies:
            cuts = np.median([np.percentile(run.latencies, _PERCENTILES) for run in runs], axis=0)
            subjects[name]["ms"] = dict(zip(("p50", "p95", "p99"), (_MS * cuts).tolist(), strict=True))
    pairs = zip(loads[by_clients("film", CLIENTS[-1])], loads["film, precedent export"], strict=True)
    return {
        "subjects": subjects,
        "http_ms": {
            what: subjects[by_clients(what, 1)]["ms"]["p50"] - subjects[f"{what}, direct"]["ms"]["p50"]
            for what in ("vector", "film")
        },
        "share_of_export": median(ours.rate / offline.rate for ours, offline in pairs),
    }


def _report(figures: dict[str, Any], facts: dict[str, Any]) -> str:
    rows = [
        [
            name,
            *(f"{figure['ms'][cut]:.2f}" if "ms" in figure else "-" for cut in ("p50", "p95", "p99")),
            f"{figure['queries_per_second']:.1f}",
            str(figure["busy"]),
        ]
        for name, figure in figures["subjects"].items()
    ]
    return markdown_table(["query", "p50 ms", "p95 ms", "p99 ms", "a second", "refused"], rows) + (
        f"\nHTTP adds {figures['http_ms']['vector']:.2f} ms to a vector and {figures['http_ms']['film']:.2f} ms to a "
        f"film (p50, one client); {CLIENTS[-1]} clients get {figures['share_of_export']:.0%} of the export's films\n"
        f"the server is ready in {figures['ready_seconds']:.1f} s; {figures['server_memory_bytes'] / 1e6:.0f} MB of "
        f"memory, {figures['server_own_bytes'] / 1e6:.0f} MB of it its own\n"
        f"{facts['rows']:,} x {facts['dim']} ({facts['index_kind']}), {facts['films']} films, {facts['backbone']} at "
        f"{facts['side']} px, {facts['runtime']}; medians of {facts['repeat']}; "
        f"{facts['cores']} cores ({facts['processor']}), load average {facts['load_1_min']}; "
        + ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    )
