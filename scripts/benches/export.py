"""`precedent bench export`: from files of films to finished Parquet, beside timm in PyTorch and each stage alone."""

import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import torch
from PIL import Image as Pillow
from torch.utils.data import DataLoader, Dataset

from encoder.embedder import Embedder
from encoder.films.preprocess import Preprocessing
from encoder.films.study import StudyFilms
from encoder.network.checkpoint import save_encoder
from encoder.network.config import EncoderConfig
from encoder.network.model import DualEfficientNetEncoder, StudyEncoder
from encoder.runtime.runtimes import RUNTIMES
from index.export.shards import ExportPlan, ShardFolder
from scripts.benches.films import KINDS, films_option, kinds_option, write_collection
from scripts.benches.measured import (
    Clocked,
    interleaved,
    json_option,
    machine_facts,
    markdown_table,
    medians,
    repeat_option,
)
from scripts.options.encoder_file import EncoderFile
from scripts.terminal import say, say_json
from scripts.work.local_export import export
from scripts.work.shard_writing import IN_FLIGHT, FilmReader, cores, one_torch_thread, threads_for

CHEXPERT_FILMS = 223_414
READING_ALONE, ENCODING_ALONE = "reading alone", "encoding alone"
_IN_MEMORY = 64
_TIMM_STUDIES = 16
"""Studies of large films that timm exports, which takes seconds: its workers' start is little of that."""
Vectors = npt.NDArray[np.float32]


@click.command("export")
@kinds_option
@films_option
@click.option(
    "--encoder", type=EncoderFile(), help="Encoder file, or: builtin (default: two EfficientNet-B0 of random weights)."
)
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="auto",
    show_default=True,
    help="Runtime of the encoder; auto takes the fastest that is installed.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Studies a batch.")
@repeat_option(5)
@json_option
def command(
    kinds: tuple[str, ...],
    films: int,
    encoder: Path | None,
    runtime: str,
    device: str,
    batch: int,
    repeat: int,
    json_wanted: bool,
) -> None:
    """Export simulated films: small JPEG, full-size JPEG and DICOM.

    The same films are then exported by timm in PyTorch with Pillow or pydicom and a DataLoader; and each stage of
    Precedent's export runs alone: reading all films, and encoding as many from memory. No export can be faster than the
    slower of the two, nor on a CPU than both together allow, which share its cores.

    \b
    precedent bench export --kind small --films 64
    """
    with tempfile.TemporaryDirectory() as folder:
        embedder = embedder_of(encoder, device, runtime, Path(folder))
        with one_torch_thread(embedder):
            figures = {kind: _measured(embedder, kind, films, batch, repeat, Path(folder) / kind) for kind in kinds}
    facts = machine_facts("torch", "timm", "pillow", "opencv-python-headless", "pyarrow", "pydicom") | {
        "runtime": embedder.runtime.name,
        "note": embedder.runtime.note,
        "device": str(embedder.device),
        "backbone": embedder.encoder.config.backbone,
        "side": embedder.preprocessing.size,
        "repeat": repeat,
    }
    if json_wanted:
        say_json({"kinds": figures, **facts})
    else:
        say(*_report(figures, facts).split("\n"))


def embedder_of(path: Path | None, device: str, runtime: str, cache: Path) -> Embedder:
    """Return the embedder of a file, or of random weights: how fast it is does not depend on them."""
    if path is None:
        torch.manual_seed(0)
        path = cache / "encoder.safetensors"
        save_encoder(path, DualEfficientNetEncoder(EncoderConfig()), Preprocessing())
    return Embedder.load(path, device=device, runtime=runtime)


