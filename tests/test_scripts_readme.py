"""What the READMEs tell people to type: every verb and option of it exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from scripts.cli import precedent

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "service/deploy/README.md"]


def command_lines(file: str) -> list[list[str]]:
    """Return the words of every `precedent VERB ...` in a block, or whole between backticks."""
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ {4}(?:\$ )?(precedent .*)$", text, re.MULTILINE)
    lines += [" ".join(one.split()) for one in re.findall(r"`(precedent [^`]+)`", text)]
    return [[word for word in shlex.split(line, comments=True)[1:] if word != "..."] for line in lines]


@pytest.mark.parametrize("file", READMES)
def test_every_command_line_has_a_verb_and_options_that_exist(file: str) -> None:
    found = command_lines(file)
    assert len(found) >= 2
    for words in found:
        command: click.Command = precedent
        while isinstance(command, click.Group) and words and words[0] != "VERB":
            named = command.get_command(click.Context(command), words[0])
            assert named is not None, words
            command, words = named, words[1:]
        for word in words:
            known = [one for option in command.params for one in (*option.opts, *option.secondary_opts)]
            assert not word.startswith("--") or word.partition("=")[0] in [*known, "--help"], (command.name, word)
