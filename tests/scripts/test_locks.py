"""The lists of what is installed: every package with its version and the SHA-256 of its files, and nothing beside them."""

import ast
import re
import sys
import tomllib

import pytest
from folders import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ROOT / "scripts" / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INSTALLERS = ["scripts/venv.sh", "service/deploy/Containerfile", "service/deploy/README.md"]
_ENTRY = re.compile(r"^(\S+?)==(\S+)(?: ; [^\\]+)? \\\n((?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def pinned(name: str) -> dict[str, str]:
    """Return the versions of a list by package; the list holds entries with hashes and comments, nothing else."""
    text = (LOCKS / f"{name}.txt").read_text(encoding="utf-8")
    assert re.sub(r"^#.*\n", "", _ENTRY.sub("", text), flags=re.MULTILINE) == ""
    return {canonicalize_name(entry[1]): entry[2] for entry in _ENTRY.finditer(text)}


def asked(*extras: str) -> list[Requirement]:
    """Return what pyproject.toml asks for with those extras, and with the ones that they name."""
    words = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        words += PROJECT["project"]["optional-dependencies"][extra]
    found = [Requirement(word) for word in words]
    own = {name for one in found if one.name == PROJECT["project"]["name"] for name in one.extras}
    return [one for one in found if one.name != PROJECT["project"]["name"]] + (asked(*own) if own else [])


@pytest.mark.parametrize("extras", ["cpu", "cpu-fast", "cpu-dev"])
def test_a_list_has_all_that_the_project_asks_for_within_its_bounds(extras: str) -> None:
    versions = pinned(extras) | {"torch": pinned("torch")["torch"]}

    wrong = [
        str(one) for one in asked(*extras.split("-")) if versions.get(canonicalize_name(one.name)) not in one.specifier
    ]

    assert wrong == [], "run scripts/lock"


IN = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "sklearn": "scikit-learn",
    "svs": "scalable-vs",
    "grpc": "pymilvus",
    "markdown_it": "markdown-it-py",
    "fsspec": "s3fs",
    "flask_openapi3": "flask-openapi3",
    "pydantic_core": "pydantic",
    "ray": "ray",
}
"""What brings a module of another name: pymilvus, s3fs and pydantic are built on gRPC, fsspec and their own core."""
EXTRAS = {
    "faiss-cpu": "cpu",
    "captum": "explain",
    "openvino": "fast",
    "nncf": "fast",
    "ray": "ray",
    "pymilvus": "milvus",
    "psycopg": "postgres",
    "s3fs": "s3",
    "cryptography": "pacs",
    "highdicom": "pacs",
    "pynetdicom": "pacs",
    "requests": "pacs",
    "scalable-vs": "bench",
    "scann": "bench",
    "scikit-learn": "bench",
    "onnx": "bench",
    "onnxruntime": "bench",
}


def test_every_import_of_another_package_is_declared() -> None:
    imported = set()
    for path in (path for wing in ("encoder", "index", "service", "scripts") for path in (ROOT / wing).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"encoder", "index", "service", "scripts"}
    declared = {canonicalize_name(one.name) for one in asked()}

    assert others >= {"torch", "werkzeug", "markupsafe"}
    for name in (canonicalize_name(IN.get(name, name)) for name in others):
        extra = EXTRAS.get(name)
        assert name in ({canonicalize_name(one.name) for one in asked(extra)} if extra else declared), name


def test_the_lists_agree_on_every_version() -> None:
    everything = pinned("cpu-dev")
    for name in ("build", "cpu", "cpu-fast"):
        assert pinned(name).items() <= everything.items()
    assert set(pinned("build")) == {"setuptools"}
    assert not [name for name in everything if name.startswith(("nvidia-", "cuda-", "torch==", "triton"))]


@pytest.mark.parametrize("file", INSTALLERS)
def test_nothing_is_installed_without_its_sha256(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    clauses = [clause.strip() for clause in re.split(r"&&|\|\||;|\n", text)]
    installs = [clause for clause in clauses if re.search(r"\bpip[ _]install\b", clause)]

    assert "--extra-index-url" not in text
    own, words_of_a_function = " .", '"$@"'
    assert [
        one for one in installs if "--require-hashes" not in one and not one.endswith((own, words_of_a_function))
    ] == []
    assert len(installs) > 1