def _measured(embedder: Embedder, kind: str, films: int, batch: int, repeat: int, folder: Path) -> dict[str, Any]:
    """Return seconds and rates of the whole export, of its two stages alone and of timm, over one collection."""
    folder.mkdir()
    count = films // 2
    table = write_collection(folder, kind, count)
    few = table if kind == "small" else table.slice(0, _TIMM_STUDIES)
    outputs = (folder / f"out{number}" for number in range(10_000))
    reading = Clocked(_reading_alone(embedder, table, folder, batch))
    encoding = Clocked(_encoding_alone(embedder, count, batch))
    subjects: dict[str, Callable[[], object]] = {
        "Precedent": lambda: _ours(embedder, table, folder, next(outputs), batch),
        "timm in PyTorch": lambda: timm_export(embedder, few, folder, next(outputs), batch),
        READING_ALONE: reading,
        ENCODING_ALONE: encoding,
    }
    seconds, _ = interleaved(subjects, repeat, warm_up=1, description=kind)
    exported = dict.fromkeys(subjects, 2 * count) | {"timm in PyTorch": 2 * few.num_rows}
    rates = {name: exported[name] / middle for name, middle in medians(seconds).items()}
    ours, limit = rates["Precedent"], min((READING_ALONE, ENCODING_ALONE), key=rates.__getitem__)
    # Both stages on the same cores: the sum of what each takes of them.
    allowed = 2 * count / max((reading.middle() + encoding.middle()) / cores(), 2 * count / rates[limit])
    return {
        "films": 2 * count,
        "seconds": seconds,
        "films_per_second": rates,
        "limit": limit,
        "share_of_limit": ours / rates[limit],
        "cores_allow": allowed,
        "share_of_cores": ours / allowed,
        "times_timm": ours / rates["timm in PyTorch"],
        "chexpert_hours": CHEXPERT_FILMS / ours / 3600,
    }


def _reading_alone(embedder: Embedder, table: pa.Table, folder: Path, batch: int) -> Callable[[], None]:
    """Return what reads all films as an export does, and encodes none."""
    reader = FilmReader(embedder, table, folder, "both")

    def run() -> None:
        with ThreadPoolExecutor(threads_for(None)) as pool:
            deque(reader.ahead(pool, range(table.num_rows), 4 * batch), maxlen=0)

    return run


def _encoding_alone(embedder: Embedder, studies: int, batch: int) -> Callable[[], None]:
    """Return what encodes as many films as an export does, all of which lie in memory."""
    side = embedder.preprocessing.size
    films = np.random.default_rng(0).integers(0, 256, (batch, 2, side, side), np.uint8)
    group = [StudyFilms(frontal, lateral) for frontal, lateral in films]
    sizes = [min(batch, studies - start) for start in range(0, studies, batch)]

    def run() -> None:
        with ThreadPoolExecutor(IN_FLIGHT) as lanes:
            deque(lanes.map(lambda size: embedder.embed(group[:size]), sizes), maxlen=0)

    return run


def _ours(embedder: Embedder, table: pa.Table, folder: Path, out: Path, batch: int) -> None:
    plan = ExportPlan(embedder.fingerprint, embedder.embedding_dim, "0" * 64, table.num_rows, 2048, "both")
    shards = ShardFolder(out, plan)
    reader = FilmReader(embedder, table, folder, "both")
    export(embedder, table, reader, shards, batch=batch, threads=threads_for(None))
    shards.finish(image_root=str(folder))


