"""What every measurement shares: options, subjects that take turns, medians, a table, and the machine's own facts."""

import ctypes
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Generic, TypeVar

import click

from scripts.terminal import progress_bar
from scripts.work.machine_checks import gpus

Answer = TypeVar("Answer")
Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "json_wanted", is_flag=True, help="Print the measurements as JSON.")


def repeat_option(default: int) -> Callable[[Command], Command]:
    """Return the option `--repeat` of a measurement."""
    return click.option(
        "--repeat", type=click.IntRange(1), default=default, show_default=True, help="Times that each is run, in turns."
    )


def interleaved(
    subjects: Mapping[str, Callable[[], Answer]],
    repeat: int,
    *,
    warm_up: int = 0,
    settle: bool = False,
    description: str = "measure",
) -> tuple[dict[str, list[float]], dict[str, Answer]]:
    """Return the seconds of each run and the last answers.

    The subjects take turns, so that all see the same machine; the first `warm_up` turns of each are run and not
    counted.

    Args:
        settle: run a subject once before each run that counts, for those of milliseconds: the threads of the one
            before may spin that long.
    """
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    answers: dict[str, Answer] = {}
    with progress_bar("runs") as bar:
        for turn, name in bar.track(
            [(turn, name) for turn in range(warm_up + repeat) for name in subjects], description=description
        ):
            if settle:
                subjects[name]()
            start = perf_counter()
            answers[name] = subjects[name]()
            took = perf_counter() - start
            if turn >= warm_up:
                seconds[name].append(took)
    return seconds, answers


class Clocked(Generic[Answer]):
    """A subject that also counts the processor's time, which other work on the machine changes little."""

    def __init__(self, subject: Callable[[], Answer]) -> None:
        self._subject = subject
        self._seconds: list[float] = []

    def __call__(self) -> Answer:
        start = process_time()
        answer = self._subject()
        self._seconds.append(process_time() - start)
        return answer

    def middle(self) -> float:
        """Return the median of all runs but the first, which warms up, in seconds of all cores together."""
        return median(self._seconds[1:])


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median seconds of each subject."""
    return {name: median(runs) for name, runs in seconds.items()}


def machine_facts(*packages: str) -> dict[str, Any]:
    """Return cores, processor, load when asked, and the versions of the packages that did the work."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "processor": _processor(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in packages if _is_installed(name)},
    }


def gpu_facts(device: str) -> dict[str, str]:
    """Return what did the work, a GPU by its name and memory, the date, and a line of the GPU that is not here."""
    cards = gpus()
    name = cards[0].sentence() if cards and device.startswith("cuda") else device
    without = {} if cards else {"without": "no GPU that torch can use is here: its columns and rows are left out"}
    return {"device": name, "date": datetime.now(UTC).date().isoformat(), **without}


def resident_bytes() -> dict[str, int]:
    """Return this process's memory in bytes: `anonymous` is its own, `file` is mapped and can be dropped.

    What was freed is first given back to the system, as far as the C library can. Linux with glibc.
    """
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    kibibytes = {"anonymous": "RssAnon", "file": "RssFile"}
    return {name: 1024 * int(fields[field].split()[0]) for name, field in kibibytes.items()}


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown with aligned cells: the first column to the left, the others to the right."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(headings))]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        f"| {' | '.join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in cells)} |"
        for cells in (enumerate(zip(line, widths, strict=True)) for line in lines)
    )


def _is_installed(package: str) -> bool:
    """Return whether there is such a package: some subjects are only measured where theirs is."""
    return next(iter(distributions(name=package)), None) is not None


def _processor() -> str:
    """Return the processor's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
