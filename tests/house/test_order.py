"""Rules of the house that no single room can check: who imports whom, and that nothing is unpickled."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import ROOT

ALLOWED = {"encoder", "index", "service", "scripts", "tests", "pyproject.toml", "README.md", "LICENSE"}
FORBIDDEN = {
    "encoder": {"index", "service", "scripts", "faiss", "flask", "pandas", "pyarrow"},
    "index": {"encoder", "service", "scripts", "torch", "timm", "flask"},
    "service": {"scripts", "torch", "timm", "faiss"},
}
UNPICKLES = re.compile(r"\b(import pickle|from pickle|torch\.load\(|joblib\.load|allow_pickle=True|read_pickle)")


def sources(room: str) -> Iterator[Path]:
    yield from sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_wing_knows_only_what_it_may(room: str) -> None:
    broken = {path.name: imported(path) & FORBIDDEN[room] for path in sources(room)}
    assert {name: found for name, found in broken.items() if found} == {}


def test_faiss_is_imported_by_the_index_and_its_table_of_kinds_alone() -> None:
    rooms = ("encoder", "index", "service", "scripts")
    users = [path.name for room in rooms for path in sources(room) if "faiss" in imported(path)]
    assert users == ["kinds.py", "vector_index.py"]


def test_nothing_is_unpickled() -> None:
    rooms = ("encoder", "index", "service", "scripts")
    assert [path for room in rooms for path in sources(room) if UNPICKLES.search(path.read_text())] == []


def test_the_top_level_holds_the_agreed_names_and_dotfiles() -> None:
    tracked = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    unasked = tracked - ALLOWED - {"demo", "runs", "build", "dist"}
    assert {name for name in unasked if not name.endswith(".egg-info")} == set()
