"""`precedent bench train`: films a second of a training run, beside its backbones alone on films on the device."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import numpy as np
import torch

from encoder.embedder import available_device
from encoder.training.film_store import FilmStore, TrainingStudies
from encoder.training.recipe import Recipe
from encoder.training.trainer import Trainer
from scripts.benches.films import write_collection
from scripts.benches.measured import gpu_facts, json_option, machine_facts, markdown_table
from scripts.terminal import say, say_json

OURS, FP32, BF16 = "Precedent", "backbones alone, fp32", "backbones alone, bf16"
_VALID = 8


@click.command("train")
@click.option("--recipe", "name", default="dual_b0", show_default=True, help="A recipe's name or a TOML file.")
@click.option("--set", "changes", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one option.")
@click.option("--films", type=click.IntRange(8), default=2048, show_default=True, help="Films to learn from.")
@click.option("--batch", type=click.IntRange(2), help="Studies a batch (default: the recipe's on a CPU, 256 on a GPU).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Epochs after the first.")
@json_option
def command(
    name: str,
    changes: tuple[str, ...],
    films: int,
    batch: int | None,
    device: str,
    repeat: int,
    json_wanted: bool,
) -> None:
    """Train on made films of one view, and say what share of the backbones' own speed that is.

    \b
    precedent bench train --films 64 --repeat 1
    """
    device = available_device(device)
    recipe = Recipe.load(name, (*changes, "run.weights=none"))
    recipe = recipe.with_batch(batch or (recipe.run.batch_size if device == "cpu" else 256))
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(recipe, Path(folder), films, device)
        trainer.films.fill()
        rates = {
            OURS: films / median(_epochs(trainer, repeat)),
            FP32: _alone(trainer, repeat, torch.float32),
            BF16: _alone(trainer, repeat, torch.bfloat16),
        }
    facts = machine_facts("torch", "timm") | {
        **gpu_facts(device),
        "recipe": name,
        "backbone": recipe.encoder.backbone,
        "side": recipe.preprocessing.size,
        "films": films,
        "batch": recipe.run.batch_size,
        "repeat": repeat,
        "torch_threads": torch.get_num_threads(),
    }
    if json_wanted:
        say_json({"films_per_second": rates, **facts})
    else:
        say(*_report(rates, facts).split("\n"))


def _trainer(recipe: Recipe, folder: Path, films: int, device: str) -> Trainer:
    """Return a trainer of studies of one film each, of which every other one has every finding."""
    made = write_collection(folder, "small", 8)
    paths = [folder / path for path in made["frontal_path"].to_pylist()]
    rows = np.arange(films + _VALID)
    labels = np.repeat(rows[:, None] % 2, 2, axis=1).astype(np.float32)
    store = FilmStore([paths[row % len(paths)] for row in rows], recipe.preprocessing)
    missing = np.full(len(rows), -1)
    learnt = TrainingStudies(rows, missing, labels, ("one", "other"), rows, rows[:films], rows[films:])
    return Trainer(recipe, store, learnt, device=device)


def _epochs(trainer: Trainer, repeat: int) -> list[float]:
    """Return the seconds of the steps of so many epochs, the first one not counted, validation left out."""
    seconds: list[float] = []
    for _ in range(repeat + 1):
        rests = [perf_counter()]
        trainer.epoch(on_rest=partial(_note, rests))
        seconds.append(rests[-1] - rests[0])
    return seconds[1:]


def _note(rests: list[float], done: int, total: int) -> None:
    rests.append(perf_counter())


def _alone(trainer: Trainer, repeat: int, precision: torch.dtype) -> float:
    """Return films a second of the first backbone forward and back, on one batch that lies on the device."""
    backbone, device = trainer.network.encoder.backbones[0].train(), trainer.device
    recipe = trainer.recipe
    side, count = recipe.preprocessing.size, recipe.run.batch_size
    films = torch.randn(count, recipe.encoder.in_chans, side, side, device=device)
    films = films.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            backbone(films).float().square().mean().backward()
        backbone.zero_grad(set_to_none=True)

    branches = len(trainer.network.encoder.backbones)
    return count / (branches * _seconds(step, device, repeat))


def _seconds(step: Callable[[], None], device: torch.device, repeat: int) -> float:
    """Return the median seconds of a step."""
    took = []
    for _ in range(repeat + 2):
        start = perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(perf_counter() - start)
    return median(took[2:])


def _report(rates: dict[str, float], facts: dict[str, Any]) -> str:
    rows = [[way, f"{rate:.1f}", f"{rates[OURS] / rate:.0%}"] for way, rate in rates.items()]
    without = f"\n{facts['without']}" if "without" in facts else ""
    return markdown_table(["what", "films a second", "Precedent's share of that"], rows) + (
        f"\n{facts['recipe']}: {facts['backbone']} at {facts['side']} px, {facts['films']} films, batch "
        f"{facts['batch']}, {facts['device']}, {facts['date']}; medians of {facts['repeat']}; {facts['cores']} cores "
        f"({facts['processor']}), {facts['torch_threads']} torch threads, load average {facts['load_1_min']}; "
        + ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
        + without
    )
