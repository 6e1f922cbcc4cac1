"""`precedent bench capacity`: what large collections need, reckoned from what the other subjects measured here.

Knows their JSON and the assumptions in between; it must not measure anything itself.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import click

from index.built.effort import lists_of
from index.errors import ArtefactError
from scripts.terminal import say, say_json

STUDIES = (1_000_000, 100_000_000, 1_000_000_000)
FILM_MB = {"small": 0.05, "full": 2.0, "dicom": 13.0}
"""Megabytes a film, where none are given: CheXpert-small and CheXpert as published, and 2320 x 2828 in 16 bits."""
_NOT_MEASURED = "not measured"
_PARTS = {"ways": "encode", "kinds": "export", "sizes": "search"}
_GIB = 1 << 30
Sizes = Callable[[int], str]


@dataclass(frozen=True)
class Assumed:
    """What no measurement tells."""

    kind: str = "small"
    film_mb: float = FILM_MB["small"]
    machines: int = 10
    cores: int = 16
    node_gib: float = 64.0
    node_share: float = 0.7
    shard_rows: int = 2048


@dataclass(frozen=True)
class Measured:
    """One file of figures."""

    name: str
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One line of the table: a value a size, and where they come from."""

    what: str
    values: tuple[str, ...]
    source: str
    assumption: str


