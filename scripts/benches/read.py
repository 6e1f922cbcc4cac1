"""`precedent bench read`: films a second from a file to the network's square, beside the decoder alone and Pillow."""

import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pydicom
import simplejpeg

from encoder.embedder import Embedder
from encoder.films.preprocess import Preprocessing
from encoder.network.config import EncoderConfig
from encoder.network.single import build_encoder
from scripts.benches.export import pillow_film
from scripts.benches.films import KINDS, films_option, kinds_option, write_collection
from scripts.benches.measured import interleaved, json_option, machine_facts, markdown_table, medians, repeat_option
from scripts.terminal import say, say_json
from scripts.work.shard_writing import cores

OURS, DECODER, PILLOW = "Precedent", "decoder alone", "Pillow or pydicom"
_PARTS = 4
"""Parts of the films that a thread reads: to hand over each film alone takes threads as long as a small film."""
Read = Callable[[Path], object]


@click.command("read")
@kinds_option
@films_option
@repeat_option(5)
@json_option
def command(kinds: tuple[str, ...], films: int, repeat: int, json_wanted: bool) -> None:
    """Read simulated films, small JPEG, full-size JPEG and DICOM, in one thread and in a thread for each core.

    The same files are read by the decoder alone, which gives the pixels as they are stored (libjpeg-turbo, and pydicom
    for DICOM), and by Pillow or pydicom with NumPy. Of the large kinds a tenth as many films are read.

    \b
    precedent bench read --kind small --films 64
    """
    network = build_encoder(EncoderConfig(backbone="test_efficientnet", embedding_dim=256))
    embedder, before = Embedder(network, Preprocessing(), device="cpu"), cv2.getNumThreads()
    cv2.setNumThreads(1)  # threads of ours are what is measured
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = {kind: _measured(embedder, kind, films, repeat, Path(folder) / kind) for kind in kinds}
    finally:
        cv2.setNumThreads(before)
    facts = machine_facts("pillow", "opencv-python-headless", "simplejpeg", "pydicom", "numpy") | {
        "side": embedder.preprocessing.size,
        "repeat": repeat,
    }
    if json_wanted:
        say_json({"kinds": figures, **facts})
    else:
        say(*_report(figures, facts).split("\n"))


def _measured(embedder: Embedder, kind: str, films: int, repeat: int, folder: Path) -> dict[str, Any]:
    """Return the seconds and rates of each way to read the films of a kind, in one thread and in one a core."""
    folder.mkdir()
    count = max(2, films // 2 if kind == "small" else films // 20)
    table = write_collection(folder, kind, count)
    paths = [folder / name for view in ("frontal", "lateral") for name in table[f"{view}_path"].to_pylist()]
    prepare = embedder.preprocessing
    ways: dict[str, Read] = {OURS: embedder.read_film, DECODER: _stored, PILLOW: lambda p: pillow_film(p, prepare)}
    subjects = {
        f"{name}, {threads}": _all(read, paths, threads) for name, read in ways.items() for threads in _counts()
    }
    seconds, _ = interleaved(subjects, repeat, warm_up=1, description=kind)
    return {
        "films": len(paths),
        "seconds": seconds,
        "films_per_second": {name: len(paths) / middle for name, middle in medians(seconds).items()},
    }


def _counts() -> tuple[int, ...]:
    """Return the numbers of threads to read with: one, and one a core."""
    return tuple(sorted({1, cores()}))


def _all(read: Read, paths: list[Path], threads: int) -> Callable[[], None]:
    def run() -> None:
        if threads == 1:
            deque(map(read, paths), maxlen=0)
            return
        parts = [paths[first :: _PARTS * threads] for first in range(_PARTS * threads)]
        with ThreadPoolExecutor(threads) as pool:
            deque(pool.map(lambda part: deque(map(read, part), maxlen=0), parts), maxlen=0)

    return run


def _stored(path: Path) -> np.ndarray:
    """Return the pixels of a film as they are stored."""
    if path.suffix == ".dcm":
        return pydicom.dcmread(path).pixel_array
    return np.asarray(simplejpeg.decode_jpeg(path.read_bytes(), "GRAY", strict=True))


def _report(figures: dict[str, dict[str, Any]], facts: dict[str, Any]) -> str:
    single, all_ = _counts()[0], _counts()[-1]
    rows = []
    for kind, measured in figures.items():
        rate = measured["films_per_second"]
        ours, decoder = (rate[f"{name}, {single}"] for name in (OURS, DECODER))
        rows.append(
            [
                KINDS[kind].title,
                f"{ours:.0f}",
                f"{decoder:.0f}",
                f"{ours / decoder:.0%}",
                f"{rate[f'{PILLOW}, {single}']:.0f}",
                f"{ours / rate[f'{PILLOW}, {single}']:.1f}",
                f"{rate[f'{OURS}, {all_}']:.0f}",
                f"{rate[f'{OURS}, {all_}'] / ours:.2f}",
                f"{rate[f'{DECODER}, {all_}'] / decoder:.2f}",
            ]
        )
    headings = [
        "films",
        "films a second, one thread",
        DECODER,
        "share of it",
        PILLOW,
        "times that",
        "a thread a core",
        "times one thread",
        "the decoder's",
    ]
    return markdown_table(headings, rows) + (
        f"\nto {facts['side']} px; medians of {facts['repeat']}; {facts['cores']} cores ({facts['processor']}), load "
        f"average {facts['load_1_min']}; " + ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    )
