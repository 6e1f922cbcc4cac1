"""Studies of a PACS, an index over some of them and what predicts on them, small enough to be made in seconds."""

import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from command_line import done
from pacs_world import film, lateral

from encoder.embedder import Embedder
from encoder.films.preprocess import Preprocessing
from encoder.findings.calibration import Evidence, OperatingPoints
from encoder.findings.probe import LinearProbe
from encoder.network.checkpoint import save_encoder
from encoder.network.model import DualEfficientNetEncoder
from index.table.labels import Labelling, LabelPolicy

QUERY = "1.2.826.0.1.1"
CASES = [f"1.2.826.0.1.2{number}" for number in range(6)]
FINDINGS = ("Edema", "Gr\u00f6\u00dfe", "Pneumothorax")
NAME, BORN = "CANARY\u00dcLLER^Maria", "19680817"
needs_dciodvfy = pytest.mark.skipif(
    which("dciodvfy") is None, reason="no dciodvfy; run: apt-get install --no-install-recommends dicom3tools"
)


def query_films(**elements: Any) -> list[bytes]:
    """Return both films of the study that is asked about, whose patient is known by name."""
    known = {"PatientName": NAME, "PatientBirthDate": BORN, "SpecificCharacterSet": "ISO_IR 100"} | elements
    return [film("QUERY", QUERY, **known), lateral("QUERY", QUERY, **known)]


def case_films() -> list[bytes]:
    """Return the films of the stored cases, each of a patient of its own."""
    return [film(f"CASE{number}", study) for number, study in enumerate(CASES)]


def save_world(root: Path, encoder: DualEfficientNetEncoder) -> Path:
    """Write encoder.safetensors, probe/, query/ and cases/ with their films, and index/ over the cases."""
    save_encoder(root / "encoder.safetensors", encoder, Preprocessing(size=64))
    embedder = Embedder.load(root / "encoder.safetensors", device="cpu")
    save_probe(root / "probe", embedder)
    for folder, films in (("query", query_films()), ("cases", case_films())):
        (root / folder).mkdir()
        for number, content in enumerate(films):
            (root / folder / f"{number}.dcm").write_bytes(content)
    save_index(root, "cases", "--out", root / "studies.parquet")
    return root


def save_index(root: Path, films: str, *imported: str | Path, images: Path | None = None) -> Path:
    """Write index/ over a folder of films, beside its table, which is the last word of the import."""
    table = Path(imported[-1])
    embeddings, index = table.parent / "embeddings", table.parent / "index"
    told = ["--images", images or root / films, "--encoder", root / "encoder.safetensors", "--out", embeddings]
    done("import", "dicom", root / films, *imported)
    done("export", table, *told)
    done("index", embeddings, "--out", index)
    return index


def save_probe(folder: Path, embedder: Embedder) -> None:
    """Write a probe of random weights."""
    count = len(FINDINGS)
    ones, zeros = np.ones(count, np.float32), np.zeros(count, np.float32)
    weight = np.random.default_rng(0).normal(size=(embedder.embedding_dim, count)).astype(np.float32)
    LinearProbe(
        embedder.fingerprint,
        FINDINGS,
        weight,
        zeros,
        (1.0,) * count,
        ones,
        0 * ones,
        points={"Edema": OperatingPoints(0.5, 0.3, 0.6)},
        evidence={name: Evidence(60, 300, 0.8, 0.7, 0.9) for name in FINDINGS},
        set_on={"Edema": (20, 90)},
        labels=Labelling(LabelPolicy(blank="ignore")).as_object(),
    ).save(folder)


def faults_of(file: Path) -> list[str]:
    """Return what dciodvfy calls an error in a DICOM file."""
    told = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, errors="replace")
    lines = (told.stdout + told.stderr).splitlines()
    assert any(line in ("Comprehensive3DSR", "SCImage", "KeyObjectSelectionDocument") for line in lines), lines
    return [line for line in lines if line.startswith(("Error", "Abort")) or "Error -" in line]
