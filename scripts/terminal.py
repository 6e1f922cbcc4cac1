"""What the verbs show: sentences, JSON and tables on stdout, progress on stderr, silent where nobody looks.

All that is printed goes through here, as text: nothing in it is markup, and what cannot be seen is shown as its escape.
"""

import json
import logging
import warnings
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from index.files import finite
from index.printable import visible
from index.training import UNTRAINED


class Terminal(Console):
    """A console that takes every string, of a sentence or of a table's cell, for the text that it is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the string as text in which all can be seen."""
        return super().render_str(visible(text), **options)


ERR = Terminal(stderr=True)


def say_if_untrained(trained: bool | None) -> None:
    """Warn, beside the answer, of an encoder that is known never to have been trained."""
    if trained is False:
        say(f"WARNING: {UNTRAINED}", err=True)


def say(*lines: str, err: bool = False) -> None:
    """Print lines, each of which stays one."""
    for line in lines:
        click.echo(visible(line), err=err)


def say_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON in ASCII; what is not finite is null."""
    click.echo(json.dumps(finite(value), indent=indent, allow_nan=False))


def show_libraries_words() -> None:
    """Have what libraries warn of, which may quote a file, shown as lines in which all can be seen."""
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
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
        console=ERR,
    )
