"""`precedent bench living`: what a change costs while a collection is searched, and how soon it opens after a kill."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, sleep
from typing import Any

import click
import numpy as np

from index.living.additions import Addition
from index.living.collection import LivingCollection
from index.table.studies import Study
from scripts.benches.drawn import Drawn
from scripts.benches.measured import interleaved, json_option, machine_facts, markdown_table, medians, repeat_option
from scripts.benches.serve import build_index
from scripts.terminal import say, say_json

Writer = Callable[[Drawn, Path, int, Connection], None]
"""What a process does to the index until it is killed; it tells each id once it is acknowledged."""
_FINGERPRINT = "f" * 64
_K = 10
_MS = 1000
_TIMED = "an add", "a delete", "a search", "a flush"
_LONGEST_WAIT = 0.5
"""Seconds from the first acknowledged add to the kill, at most."""
_PAGE = 4096
_VECTORS = 64


@click.command("living")
@click.option("--rows", type=click.IntRange(100), default=224_000, show_default=True, help="Studies in the index.")
@click.option("--dim", type=click.IntRange(8), default=512, show_default=True, help="Length of a vector.")
@click.option(
    "--changes",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Studies added, and then as many deleted.",
)
@click.option(
    "--kills", type=click.IntRange(1), default=5, show_default=True, help="Times that a process which adds is killed."
)
@repeat_option(30)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="A folder on the disk to measure; what is written there is removed afterwards.",
)
@json_option
def command(rows: int, dim: int, changes: int, kills: int, repeat: int, folder: Path | None, json_wanted: bool) -> None:
    """Time adding, deleting and searching, in an index as built and after many changes; then kill, open and compact.

    An add or a delete ends when it is on the disk and the next search sees it. Two things stand beside it: a flush of
    one page to the same disk, which no change can be quicker than, and writing the whole index anew.

    \b
    precedent bench living --rows 20000
    """
    with TemporaryDirectory(dir=folder, prefix="bench-") as name:
        drawn = Drawn(rows, dim)
        build_index(drawn, _FINGERPRINT, "auto", Path(name))
        figures = _measured(drawn, Path(name), changes, kills, repeat)
    facts = machine_facts("faiss-cpu", "numpy", "pyarrow") | {"rows": rows, "dim": dim, "repeat": repeat}
    if json_wanted:
        say_json(figures | facts)
    else:
        say(*_sentences(figures | facts).split("\n"))


def _measured(drawn: Drawn, folder: Path, changes: int, kills: int, repeat: int) -> dict[str, Any]:
    """Return the figures of one collection's life."""
    fresh = additions(drawn)
    with closing(LivingCollection(folder / "index")) as living:
        states = {"as built": _turns(living, drawn, fresh, repeat, folder)}
        living.add([next(fresh) for _ in range(changes)])
        states[f"{changes:,} added"] = _turns(living, drawn, fresh, repeat, folder)
        living.delete([_built_id(number) for number in range(min(changes, drawn.rows // 2))])
        states[f"{changes:,} deleted too"] = _turns(living, drawn, fresh, repeat, folder)
    opened = [kill_and_open(drawn, folder / "index", turn, _add) for turn in range(kills)]
    with closing(LivingCollection(folder / "index")) as living:
        start, busy = perf_counter(), process_time()
        held = living.compact()["rows"]
        compaction = {"seconds": perf_counter() - start, "processor_seconds": process_time() - busy, "rows": held}
    add = states["as built"]["an add"]
    return {
        "ms": states,
        "opened_after_kill": opened,
        "compaction": compaction,
        "adds_a_rewrite": _MS * compaction["seconds"] / add,
    }


def _turns(
    living: LivingCollection, drawn: Drawn, fresh: Iterator[Addition], repeat: int, folder: Path
) -> dict[str, float]:
    """Return the median milliseconds of a change, a search and a flush; what is added here is deleted again."""
    queries, ids = iter(drawn.queries(repeat + 1)), []
    page = os.urandom(_PAGE)

    def add() -> None:
        addition = next(fresh)
        living.add([addition])
        ids.append(addition.study.study_id)
        living.now()

    def delete() -> None:
        living.delete([ids.pop()])
        living.now()

    with (folder / "page").open("wb", buffering=0) as file:
        subjects: dict[str, Callable[[], Any]] = dict(
            zip(
                _TIMED,
                (add, delete, lambda: living.search(next(queries), _K), partial(_flush, file, page)),
                strict=True,
            )
        )
        seconds, _ = interleaved(subjects, repeat, warm_up=1, description="changes")
    return {name: _MS * middle for name, middle in medians(seconds).items()}


def _flush(file: Any, page: bytes) -> None:
    file.write(page)
    os.fsync(file.fileno())


def kill_and_open(drawn: Drawn, index: Path, seed: int, writer: Writer) -> dict[str, Any]:
    """Kill a process that adds to the index; return how soon it is open and searched, and how many adds are there.

    Raises:
        ClickException: the process died by itself, or an add that it was told of is gone.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    words = (drawn, index, seed, theirs)
    process = multiprocessing.get_context("spawn").Process(target=writer, args=words, daemon=True)
    process.start()
    theirs.close()
    acknowledged = _heard(ours, 1)
    sleep(float(np.random.default_rng(seed).uniform(0, _LONGEST_WAIT)))
    process.kill()
    process.join()
    acknowledged += _heard(ours)
    if not acknowledged:
        raise click.ClickException("expected the process that adds to run until it is killed, but it ended by itself")
    start = perf_counter()
    with closing(LivingCollection(index)) as living:
        living.search(drawn.queries(1)[0], _K)
        seconds = perf_counter() - start
        now = living.now()
        lost = [study_id for study_id in acknowledged if study_id not in now]
    if lost:
        raise click.ClickException(f"expected every acknowledged study after a kill, {len(lost)} are gone: {lost[0]!r}")
    return {"seconds": seconds, "acknowledged": len(acknowledged)}


def _heard(pipe: Connection, most: int | None = None) -> list[str]:
    """Return what a process has told, until so much or its end."""
    study_ids: list[str] = []
    while most is None or len(study_ids) < most:
        try:
            study_ids.append(pipe.recv())
        except EOFError:
            break
    return study_ids


def _add(drawn: Drawn, index: Path, seed: int, pipe: Connection) -> None:
    """Add a study after the other, and tell each id once it is acknowledged; the child of `kill_and_open`."""
    with closing(LivingCollection(index)) as living:
        for addition in additions(drawn, f"kill{seed}-"):
            living.add([addition])
            pipe.send(addition.study.study_id)


def additions(drawn: Drawn, prefix: str = "added") -> Iterator[Addition]:
    """Yield studies that no index of this bench holds, one film each."""
    vectors = drawn.queries(_VECTORS)
    for number in count():
        name = f"{prefix}{number:06d}"
        study = Study(f"{name}/study1", name, f"{name}/study1/view1_frontal.jpg", sex="Male", age=60.0, projection="PA")
        yield Addition(study, ("frontal",), vectors[number % _VECTORS])


def _built_id(number: int) -> str:
    return f"patient{number:06d}/study1"


def _sentences(figures: dict[str, Any]) -> str:
    opened = [reopened["seconds"] for reopened in figures["opened_after_kill"]]
    acknowledged, compaction = (
        sum(reopened["acknowledged"] for reopened in figures["opened_after_kill"]),
        figures["compaction"],
    )
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    rows = [[state, *(f"{ms[name]:.2f}" for name in _TIMED)] for state, ms in figures["ms"].items()]
    return markdown_table(["collection", *(f"{name} ms" for name in _TIMED)], rows) + (
        f"\n{len(opened)} kills of a process that adds: open and searched after {min(opened):.2f} to "
        f"{max(opened):.2f} s (median {median(opened):.2f}); all {acknowledged:,} acknowledged studies are there\n"
        f"compaction to {compaction['rows']:,} rows: {compaction['seconds']:.1f} s, "
        f"{compaction['processor_seconds']:.1f} s of processor time; an index written anew takes as long as "
        f"{figures['adds_a_rewrite']:,.0f} adds\n"
        f"{figures['rows']:,} x {figures['dim']}; medians of {figures['repeat']} runs; {figures['cores']} cores "
        f"({figures['processor']}), load average {figures['load_1_min']}; {versions}"
    )
