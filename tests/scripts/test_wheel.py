"""A wheel of this tree, installed where the tree cannot be seen: all its files are there, and its commands work."""

import os
import re
import shutil
import site
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest
from folders import ROOT

ROOMS = ("encoder", "index", "service", "scripts")
FOR_THE_TREE = {"scripts/demo", "scripts/pacs-demo", "scripts/test", "scripts/lock", "scripts/venv.sh"}
"""What works on the tree itself and is not installed, and so are the lists in scripts/locks."""
PHANTOM = "phantom --patients 4 --jobs 1 --out films"
PIPELINE = [
    "import chexpert films/train.csv --images films --out studies.parquet",
    "export studies.parquet --images films --encoder builtin --runtime torch --out embeddings",
    "index embeddings --out index",
    "verify index",
]

pytestmark = pytest.mark.slow


class Installed(NamedTuple):
    files: set[str]
    """Every file of the four rooms, from the top of the tree."""
    wheel: Path
    commands: Path
    folder: Path
    """A folder away from the tree, in which the commands are typed."""
    environment: dict[str, str]

    def typed(self, *words: str, command: str = "precedent") -> str:
        """Return what a command prints; one that fails fails the test."""
        told = subprocess.run(
            [self.commands / command, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert told.returncode == 0, (words, told.stderr)
        return told.stdout


def _left_by_use(folder: str, names: list[str]) -> set[str]:
    """Return what running the tree leaves in it: compiled modules, and the converted networks of shipped encoders."""
    shipping = {str(ROOT / "scripts"), str(ROOT / "encoder" / "network")}
    return set(names) & {"__pycache__", *(["runtime"] if folder in shipping else [])}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build the wheel from a copy of the tree and install it beside the packages that it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / "tree" / room, ignore=_left_by_use)
    files = {str(file.relative_to(folder / "tree")) for file in (folder / "tree").rglob("*") if file.is_file()}
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", folder, folder / "tree"]
    subprocess.run(build, env=environment, check=True)
    [wheel] = folder.glob("*.whl")
    shutil.rmtree(folder / "tree")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    subprocess.run([*pip, "--python", python, "install", *alone, wheel], env=environment, check=True)
    # A line that names a folder adds it after this environment's own, and reads no .pth there: the tree stays unseen.
    packages = next((folder / "venv/lib").glob("python*/site-packages"))
    (packages / "needed.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    (folder / "away").mkdir()
    return Installed(files, wheel, folder / "venv/bin", folder / "away", environment | {"OMP_NUM_THREADS": "1"})


def test_the_wheel_holds_every_file_of_the_product(installed: Installed) -> None:
    expected = {name for name in installed.files if not name.startswith("scripts/locks/")} - FOR_THE_TREE

    with ZipFile(installed.wheel) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert held == expected


def test_its_commands_work_away_from_the_tree(installed: Installed) -> None:
    where = (
        "import encoder, index, service, scripts; print(*(one.__file__ for one in (encoder, index, service, scripts)))"
    )
    files = installed.typed("-c", where, command="python").split()
    for line in (PHANTOM, *PIPELINE):
        installed.typed(*line.split())

    answer = installed.typed(*["search", "index", "--study", "patient00001/study1", "-k", "2", "--json"])

    assert all(file.startswith(str(installed.commands.parent)) for file in files)
    assert installed.typed("--version").startswith("precedent, version ")
    assert installed.typed("help", "encoder") == (ROOT / "encoder/README.md").read_text(encoding="utf-8")
    assert answer.count('"rank"') == 2
    assert _pages_of_its_service(installed) >= {"text/html", "text/css", "text/javascript"}


def _pages_of_its_service(installed: Installed) -> set[str]:
    """Return the types of what the installed service answers with: its pages, and every file that they load."""
    words = [installed.commands / "precedent", *["serve", "index", "--encoder", "builtin", "--port", "0"]]
    types = set()
    with subprocess.Popen(
        words, cwd=installed.folder, env=installed.environment, stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout is not None
            url = service.stdout.readline().split()[-1]
            for path in ("/", "/docs", "/docs/guide", "/openapi.json"):
                page = _read(url + path)[1]
                for file in re.findall(r'(?:href|src)="(/static/[^"]+)"', page):
                    types.add(_read(url + file)[0])
                types.add(_read(url + path)[0])
        finally:
            service.terminate()
    return types


def _read(url: str) -> tuple[str, str]:
    """Return the type and the text of an answer; a refusal raises."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.headers.get_content_type(), answer.read().decode("utf-8", "replace")
