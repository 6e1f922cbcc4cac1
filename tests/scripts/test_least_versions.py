"""The lower bounds of pyproject.toml are true: every module and the pipeline run on the least versions that it allows."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from folders import ROOT

IMPORT_ALL = """
import importlib, pkgutil
for wing in ("encoder", "index", "service", "scripts"):
    for module in pkgutil.walk_packages([wing], f"{wing}."):
        importlib.import_module(module.name)
"""
PIPELINE = [
    "phantom --patients 24 --seed 7 --out films",
    "import chexpert films/train.csv --images films --out studies.parquet",
    "encoder create --backbone test_efficientnet --dim 256 --size 64 --weights none --out encoder.safetensors",
    "export studies.parquet --images films --encoder encoder.safetensors --runtime torch --out embeddings",
    "index embeddings --out index",
    "search index --study patient00003/study1 -k 3",
    "probe embeddings --out probe",
    # what extras bring: OpenVINO, Ray, Milvus Lite, captum, TensorBoard
    "export studies.parquet --images films --encoder encoder.safetensors --runtime openvino-fp32 --out converted",
    "export studies.parquet --images films --encoder encoder.safetensors --runtime torch --engine ray --out by_ray",
    "index embeddings --backend milvus --uri file://{folder}/cases.db/cases",
    "search milvus+file://{folder}/cases.db/cases --study patient00003/study1 -k 3",
    "explain index --study patient00003/study1 --hit patient00004/study1 --images films --encoder encoder.safetensors "
    "--method integrated_gradients --out maps",
    "train studies.parquet --images films --recipe resnet50_binary --set encoder.backbone=test_efficientnet "
    "--set preprocessing.size=64 --set run.epochs=1 --set run.batch_size=8 --weights none --out run",
]
EXTRAS = ("cpu", "explain", "fast", "gunicorn", "milvus", "pacs", "ray", "s3", "train", "bench")


@pytest.fixture(scope="module")
def least_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment with the least versions of the product and its extras but `gpu`, `dev`.

    torch is the CPU build of scripts/locks/torch.txt, so torch's own bound is not shown. The packages that those of pyproject.toml ask for are the newest that fit.
    """
    folder = tmp_path_factory.mktemp("least") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    uv = subprocess.run([*pip, "uv"], capture_output=True, text=True)
    if uv.returncode != 0:
        pytest.skip(f"no package index answers: {uv.stderr.strip()[-200:]}")
    torch = [*pip, "--no-deps", "--require-hashes", "-r", ROOT / "scripts" / "locks" / "torch.txt"]
    if subprocess.run(torch, capture_output=True).returncode != 0:  # as scripts/venv.sh does
        subprocess.run([*torch, "--index-url", "https://download.pytorch.org/whl/cpu"], check=True)
    least = ["--resolution", "lowest-direct", "-r", ROOT / "pyproject.toml"]
    least += [word for extra in EXTRAS for word in ("--extra", extra)]
    install = [folder / "bin" / "uv", "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, *least], check=True)
    source = folder.with_name("source")  # to build in: Ray asks an installed project for its version
    for name in ("encoder", "index", "service", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*install, "--no-deps", source], check=True)
    return python


def run(python: Path, cwd: Path, *words: str) -> None:
    """Run that Python on this tree; it has to end with 0 within 5 minutes and to ask for nothing from a network."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, *words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (words, done.stdout)
    assert "urlopen error" not in done.stdout, done.stdout


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the CPU builds of torch.txt are for Linux")
def test_the_least_versions_import_and_run_the_pipeline(least_python: Path, tmp_path: Path) -> None:
    run(least_python, ROOT, "-c", IMPORT_ALL)

    for line in PIPELINE:
        run(least_python, tmp_path, "-m", "scripts.cli", *line.format(folder=tmp_path).split())
