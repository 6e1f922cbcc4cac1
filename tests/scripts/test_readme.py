"""What the READMEs tell people to type and to read: commands exist and run as written, output is what is printed."""

import json
import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import done
from folders import ROOT
from readme_world import READMES, blocks, environment, save_films, shell, text_of, typed
from served_world import save_world, serving

from encoder.embedder import Embedder
from encoder.network import builtin
from encoder.network.checkpoint import fingerprint_of, load_encoder
from index.search.retriever import Retriever
from scripts.cli import VERBS, precedent
from scripts.verbs.running.help import GUIDES

NUMBER = r"\d+(?:[.,]\d+)*"


def command_lines(file: str) -> list[list[str]]:
    """Return the words of every `precedent VERB ...` in a block, or whole between backticks."""
    text = text_of(file)
    lines = re.findall(r"^ {4}(?:\$ )?(precedent .*)$", text, re.MULTILINE)
    lines += [" ".join(one.split()) for one in re.findall(r"`(precedent [^`]+)`", text)]
    found = [[word for word in shlex.split(line, comments=True)[1:] if word != "..."] for line in lines]
    return [words for words in found if words and words[0] not in ("VERB", "...")]


@pytest.mark.parametrize("file", READMES)
def test_every_command_line_has_a_verb_and_options_that_exist(file: str) -> None:
    for words in command_lines(file):
        command, name = precedent, "precedent"  # type: click.Command, str
        while isinstance(command, click.Group) and words:
            name, *words = words
            named = command.get_command(click.Context(command), name)
            assert named is not None, name
            command = named
        command.make_context(name, [*words], resilient_parsing=True)


