"""The `precedent` command as a user meets it: what it prints, or the one line it refuses with."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scripts.cli import main, precedent


def done(*words: str | Path) -> Result:
    """Run a verb that has to succeed and return what it printed."""
    result = CliRunner().invoke(precedent, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


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
