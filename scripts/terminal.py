"""What the verbs show: sentences, JSON and tables on stdout, progress on stderr, silent where nobody looks.

All that is printed goes through here, as text: nothing in it is markup, and what cannot be seen is shown as its escape.
"""

import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO, TypeVar

import click
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from index.printable import visible
from index.storage.files import finite

T = TypeVar("T")
FAILED_EXIT_CODE = 3
"""Of a verb that could not read some studies, or answer some queries, and has done all others."""
_WIDEST = 1_000_000
"""Columns that a table may take."""
_PLAIN = str.maketrans({"\u2013": "-", "\u2026": "...", "\u00b1": "+-", "\u03c3": "sigma"})
"""What the tables hold beyond ASCII, for terminals that lack it."""
_SILENCE = 1.0
"""Seconds before a verb that has said nothing yet is seen to be at work."""


class Terminal(Console):
    """A console that prints every string literally, in sentences and in cells of tables."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the string as text of visible characters."""
        return super().render_str(written(visible(text), self.encoding), **options)


def written(text: str, encoding: str | None) -> str:
    r"""Return a text as an encoding can write it: what it lacks is written plainer, or as Python escapes it, \u6f22."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")
    except LookupError:
        return text.translate(_PLAIN).encode("ascii", "backslashreplace").decode("ascii")
    return text


class _Waiting:
    """One line on stderr that shows a verb to be at work, until it says something; none where nobody looks."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._since = 0.0
        self._what = ""

    def start(self, what: str) -> None:
        """Begin to wait."""
        if ERR.is_terminal and not ERR.is_dumb_terminal and self._live is None:
            self._since, self._what = time.monotonic(), what
            self._live = Live(
                self, console=ERR, transient=True, refresh_per_second=5, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()

    def stop(self) -> None:
        """Take the line away, where there is one."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def __rich__(self) -> Text:
        waited = time.monotonic() - self._since
        turned = "|/-\\"[int(5 * waited) % 4]
        return Text("" if waited < _SILENCE else f"{turned} {self._what} ({waited:.0f} s)")


ERR = Terminal(stderr=True)
_WAITING = _Waiting()
_ANSWERS: ContextVar[TextIO | None] = ContextVar("answers", default=None)
"""Where JSON is printed; None is stdout."""


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Show, until something is printed, that a verb is at work."""
    _WAITING.start(what)
    try:
        yield
    finally:
        _WAITING.stop()


def say_warning(warning: str | None, *, err: bool = False) -> None:
    """Print why neighbours are not to be relied on, where there is a reason."""
    if warning is not None:
        say(f"WARNING: {warning}", err=err)


def say(*lines: str, err: bool = False) -> None:
    """Print lines, each of which stays one, whatever the width of the terminal."""
    _WAITING.stop()
    stream = sys.stderr if err else sys.stdout
    for line in lines:
        click.echo(written(visible(line), stream.encoding), err=err)


def say_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON in ASCII; what is not finite is null."""
    _WAITING.stop()
    click.echo(json.dumps(finite(value), indent=indent, allow_nan=False), file=_ANSWERS.get())


def show(*tables: Table) -> None:
    """Print tables of one width, that of the widest cell: no cell is cut, wrapped or left out.

    A narrower terminal wraps the lines itself; in a pipe a row is a line.
    """
    _WAITING.stop()
    wide = Terminal(width=_WIDEST)
    console = Terminal(width=max(wide.measure(table).maximum for table in tables))
    console.print(*tables)


@contextmanager
def refused_for(*errors: type[Exception]) -> Iterator[None]:
    """Have an error of these classes end the verb with its sentence."""
    try:
        yield
    except errors as refusal:
        raise click.ClickException(str(refusal)) from None


def say_refusal(sentence: str) -> None:
    """Print why a verb was refused as JSON, {"error": {"message": ...}}, where it was asked for JSON."""
    if _json_is_asked_for():
        say_json({"error": {"message": visible(sentence)}})


def _json_is_asked_for() -> bool:
    words = sys.argv[1:]
    return "--json" in words[: words.index("--") if "--" in words else None]


@contextmanager
def json_alone() -> Iterator[None]:
    """Have stdout hold what `say_json` prints and nothing else, where JSON was asked for.

    What a library or a process that it starts prints there, such as nncf its progress, goes to stderr.
    """
    if not _json_is_asked_for() or sys.stdout is None or sys.stderr is None:
        yield
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="ascii") as answers, redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        before = _ANSWERS.set(answers)
        try:
            yield
        finally:
            _ANSWERS.reset(before)
            os.dup2(answers.fileno(), 1)


def take_any_terminal() -> None:
    """Have characters that the encoding of stdout lacks written as escapes, so that no verb fails in printing them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def show_libraries_words() -> None:
    """Have warnings of libraries, which may quote a file, shown as lines of visible characters."""
    warnings.formatwarning = _warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Lines())


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(f"{record.levelname.lower()}: {record.name}: {record.getMessage()}")


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return visible(f"{category.__name__}: {message} ({filename}:{lineno})") + "\n"


class RateColumn(ProgressColumn):
    """Steps a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the current rate, or nothing before it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self._unit}/s")


def progress_bar(unit: str) -> Progress:
    """Return a progress bar with count, rate and time left."""
    _WAITING.stop()
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
        console=ERR,
        redirect_stdout=False,
    )


def counted(things: Sequence[T], what: str, unit: str) -> Iterable[T]:
    """Yield things, and show how many were taken."""
    with progress_bar(unit) as bar:
        yield from bar.track(things, description=what)
