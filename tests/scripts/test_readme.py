"""What the READMEs tell people to type: every verb and option of it exists, its Python and its curl lines run."""

import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path

import click
import pytest
from folders import ROOT
from served_world import save_world, serving

from encoder.embedder import Embedder
from scripts.cli import precedent

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


@pytest.fixture
def world(tmp_path: Path, tiny_embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that one is in: a collection, its encoder, and films under the names that README gives them."""
    save_world(tmp_path, tiny_embedder, studies=16)
    shutil.copy(tmp_path / "3.png", tmp_path / "film.png")
    shutil.copy(tmp_path / "3.png", tmp_path / "film.jpg")
    film = tmp_path / "demo/phantom/train/patient00005/study1/view1_frontal.jpg"
    film.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "5.png", film)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_python_runs_as_it_stands(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"((?:^ {4}(?:from|import) .*\n)(?:^ {4}.*\n)*)", text, re.MULTILINE)

    for snippet in snippets:
        exec(compile(textwrap.dedent(snippet), "README.md", "exec"), {})

    assert len(snippets) >= 1
    assert capsys.readouterr().out.count("patient") >= 5


def test_its_curl_lines_are_answered(world: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ {4}(?:\$ )?(curl .*)$", text, re.MULTILINE)
    assert len(lines) >= 4

    with serving(world) as server:
        for line in lines:
            words = shlex.split(line.replace("http://127.0.0.1:8080", server.url), comments=True)
            asked = [*words, "-s", "-o", "answer", "-w", "%{http_code}"]
            told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout
            assert told[0] == "2", (line, (world / "answer").read_text())
