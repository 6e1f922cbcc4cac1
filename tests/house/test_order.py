"""Rules that no single folder can check: who imports whom, what files are called, and that nothing is unpickled."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from folders import ROOT

from scripts.cli import SECTIONS

ALLOWED = {"encoder", "index", "service", "scripts", "tests", "pyproject.toml", "README.md", "LICENSE"}
FORBIDDEN = {
    "encoder": {"index", "service", "scripts", "faiss", "flask", "pandas", "pyarrow"},
    "index": {"encoder", "service", "scripts", "torch", "timm", "flask"},
    "service": {"scripts", "torch", "timm", "faiss"},
}
WINGS = ("encoder", "index", "service", "scripts")
ORDER = {
    "encoder": ["maps training", "findings", "embedder", "runtime", "network", "films", "files", "errors"],
    "index": [
        *(
            "opening",
            "milvus postgres",
            "engines",
            "living judging",
            "search",
            "built",
            "importing",
            "export",
            "table",
            "storage",
        ),
        *("vectors", "errors printable"),
    ],
    "service": [
        *("loader", "app", "routes", "state", "audit", "served", "guard", "api", "watch"),
        *("prefix viewer gunicorn", "limits errors", "context paths process"),
    ],
    "scripts": ["cli", "verbs", "benches", "pacs", "work", "reports", "options", "terminal chest_phantom"],
}
"""The parts of a wing, folders and modules, from the top: each imports what stands below it. Parts of a line are apart."""
MOST_FILES = 24
TELLING_FOLDERS = {
    **{f"scripts/verbs/{folder}": "a file is called as its verb is typed" for folder in SECTIONS},
    "scripts/benches": "a file is called as its subject is typed",
    "scripts/reports": "a file is called as what it reports",
    "service/routes": "a file is called as the path that it answers",
    "index/engines": "a file is called as the one whose part it plays over any server",
    "index/milvus": "a file is called as the one whose part it plays over a server",
    "index/postgres": "a file is called as the one whose part it plays over a server",
}
"""Folders whose files need the names that they have, which other folders may have too."""
TWICE = {
    "errors.py": "each wing has the errors that it raises",
    "files.py": "the encoder's safetensors, and the index's files of any kind",
    "embedder.py": "the encoder's, and the one that the service loads",
    "dicom.py": "one is read into a film, a folder of them is imported as studies",
    "collection.py": "built, living, and the simulated one on disk",
    "labels.py": "those of a table, and how the simulation draws them",
    "metrics.py": "of retrieval, and of the service for Prometheus",
    "places.py": "where files lie, and how such a place is typed",
    "requests.py": "what a request must say, and how requests are measured",
}
TESTS_OF_ALL_WINGS = {"faults", "house", "page", "privacy", "worlds"}
TENSORS_ALONE = "torch_vectors.py"
"""Reads vectors of torch.save, and has torch refuse everything in them that is no tensor, text, number or list."""
UNPICKLES = re.compile(r"\b(import pickle|from pickle|torch\.load\(|joblib\.load|allow_pickle=True|read_pickle)")


@cache
def modules() -> dict[str, Path]:
    """Return every module of the product by its dotted name."""
    paths = [path for wing in WINGS for path in sources(wing)]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def imported_modules(module: str) -> frozenset[str]:
    """Return the modules of the product that one imports, inside its functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else node.module for name in full}
    return frozenset(found & modules().keys())


def part_of(module: str) -> str:
    """Return the folder or module of a wing that a module belongs to: `index.built.map` to `built`."""
    return module.split(".")[1]


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


@pytest.mark.parametrize("wing", ORDER)
def test_the_order_of_a_wing_names_all_its_parts(wing: str) -> None:
    parts = {part_of(module) for module in modules() if module.startswith(f"{wing}.")}
    assert parts == set(" ".join(ORDER[wing]).split())


@pytest.mark.parametrize("wing", ORDER)
def test_a_part_imports_only_parts_below_it(wing: str) -> None:
    level = {part: height for height, line in enumerate(ORDER[wing]) for part in line.split()}
    upward = [
        f"{modules()[module].relative_to(ROOT)} imports {modules()[other].relative_to(ROOT)}"
        for module in modules()
        for other in imported_modules(module)
        if module.startswith(f"{wing}.") and other.startswith(f"{wing}.") and part_of(module) != part_of(other)
        if level[part_of(other)] <= level[part_of(module)]
    ]
    assert upward == []


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({module: imported_modules(module) for module in modules()}).prepare()
    except CycleError as circle:
        pytest.fail(" is imported by ".join(str(modules()[module].relative_to(ROOT)) for module in circle.args[1]))


def test_every_folder_says_what_it_is_for() -> None:
    folders = {path.parent / "__init__.py" for path in modules().values()}
    silent = [path for path in folders if not path.exists() or not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_no_folder_holds_more_files_than_a_reader_takes_in() -> None:
    held = defaultdict(list)
    for path in modules().values():
        held[path.parent.relative_to(ROOT).as_posix()].append(path.name)
    assert {folder: len(names) for folder, names in held.items() if len(names) > MOST_FILES} == {}


def test_a_file_name_that_stands_twice_has_a_reason() -> None:
    found = defaultdict(list)
    for path in modules().values():
        if path.name != "__init__.py" and path.parent.relative_to(ROOT).as_posix() not in TELLING_FOLDERS:
            found[path.name].append(path.relative_to(ROOT).as_posix())
    assert {name: paths for name, paths in found.items() if len(paths) > 1 and name not in TWICE} == {}


def test_tests_lie_where_what_they_test_lies() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    strays = [folder for folder in folders if not (ROOT / folder).is_dir() or folder == Path()]
    assert {str(folder) for folder in strays} <= TESTS_OF_ALL_WINGS


def test_faiss_is_imported_by_the_index_its_table_of_kinds_and_what_is_on_a_gpu_alone() -> None:
    users = [path.name for room in WINGS for path in sources(room) if "faiss" in imported(path)]
    assert sorted(users) == ["gpu.py", "kinds.py", "vector_index.py"]


def test_nothing_is_unpickled() -> None:
    found = [path for room in WINGS for path in sources(room) if UNPICKLES.search(path.read_text())]
    assert [path.name for path in found] == [TENSORS_ALONE]


def test_a_file_of_torch_is_read_without_unpickling_what_is_no_tensor() -> None:
    text = (ROOT / "scripts" / "work" / TENSORS_ALONE).read_text()
    assert re.findall(r"torch\.load\(.*\)", text) == [
        'torch.load(file, map_location="cpu", weights_only=True, mmap=True)'
    ]


def test_the_top_level_holds_the_agreed_names_and_dotfiles() -> None:
    tracked = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    unasked = tracked - ALLOWED - {"demo", "runs", "build", "dist"}
    assert {name for name in unasked if not name.endswith(".egg-info")} == set()