class _TimmFilms(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What users write: Pillow or pydicom, one resize, a crop, the mean and the standard deviation."""

    def __init__(self, table: pa.Table, folder: Path, preprocessing: Preprocessing) -> None:
        self._paths = [table[f"{view}_path"].to_pylist() for view in ("frontal", "lateral")]
        self._folder, self._preprocessing = folder, preprocessing

    def __len__(self) -> int:
        return len(self._paths[0])

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        frontal, lateral = (pillow_film(self._folder / paths[row], self._preprocessing) for paths in self._paths)
        return frontal, lateral


def pillow_film(path: Path, preprocessing: Preprocessing) -> torch.Tensor:
    """Return a film (C, S, S) as most programs read it."""
    size = preprocessing.size
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    picture = _read_dicom(path) if path.suffix == ".dcm" else Pillow.open(path)
    scale = size / min(picture.size)
    shape = [max(size, round(side * scale)) for side in picture.size]
    small = picture.convert("RGB").resize((shape[0], shape[1]), Pillow.Resampling.BILINEAR)
    left, top = ((side - size) // 2 for side in small.size)
    pixels = np.array(small.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    return (torch.from_numpy(pixels).permute(2, 0, 1)[: len(mean)] - mean) / std


def _read_dicom(path: Path) -> Pillow.Image:
    pixels = pydicom.dcmread(path).pixel_array.astype(np.float32)
    return Pillow.fromarray(((pixels - pixels.min()) / np.ptp(pixels) * 255).astype(np.uint8))


def timm_export(embedder: Embedder, table: pa.Table, folder: Path, out: Path, batch: int) -> Vectors:
    """Write the embeddings (N, D) as a user of timm would: eager fp32, a worker a core, one Parquet file; return them.

    Eager torch has its threads back meanwhile, one a core.
    """
    loader = DataLoader(_TimmFilms(table, folder, embedder.preprocessing), batch_size=batch, num_workers=cores())
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        with torch.inference_mode():
            parts = [embedder.encoder(*(view.to(embedder.device) for view in views)).cpu() for views in loader]
    finally:
        torch.set_num_threads(before)
    vectors: Vectors = torch.cat(parts).numpy()
    pq.write_table(table.append_column("embedding", pa.array(list(vectors))), out.with_suffix(".parquet"))
    return vectors


def encoder_alone(embedder: Embedder, runner: StudyEncoder, studies: int) -> Callable[[], None]:
    """Return what runs the backbones alone over as many films, which lie in memory: no export can be faster."""
    side, channels = embedder.preprocessing.size, embedder.preprocessing.channels
    values = np.random.default_rng(0).normal(size=(2 * _IN_MEMORY, channels, side, side)).astype(np.float32)
    films = torch.from_numpy(values).to(embedder.device)

    @torch.inference_mode()
    def run() -> None:
        for start in range(0, studies, _IN_MEMORY):
            count = min(_IN_MEMORY, studies - start)
            rows = torch.arange(2 * count, device=embedder.device)
            runner.pool_rows(films[: 2 * count], rows[:count], rows[count:])[0].cpu()

    return run


def _report(figures: dict[str, dict[str, Any]], facts: dict[str, Any]) -> str:
    rows = [
        [
            KINDS[kind].title,
            *(f"{figure['films_per_second'][name]:.1f}" for name in ("Precedent", "timm in PyTorch")),
            f"{figure['times_timm']:.1f}",
            *(f"{figure['films_per_second'][name]:.1f}" for name in (READING_ALONE, ENCODING_ALONE)),
            f"{figure['share_of_limit']:.0%} of {figure['limit']}",
            f"{figure['cores_allow']:.1f} ({figure['cores_allow'] / figure['films_per_second'][figure['limit']]:.0%})",
            f"{figure['share_of_cores']:.0%}",
            f"{figure['chexpert_hours']:.2f} h",
            f"{figure['chexpert_hours'] * facts['cores']:.2f} h",
        ]
        for kind, figure in figures.items()
    ]
    headings = [
        "films",
        "films a second",
        "timm in PyTorch",
        "times that",
        READING_ALONE,
        ENCODING_ALONE,
        "share of the slower",
        "both on these cores (share of the slower)",
        "share of that",
        f"{CHEXPERT_FILMS:,} films",
        "core-hours",
    ]
    return markdown_table(headings, rows) + (
        f"\n{facts['backbone']} at {facts['side']} px, {facts['runtime']} on {facts['device']}; timm in PyTorch eager "
        f"fp32; medians of {facts['repeat']}; {CHEXPERT_FILMS:,} films are all of CheXpert; {facts['cores']} cores "
        f"({facts['processor']}), load average {facts['load_1_min']}; "
        + ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    )
