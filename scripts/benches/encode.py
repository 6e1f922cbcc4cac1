"""`precedent bench encode`: studies a second, and the time of one study, in every runtime that is installed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.study import StudyFilms
from encoder.runtime.runtimes import RUNTIMES
from index.table.studies import load_studies
from scripts.benches.export import embedder_of, encoder_alone
from scripts.benches.measured import (
    Clocked,
    gpu_facts,
    interleaved,
    json_option,
    machine_facts,
    markdown_table,
    medians,
    repeat_option,
)
from scripts.benches.rivals import Vectors, rivals_of
from scripts.options.encoder_file import EncoderFile
from scripts.terminal import say, say_json

EAGER = "PyTorch eager fp32"
ALONE = "backbones alone, without reading and fitting films"
TOP = 10
Way = Callable[[list[StudyFilms]], Vectors]


@click.command("encode")
@click.option(
    "--encoder", type=EncoderFile(), help="Encoder file, or: builtin (default: two EfficientNet-B0 of random weights)."
)
@click.option(
    "--studies", type=click.Path(path_type=Path), help="Table of studies to encode (default: films of noise)."
)
@click.option("--images", type=click.Path(path_type=Path, file_okay=False), help="Image root of the studies.")
@click.option("--count", type=click.IntRange(1), default=32, show_default=True, help="Studies to encode.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Studies a batch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    help="Measure torch.compile too, which takes minutes to compile.",
)
@repeat_option(5)
@json_option
def command(
    encoder: Path | None,
    studies: Path | None,
    images: Path | None,
    count: int,
    batch: int,
    device: str,
    compiled: bool,
    repeat: int,
    json_wanted: bool,
) -> None:
    """Encode studies in PyTorch, torch.compile, ONNX Runtime and OpenVINO, and compare speed and vectors.

    The first row, PyTorch in 32-bit floats without compilation, is what the others are compared with.

    \b
    precedent bench encode --no-compile
    """
    with tempfile.TemporaryDirectory() as folder:
        eager = embedder_of(encoder, device, "torch", Path(folder))
        encoder = encoder or Path(folder) / "encoder.safetensors"
        films = _noise(eager, count) if studies is None or images is None else _read(eager, studies, images, count)
        ways, absent = rivals_of(eager, compiled=compiled, batch=batch, folder=Path(folder))
        limit = _add_own(ways, absent, encoder, eager, len(films), compiled=compiled)
        figures = _measured(ways, limit, films, batch, repeat)
    facts = machine_facts("torch", "timm", "onnxruntime", "openvino") | {
        **gpu_facts(str(eager.device)),
        "backbone": eager.encoder.config.backbone,
        "side": eager.preprocessing.size,
        "shared": len(eager.encoder.backbones) == 1,
        "studies": len(films),
        "batch": batch,
        "repeat": repeat,
        "torch_threads": torch.get_num_threads(),
        "absent": absent,
    }
    if json_wanted:
        say_json({"ways": figures, **facts})
    else:
        say(*_report(figures, facts).split("\n"))


def _noise(embedder: Embedder, count: int) -> list[StudyFilms]:
    """Return studies of two films of noise, which cost what films cost."""
    side = embedder.preprocessing.size
    films = np.random.default_rng(0).integers(0, 256, (count, 2, side, side), np.uint8)
    return [StudyFilms(frontal, lateral) for frontal, lateral in films]


def _read(embedder: Embedder, studies: Path, images: Path, count: int) -> list[StudyFilms]:
    """Return the films of the table's studies, spread evenly; a missing view is given the other one's film."""
    table = load_studies(studies)
    rows = np.unique(np.linspace(0, table.num_rows - 1, min(count, table.num_rows)).round().astype(int)).tolist()
    read = []
    for row in table.select(["frontal_path", "lateral_path"]).take(rows).to_pylist():
        frontal, lateral = (row[key] and images / row[key] for key in ("frontal_path", "lateral_path"))
        study = embedder.read_films(frontal, lateral)
        read.append(StudyFilms(study.frontal if study.frontal is not None else study.lateral, study.lateral))
    return [StudyFilms(pair.frontal, pair.lateral if pair.lateral is not None else pair.frontal) for pair in read]


def _add_own(
    ways: dict[str, Way], absent: dict[str, str], path: Path, eager: Embedder, studies: int, *, compiled: bool
) -> Callable[[], None]:
    """Add our own runtimes to the ways, or why they are absent; return the backbones alone in the best of them."""
    device = eager.device.type
    for name in (name for name in RUNTIMES if name.startswith("openvino-" if device == "cpu" else "cuda-")):
        if name == "cuda-compiled" and not compiled:
            absent[name] = "not asked for"
            continue
        try:
            embedder = Embedder.load(path, device=device, runtime=name)
        except EncoderError as refusal:
            absent[name] = str(refusal)
            continue
        if embedder.runtime.name == name:
            ways[name] = embedder.embed
        else:
            absent[name] = embedder.runtime.note
    best = Embedder.load(path, device=device, runtime="auto" if device == "cpu" else "cuda-bf16")
    return encoder_alone(best, best.runner, studies)


def _measured(
    ways: dict[str, Way], limit: Callable[[], None], films: list[StudyFilms], batch: int, repeat: int
) -> dict[str, dict[str, Any]]:
    """Return of each way its rate, one study's time, and how near its vectors are to those of torch in fp32."""
    batches = [films[start : start + batch] for start in range(0, len(films), batch)]

    def whole(way: Way) -> Callable[[], Vectors]:
        return lambda: np.concatenate([way(some) for some in batches])

    def alone(way: Way) -> Callable[[], Vectors]:
        return lambda: way(films[:1])

    subjects = {name: Clocked(whole(way)) for name, way in ways.items()} | {ALONE: Clocked(limit)}
    seconds, answers = interleaved(subjects, repeat, warm_up=1, description="batches")
    singles = {name: alone(way) for name, way in ways.items()}
    single, _ = interleaved(singles, 3 * repeat, warm_up=2, settle=True, description="one")
    middle, middle_alone = medians(seconds), medians(single)
    figures: dict[str, dict[str, Any]] = {
        name: {
            "studies_per_second": len(films) / middle[name],
            "times_eager": middle[EAGER] / middle[name],
            "one_study_ms": 1000 * middle_alone[name],
            "seconds": seconds[name],
            "processor_ms": 1000 * subjects[name].middle() / len(films),
            **agreement(answers[EAGER], answers[name]),
        }
        for name in ways
    }
    figures[ALONE] = {
        "studies_per_second": len(films) / middle[ALONE],
        "seconds": seconds[ALONE],
        "times_eager": middle[EAGER] / middle[ALONE],
        "processor_ms": 1000 * subjects[ALONE].middle() / len(films),
    }
    return figures