def test_every_verb_stands_in_the_readme_and_has_an_example() -> None:
    listed = re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| `.*? \|", text_of("README.md"), re.MULTILINE)))
    shown = {words[0] for file in READMES for words in command_lines(file)}

    assert sorted(set(listed)) == sorted(VERBS)
    assert shown >= set(VERBS)


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert len(text.splitlines()) <= 150
    assert len(re.findall(rf"(?<![\w.]){NUMBER}", text)) <= 30


@pytest.mark.parametrize("file", READMES)
def test_every_link_leads_to_a_file(file: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", text_of(file)):
        assert "://" in link or ((ROOT / file).parent / link).is_file(), link


@pytest.mark.parametrize("topic", GUIDES)
def test_help_prints_the_guide_of_a_topic(topic: str) -> None:
    room, name = GUIDES[topic]

    assert done("help", topic).stdout == (ROOT / room / name).read_text(encoding="utf-8")


def test_help_formats_a_guide_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    told = done("help", "service").stdout

    assert "Tokens" in told
    assert "## Tokens" not in told
    assert "|---|" not in told


def test_every_readme_has_a_topic() -> None:
    assert {f"{room}/{name}" for room, name in GUIDES.values()} == set(READMES) - {"README.md"}


@pytest.fixture
def world(tmp_path: Path, tiny_embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that one is in: a collection, its encoder, and films under the names that README gives them."""
    save_world(tmp_path, tiny_embedder, studies=16)
    shutil.copy(tmp_path / "3.png", tmp_path / "film.png")
    shutil.copy(tmp_path / "3.png", tmp_path / "film.jpg")
    film = tmp_path / "demo/phantom/train/patient00005/study1/view1_frontal.jpg"
    film.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "5.png", film)
    monkeypatch.setattr(builtin, "BUILTIN_FILE", tmp_path / "encoder.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_python_runs_as_it_stands(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [snippet] = blocks("README.md", "Python")

    exec(compile(textwrap.dedent(snippet), "README.md", "exec"), {})

    assert capsys.readouterr().out.count("patient") >= 5


def asked(line: str, url: str, folder: Path) -> Any:
    """Return the JSON that a curl line is answered with by the server at this address, None where it is empty."""
    words = shlex.split(re.sub(r"http://(localhost|127\.0\.0\.1):8080", url, line), comments=True)
    told = subprocess.run([*words, "-w", "\n%{http_code}"], cwd=folder, capture_output=True, text=True, timeout=60)
    body, status = told.stdout.rsplit("\n", 1)
    assert status[0] == "2", (line, body)
    return json.loads(body) if body else None


def named_in(value: Any) -> set[str]:
    """Return every key of a JSON value."""
    if isinstance(value, dict):
        return set(value) | {key for one in value.values() for key in named_in(one)}
    return {key for one in value for key in named_in(one)} if isinstance(value, list) else set()


def curl_lines(file: str) -> list[str]:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    return re.findall(r"^ {4}(?:\$ )?(curl .*)$", text_of(file), re.MULTILINE)


def test_its_curl_lines_are_answered(world: Path) -> None:
    [line], others = curl_lines("README.md"), curl_lines("service/README.md")
    [shown] = blocks("README.md", "HTTP")
    with serving(world) as server:
        answer = asked(line, server.url, world)
        for other in others:
            asked(other, server.url, world)

    assert set(re.findall(r'"(\w+)":', shown)) <= named_in(answer)
    assert len(others) == 6


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films and encoders under the names that the READMEs use."""
    folder = tmp_path_factory.mktemp("films")
    save_films(folder)
    return folder


@pytest.fixture
def films(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that one is in: a copy of the films and encoders, to type in what a README says."""
    folder = shutil.copytree(kept, tmp_path / "films")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_your_films_runs_as_it_stands_and_its_service_answers(films: Path) -> None:
    [block] = blocks("README.md", "Your films")
    *lines, serve = block.split("\n")
    told = shell("\n".join(lines), films)
    command = ["bash", "-c", f"exec {serve} --port 0"]
    with subprocess.Popen(command, cwd=films, env=environment(films), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            answers = [asked(line, url, films) for line in curl_lines("README.md")]
        finally:
            server.terminate()

    assert "studies that qualify" in told
    assert [len(answer["hits"]) for answer in answers] == [1]
    assert server.returncode == 0


@pytest.mark.slow
def test_the_pipelines_of_the_index_run_as_they_stand(films: Path) -> None:
    archive, *_ = blocks("index/README.md", "From an archive to an answer")
    changes, *_ = blocks("index/README.md", "Adding and deleting")
    told = typed(archive)
    shutil.copy(films / "table" / "studies.parquet", films / "new.parquet")
    deleted = re.findall(r"^ +1 +\S+ +(\S+)", told, re.MULTILINE)[0]

    after = typed(changes.replace("patient00001/study1", deleted))

    assert "0 faults" in told
    assert "0 faults" in after


@pytest.mark.slow
def test_the_pipeline_of_the_encoder_runs_as_it_stands(films: Path) -> None:
    [block, *_] = blocks("encoder/README.md", "Training")
    done("import", "chexpert", "CheXpert-v1.0-small/train.csv", "--images", ".", "--out", "studies.parquet")

    told = typed(block)

    assert "neighbours' vote" in told
    assert (films / "maps" / "explanation.json").is_file()


def test_every_block_of_output_names_its_command() -> None:
    for file in READMES:
        for block in blocks(file):
            assert ("─" not in block and "━" not in block) or block.startswith("$ precedent "), block


def like(shown: str, printed: str) -> bool:
    """Return whether two lines have the same words, and figures that differ by the noise of another processor at most."""
    if re.sub(NUMBER, "#", shown).split() != re.sub(NUMBER, "#", printed).split():
        return False
    pairs = zip(re.findall(NUMBER, shown), re.findall(NUMBER, printed), strict=True)
    return all(abs(float(a.replace(",", "")) - float(b.replace(",", ""))) <= 0.02 for a, b in pairs)


def copied(folder: Path) -> Path:
    """Return a copy of the tree in which scripts/demo finds its packages installed."""
    tree = folder / "precedent"
    for room in ("encoder", "index", "service", "scripts"):
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "scripts" / "venv.sh").write_text("")
    return tree


@pytest.mark.long
@pytest.mark.parametrize("folder", ["archive", "CheXpert-v1.0-small"])
def test_the_demo_searches_ones_own_films_with_the_encoder_in_the_box(folder: str, kept: Path, tmp_path: Path) -> None:
    tree, films = copied(tmp_path), shutil.copytree(kept / folder, tmp_path / "my films")
    fingerprint = fingerprint_of(*load_encoder(builtin.BUILTIN_FILE))

    told = [shell(f"scripts/demo --once --films '{films}'", tree) for _ in range(2)]

    [index] = tree.glob("demo/films-*/*/index")
    assert Retriever.load(index).fingerprint == fingerprint
    assert all("0 failed" in one for one in told)


@pytest.mark.long
def test_the_demo_prints_what_the_readmes_show(tmp_path: Path) -> None:
    tree = copied(tmp_path)
    printed = [line.rstrip() for line in shell("scripts/demo --once", tree).split("\n")]

    shown = [block for file in READMES for block in blocks(file) if block.startswith("$ precedent ")]
    for block in shown:
        command, *lines = block.split("\n")
        words = shlex.split(command)
        assert any(shlex.split(line.replace("\n", " ")) == words for line in _demo_commands()), command
        for line in filter(None, lines):
            assert any(like(line, one) for one in printed), (line, command)
    assert len(shown) >= 3


def _demo_commands() -> list[str]:
    """Return the commands of scripts/demo, each as README writes it."""
    script = re.sub(r"\\\n\s*", "", (ROOT / "scripts" / "demo").read_text(encoding="utf-8"))
    return [f"$ {line}" for line in re.findall(r"^run (precedent .*)$", script, re.MULTILINE)]
