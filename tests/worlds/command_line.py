"""The `precedent` command as a user meets it: what it prints, or the one line it refuses with."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from scripts.cli import main, precedent


def done(*words: str | Path) -> Result:
    """Run a verb that has to succeed and return what it printed."""
    result = CliRunner().invoke(precedent, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def json_of(*words: str | Path) -> dict[str, Any]:
    """Run a verb and return what it prints as JSON; what it raises is raised here."""
    result = CliRunner().invoke(precedent, [*map(str, words), "--json"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def save_tiny_encoder(path: Path, *words: str) -> Path:
    """Write an untrained encoder of films of 64 pixels and return its path."""
    tiny = "encoder create --backbone test_efficientnet --dim 256 --weights none --size 64"
    done(*tiny.split(), *words, "--out", path)
    return path


def refusal(*words: str | Path) -> str:
    """Return the one line that a verb ends with; anything else than that line and exit code 1 fails the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["precedent", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
    line = stopped.value.code
    assert isinstance(line, str), f"expected a refusal, got exit code {line}"
    assert line.startswith("precedent: ")
    assert "\n" not in line
    return line


def verbs(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every verb of the command line, those of groups too."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    for one in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), one)
        assert found is not None
        yield from verbs(found, f"{name} {one}")
