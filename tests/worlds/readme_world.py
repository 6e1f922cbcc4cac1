"""What the READMEs say: their blocks of commands and output; and a folder of simulated films under the names used there."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import timm
from command_line import done
from film_files import called_chest, dicom
from folders import ROOT
from PIL import Image as Pillow
from safetensors.torch import save_file

READMES = sorted(
    str(path.relative_to(ROOT))
    for room in ("encoder", "index", "service", "scripts")
    for path in (ROOT / room).rglob("README.md")
)
READMES.insert(0, "README.md")
RECIPE = """
[encoder]
backbone = "test_efficientnet"

[preprocessing]
size = 64

[targets]
findings = ["Edema", "Pleural Effusion"]

[run]
batch_size = 8
epochs = 1
monitor = "loss"
"""
"""What `recipe.toml` holds in the world: a network that learns nothing, quickly."""


def text_of(file: str) -> str:
    """Return a README, lines that a backslash breaks joined."""
    return re.sub(r"\\\n\s*", "", (ROOT / file).read_text(encoding="utf-8"))


def blocks(file: str, heading: str = "") -> list[str]:
    """Return the indented blocks of a README, or of its section with this heading, without their indent."""
    text = text_of(file)
    if heading:
        [text] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"(?:^\n|\A)((?:^ {4}.*\n|^\n(?= {4}))+)", text, re.MULTILINE)
    return [re.sub("^ {4}", "", one, flags=re.MULTILINE).rstrip("\n") for one in found]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a shell in which `precedent` is the tree under test."""
    commands = folder / ".bin"
    commands.mkdir(exist_ok=True)
    command = commands / "precedent"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -u -m scripts.cli "$@"\n')
    command.chmod(0o755)
    paths = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def shell(block: str, folder: Path) -> str:
    """Run the lines of a block in a shell in the folder and return what they printed; one that fails fails the test."""
    told = subprocess.run(["bash", "-euc", block], cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert told.returncode == 0, (block, told.stdout, told.stderr)
    return told.stdout


def typed(block: str) -> str:
    """Run the lines of a block where one is, as `shell` does but for a process a verb, and return what they printed."""
    printed = []
    for line in block.split("\n"):
        words = shlex.split(line, comments=True)
        if words[:1] == ["precedent"]:
            printed.append(done(*words[1:]).stdout)
        else:
            subprocess.run(["bash", "-euc", line], check=True)
    return "".join(printed)


def save_films(folder: Path, patients: int = 20) -> None:
    """Write, under the names that the READMEs use, simulated films in CheXpert's layout and as DICOM, and encoders."""
    chexpert = folder / "CheXpert-v1.0-small"
    done("phantom", "--patients", patients, "--seed", 7, "--jobs", 1, "--out", chexpert)
    films = sorted(chexpert.rglob("*frontal.jpg"))
    (folder / "archive").mkdir()
    for number, film in enumerate(films):
        pixels = np.asarray(Pillow.open(film).convert("L")).astype(np.uint16)
        ids = {"PatientID": f"P{number // 2}", "StudyInstanceUID": f"1.2.{number}", "SOPInstanceUID": f"1.2.{number}.1"}
        path = folder / "archive" / f"{number}.dcm"
        path.write_bytes(dicom(pixels, ViewPosition="PA", **ids))
        path.write_bytes(called_chest(path))
    for name in ("film.dcm", "new.dcm"):
        shutil.copy(folder / "archive" / "0.dcm", folder / name)
    for name in ("film.jpg", "demo/phantom/train/patient00005/study1/view1_frontal.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(films[0], folder / name)
    _split(chexpert)
    shutil.copy(ROOT / "scripts" / "demo_encoder.safetensors", folder / "encoder.safetensors")
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / "backbone.safetensors")
    (folder / "recipe.toml").write_text(RECIPE)


def _split(chexpert: Path) -> None:
    """Part train.csv of the simulated patients into CheXpert's two files, the last patient in valid.csv."""
    with (chexpert / "train.csv").open(encoding="utf-8", newline="") as file:
        heading, *rows = csv.reader(file)
    last = max(re.findall(r"patient\d+", rows[-1][0]))
    for name, wanted in (("train.csv", False), ("valid.csv", True)):
        with (chexpert / name).open("w", encoding="utf-8", newline="") as file:
            kept = [row for row in rows if (last in row[0]) == wanted]
            csv.writer(file).writerows([heading, *([f"{chexpert.name}/{row[0]}", *row[1:]] for row in kept)])