def agreement(expected: Vectors | None, vectors: Vectors | None) -> dict[str, float]:
    """Return the cosine to the expected vectors (N, D), its mean and least, and which share of the top ten is kept."""
    assert expected is not None
    assert vectors is not None
    cosines = (expected * vectors).sum(axis=1)
    facts = {"cosine_mean": float(cosines.mean()), "cosine_least": float(cosines.min())}
    if len(expected) <= 2 * TOP:
        return facts
    kept = [len(set(a) & set(b)) / TOP for a, b in zip(_nearest(expected), _nearest(vectors), strict=True)]
    return facts | {"top_10_kept": float(np.mean(kept))}


def _nearest(vectors: Vectors) -> list[list[int]]:
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -2)
    nearest: npt.NDArray[np.int64] = np.argsort(-similarities, axis=1)[:, :TOP]
    return [list(map(int, row)) for row in nearest]


def _report(figures: dict[str, dict[str, Any]], facts: dict[str, Any]) -> str:
    forms = {
        "studies_per_second": "{:.1f}",
        "times_eager": "{:.2f}",
        "processor_ms": "{:.1f}",
        "one_study_ms": "{:.1f}",
        "cosine_mean": "{:.5f}",
        "cosine_least": "{:.4f}",
        "top_10_kept": "{:.3f}",
    }
    rows = [
        [name, *(form.format(figure[key]) if key in figure else "" for key, form in forms.items())]
        for name, figure in figures.items()
    ]
    headings = [
        "runtime",
        "studies a second",
        "times the first row",
        "CPU ms a study",
        "ms for one study alone",
        "cosine to the first row, mean",
        "least",
        "of the top 10 kept",
    ]
    absent = "".join(f"\n{name}: {reason}" for name, reason in facts["absent"].items())
    return markdown_table(headings, rows) + (
        f"{absent}\n{facts['backbone']} at {facts['side']} px, {'shared' if facts['shared'] else 'separate'} weights, "
        f"{facts['studies']} studies of two films, batch {facts['batch']}, {facts['device']}, {facts['date']}; "
        f"medians of {facts['repeat']}; {facts['cores']} cores ({facts['processor']}), {facts['torch_threads']} torch "
        f"threads, load average {facts['load_1_min']}; "
        + ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
        + (f"\n{facts['without']}" if "without" in facts else "")
    )