@click.command("capacity")
@click.argument("figures", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--kind", type=click.Choice(list(FILM_MB)), default="small", show_default=True, help="Kind of film.")
@click.option("--film-mb", type=click.FloatRange(0, min_open=True), help="Megabytes a film (default: by kind).")
@click.option("--machines", type=click.IntRange(1), default=10, show_default=True, help="That re-embed everything.")
@click.option("--cores", type=click.IntRange(1), default=16, show_default=True, help="Of each of them.")
@click.option("--node-gib", type=click.FloatRange(1), default=64.0, show_default=True, help="Memory of a query node.")
@click.option(
    "--node-share", type=click.FloatRange(0.05, 1), default=0.7, show_default=True, help="Of it that vectors may fill."
)
@click.option("--shard-rows", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def command(
    figures: tuple[Path, ...], kind: str, film_mb: float | None, machines: int, cores: int, node_gib: float,
    node_share: float, shard_rows: int, as_json: bool,
) -> None:  # fmt: skip
    """Print what 1 million, 100 million and 1 billion studies need, in Markdown, from what --json printed.

    \b
    precedent bench encode --no-compile --json > encode.json
    precedent bench export --json > export.json
    precedent bench search --rows 1000000 --json > search.json
    precedent bench capacity encode.json export.json search.json
    """
    assumed = Assumed(kind, film_mb or FILM_MB[kind], machines, cores, node_gib, node_share, shard_rows)
    lines = lines_of([read_figures(path) for path in figures], assumed)
    if as_json:
        say_json({"studies": STUDIES, "assumed": asdict(assumed), "lines": [asdict(line) for line in lines]})
    else:
        say(*markdown(lines).split("\n"))


def read_figures(path: Path) -> Measured:
    """Return one file of figures. Raises ArtefactError where it is none that a subject of `bench` printed."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtefactError(f"{str(path)!r} is no JSON ({error}); run the bench with --json") from error
    if not isinstance(figures, dict) or not _PARTS.keys() & figures.keys():
        subjects = ", ".join(_PARTS.values())
        raise ArtefactError(f"expected {str(path)!r} to hold what `precedent bench` prints of {subjects} with --json")
    return Measured(path.name, figures)


def lines_of(files: Sequence[Measured], assumed: Assumed) -> list[Line]:
    """Return the lines of the table; what no file tells says so.

    Raises:
        ArtefactError: no file tells of the export of that kind of film, or of a search.
    """
    export = _the(files, "kinds", assumed.kind)
    search = _the(files, "sizes", None)
    return [*_encoder_lines(files, export, assumed), *_storage_lines(search, assumed), *_search_lines(search, assumed)]


def _the(files: Sequence[Measured], part: str, kind: str | None) -> Measured:
    for file in files:
        if part in file.figures and (kind is None or kind in file.figures[part]):
            return file
    of = f" of {kind} films" if kind else ""
    raise ArtefactError(f"expected figures of `precedent bench {_PARTS[part]} --json`{of}, got none")


def _encoder_lines(files: Sequence[Measured], export: Measured, assumed: Assumed) -> Iterator[Line]:
    figures = export.figures
    rate = figures["kinds"][assumed.kind]["films_per_second"]["precedent export"] / 2
    core_seconds = figures["cores"] / rate
    source = f"{export.name}: kinds.{assumed.kind}.films_per_second['precedent export'] = {2 * rate:.1f}"
    on = f"{figures['cores']} cores ({figures['runtime']}, {figures['backbone']} at {figures['side']} px)"
    yield _line("encoder, core-hours, films to shards", lambda n: _number(n * core_seconds / 3600), source,
                f"two films a study; measured on {on}; the rate a core stays as cores are added")  # fmt: skip
    crew = assumed.machines * assumed.cores
    yield _line(f"re-embedding all of it, {assumed.machines} machines of {assumed.cores} cores",
                lambda n: _hours(n * core_seconds / 3600 / crew), source,
                "cores as fast as those measured, storage that keeps up")  # fmt: skip
    yield _gpu_line(files)


def _gpu_line(files: Sequence[Measured]) -> Line:
    what = "encoder, GPU-hours, films in memory"
    for file in files:
        if "ways" in file.figures and str(file.figures.get("device", "")).startswith("cuda"):
            timed = {name: way for name, way in file.figures["ways"].items() if "one_study_ms" in way}
            rate, name = max((way["studies_per_second"], name) for name, way in timed.items())
            source = f"{file.name}: ways[{name!r}].studies_per_second = {rate:.1f}"
            hours = tuple(_number(count / rate / 3600) for count in STUDIES)
            return Line(what, hours, source, "one GPU as measured; reading and decoding films keeps up with it")
    return _line(what, lambda n: _NOT_MEASURED, "no figures of a GPU were given", "")


def _storage_lines(search: Measured, assumed: Assumed) -> Iterator[Line]:
    dim = search.figures["dim"]
    yield _line("films", lambda n: _bytes(2e6 * n * assumed.film_mb), "none",
                f"two films a study of {assumed.film_mb:g} MB each")  # fmt: skip
    yield _line("shards", lambda n: f"{ceil(n / assumed.shard_rows):,}", "none", f"--shard-rows {assumed.shard_rows}")
    yield _line("vectors in the shards", lambda n: _bytes(4.0 * dim * n), f"{search.name}: dim = {dim}",
                "fp32, not compressed; the studies' own columns come on top")  # fmt: skip


def _search_lines(search: Measured, assumed: Assumed) -> Iterator[Line]:
    lists = [size for size in search.figures["sizes"] if "codes" in size["bytes_a_vector"]]
    size = max(lists or search.figures["sizes"], key=lambda one: one["rows"])
    at = f"{search.name}: sizes[rows = {size['rows']:,}]"
    held = {"flat, fp32": (4.0 * search.figures["dim"], f"{search.name}: dim = {search.figures['dim']}")}
    if lists:
        exact, codes = (size["bytes_a_vector"][part] for part in ("exact", "codes"))
        both, alone = f"{at}.bytes_a_vector = {exact:.1f} + {codes:.1f}", f"{at}.bytes_a_vector.codes = {codes:.1f}"
        held[f"IVF or HNSW, {size['precision']} in memory"] = (exact + codes, both)
        held["codes in memory, vectors on disk (PQ, DISKANN)"] = (codes, alone)
    for name, (each, source) in held.items():
        yield from _memory_lines(name, each, source, assumed)
    yield from _query_lines(search, size, at)


def _memory_lines(name: str, each: float, source: str, assumed: Assumed) -> Iterator[Line]:
    room = assumed.node_gib * assumed.node_share * _GIB
    yield _line(f"memory: {name}", lambda n: _bytes(n * each), source, "Milvus needs as much a vector as our index")
    node = f"{assumed.node_gib:g} GiB a node, {assumed.node_share:.0%} of it for vectors, one replica"
    yield _line(f"Milvus query nodes: {name}", lambda n: f"{ceil(n * each / room):,}", source, node)


def _query_lines(search: Measured, size: Mapping[str, Any], at: str) -> Iterator[Line]:
    threads, rows = search.figures["threads"], size["rows"]
    if "plain" in size["milliseconds"]:
        plain = size["milliseconds"]["plain"]
        yield _line("core-seconds a query: flat", lambda n: f"{threads * plain / 1000 * n / rows:,.2f}",
                    f"{at}.milliseconds.plain = {plain:.1f}, on {threads} threads",
                    "at most: as if all threads worked on one query; in proportion to the rows; recall 1")  # fmt: skip
    batch = size["queries_a_second"]["ours, batch"]
    a_list = rows / lists_of(rows)
    yield _line(f"core-seconds a query: {size['kind']}",
                lambda n: f"{threads / batch * (n / lists_of(n)) / a_list:,.4f}",
                f"{at}.queries_a_second['ours, batch'] = {batch:,.0f}, on {threads} threads",
                f"recall@{search.figures['k']} {size['recall_at_10']:.3f} there, assumed to stay; in proportion to the "
                f"rows of a list, of which there are {lists_of(STUDIES[-1]):,} at most")  # fmt: skip


def _line(what: str, value: Sizes, source: str, assumption: str) -> Line:
    return Line(what, tuple(value(count) for count in STUDIES), source, assumption)


def markdown(lines: Sequence[Line]) -> str:
    """Return the table, and a second one that says where each of its lines comes from."""
    values = [(f"{line.what} [{number}]", *line.values) for number, line in enumerate(lines, 1)]
    sources = [(f"[{number}]", line.source, line.assumption) for number, line in enumerate(lines, 1)]
    headings = ("", *(f"{count:,} studies" for count in STUDIES))
    return f"{_table(headings, values)}\n\n{_table(('', 'from', 'assumed'), sources)}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ("---", *("---:" if len(headings) == len(STUDIES) + 1 else "---" for _ in headings[1:]))
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ruler, *rows))


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{_number(60 * hours)} min"
    return f"{_number(hours)} h" if hours < 48 else f"{_number(hours / 24)} days"


def _bytes(count: float) -> str:
    for unit in ("MB", "GB", "TB"):
        count /= 1e6 if unit == "MB" else 1000
        if count < 1000:
            return f"{_number(count)} {unit}"
    return f"{_number(count / 1000)} PB"
