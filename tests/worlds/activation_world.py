"""An encoder, two indexes of it, and a link that leads to one of them or to the other; nothing is served."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from living_world import units

from encoder.embedder import Embedder
from encoder.network.checkpoint import save_encoder
from index.built.collection import save_collection
from index.built.vector_index import VectorIndex

DIM = 256


def save_index(folder: Path, studies: pa.Table, fingerprint: str, rng: np.random.Generator) -> Path:
    folder.mkdir()
    vectors = VectorIndex.build(units(rng, len(studies), DIM))
    save_collection(folder, vectors, studies, None, fingerprint=fingerprint, image_root=None)
    return folder


def save_folders(folder: Path, embedder: Embedder, studies: pa.Table, rng: np.random.Generator) -> Path:
    """Return the folder with an encoder, indexes of 40 and 60 studies, and `main`, a link to the first."""
    save_encoder(folder / "encoder.safetensors", embedder.encoder, embedder.preprocessing)
    save_index(folder / "first", studies.slice(0, 40), embedder.fingerprint, rng)
    save_index(folder / "second", studies.slice(140, 60), embedder.fingerprint, rng)
    (folder / "main").symlink_to("first")
    return folder


def turn(link: Path, target: str) -> None:
    """Let a link lead elsewhere, at one moment."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    os.replace(fresh, link)


def until(true: Callable[[], bool]) -> None:
    """Wait until it is true."""
    ending = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ending
        time.sleep(0.02)
