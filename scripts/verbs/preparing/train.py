"""`precedent train`: train an encoder on a table of studies by a recipe, and leave a folder that repeats the run.

precedent train studies.parquet --images . --recipe dual_b0 --out runs/first
"""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from encoder.embedder import available_device
from encoder.errors import EncoderError
from encoder.network.checkpoint import fingerprint_of, load_encoder
from encoder.training.processes import Processes
from encoder.training.recipe import Recipe
from encoder.training.run_curves import Scalars, has_tensorboard, save_curves
from encoder.training.run_folder import ENCODER, RunFolder
from encoder.training.trainer import Trainer
from index.storage.files import finite
from index.table.splits import save_parts
from index.table.studies import save_studies
from scripts.options.body_parts import ignored_parts
from scripts.options.places import Anywhere, Here, images_option
from scripts.terminal import progress_bar, say, say_json
from scripts.work.cross_validation import Judged, deal
from scripts.work.material import Material, Parts
from scripts.work.torchrun import joined_processes

SAVE_MINUTES = 5.0
_WORKERS = 2
"""Processes that read films ahead for a GPU."""


@dataclass(frozen=True)
class Machine:
    """What does the training, and how often its state is saved."""

    device: str = "cpu"
    processes: Processes = field(default_factory=Processes)
    workers: int = 0
    save_minutes: float = SAVE_MINUTES
    save_steps: int = 0


@click.command()
@click.argument("studies", type=Anywhere())
@images_option
@ignored_parts
@click.option("--recipe", "name", default="dual_b0", show_default=True, help="Name of a recipe, or a TOML file.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change one option of the recipe, e.g. run.epochs=3. Repeatable.",
)
@click.option("--splits", type=Here(), help="A split file with train and perhaps valid; or official: the column split.")
@click.option("--weights", help="Initial weights of the backbones: imagenet, none (random), or a safetensors file.")
@click.option("--out", type=Here(), required=True, help="Folder for the run.")
@click.option("--device", default="auto", show_default=True, help="Where training runs: auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: all cores).")
@click.option("--batch", type=click.IntRange(2), help="Studies a batch; the learning rate goes with its square root.")
@click.option("--cache-gb", type=float, default=8.0, show_default=True, help="Memory for preprocessed films, in GB.")
@click.option("--store", type=Here(), help="Folder for preprocessed films that take more (default: that of the run).")
@click.option("--workers", type=click.IntRange(0), help="Processes that read those ahead (default: 2 for a GPU).")
@click.option(
    "--save-minutes",
    type=click.FloatRange(0),
    default=SAVE_MINUTES,
    show_default=True,
    help="Minutes between saved states within an epoch; an interruption loses at most these.",
)
@click.option("--save-steps", type=click.IntRange(1), help="The same after so many steps of the optimizer.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    studies: Path,
    images: Path,
    ignored: frozenset[str],
    name: str,
    changes: tuple[str, ...],
    splits: Path | None,
    weights: str | None,
    out: Path,
    device: str,
    threads: int | None,
    batch: int | None,
    cache_gb: float,
    store: Path | None,
    workers: int | None,
    save_minutes: float,
    save_steps: int | None,
    as_json: bool,
) -> None:
    """Train an encoder on the table STUDIES. To go on after an interruption, run the same command again.

    torchrun shares a run among processes, on a GPU each.

    \b
    precedent train studies.parquet --images . --recipe phantom --out runs/phantom
    torchrun --nproc-per-node 2 --no-python precedent train studies.parquet --images . --out runs/two
    """
    if threads:
        torch.set_num_threads(threads)
    start = (f"run.weights={json.dumps(weights)}",) if weights else ()
    recipe = Recipe.load(name, (*changes, *start))
    if splits and recipe.run.folds:
        raise click.UsageError("expected --splits without run.folds, which divides the patients itself")
    if batch:
        recipe = recipe.with_batch(batch)
    device = available_device(device)
    workers = workers if workers is not None else 0 if device == "cpu" else _WORKERS
    with joined_processes(device) as (processes, device):
        in_memory = cache_gb if processes.count == 1 else 0.0  # or each process would hold all films
        material = Material.gather(studies, images, name, recipe, in_memory, ignored, splits, store or out)
        machine = Machine(device, processes, workers, save_minutes, save_steps or 0)
        if recipe.run.folds:
            cross_validate(material, out, machine, as_json=as_json)
            return
        report, _ = run(material, material.split(), out, machine)
    if processes.first:
        if as_json:
            say_json(report)
        else:
            say(_sentence(report, out))


def run(material: Material, parts: Parts, out: Path, machine: Machine) -> tuple[dict[str, Any], Trainer]:
    """Do one run, or what is left of it, and return its report and its trainer with the best encoder in it."""
    processes = machine.processes
    folder = processes.in_turn(lambda: RunFolder(out, material.recipe, material.inputs))
    if processes.first:
        ids = material.ids
        save_parts(out / "splits.json", {part: [ids[row] for row in rows] for part, rows in parts.items()})
        save_studies(material.table_of(parts), out / "studies.parquet")
    trainer = Trainer(
        material.recipe,
        material.films,
        material.studies_of(parts),
        device=machine.device,
        processes=processes,
        workers=machine.workers,
    )
    processes.in_turn(lambda: _read_films(trainer))
    _epochs(trainer, folder, machine)
    encoder, preprocessing = processes.in_turn(lambda: load_encoder(folder.path / ENCODER))
    trainer.take(encoder)
    report = {
        "recipe": material.name,
        "policy": material.wanted.sentence(),
        "not_learnt": material.not_learnt(parts),
        "best_epoch": trainer.progress.best_epoch,
        "epochs": trainer.progress.epoch,
        "seconds": round(trainer.progress.seconds, 1),
        "best": trainer.progress.history[trainer.progress.best_epoch - 1],
        "fingerprint": fingerprint_of(encoder, preprocessing),
        "studies": {part: len(rows) for part, rows in parts.items()},
    }
    if processes.first:
        folder.report(finite(report))
    return report, trainer


def cross_validate(material: Material, out: Path, machine: Machine, *, as_json: bool) -> None:
    """Do a run a fold, judge each on the patients that it did not see, and write the report over all."""
    folds = deal(material)
    judged, probes = Judged(material), {}
    for number, parts in enumerate(folds, start=1):
        if machine.processes.first:
            say(f"fold {number} of {len(folds)}", err=True)
        report, trainer = run(material, parts, out / f"fold{number}", machine)
        folder = out / f"fold{number}" / "probe"
        probes[folder] = judged.add(parts, trainer, report["fingerprint"])
        if machine.processes.first:
            probes[folder].save(folder)
    if machine.processes.first:
        judged.save(out, probes, as_json=as_json)


def _read_films(trainer: Trainer) -> None:
    if not trainer.processes.first:
        trainer.films.fill()
        return
    with progress_bar("films") as bar:
        task = bar.add_task("read films", total=len(trainer.films))
        trainer.films.fill(lambda done: bar.update(task, completed=done))


class Saver:
    """Saves the state of a run within an epoch, every so many minutes or steps; called between two steps."""

    def __init__(self, trainer: Trainer, folder: RunFolder, machine: Machine) -> None:
        self._trainer, self._folder = trainer, folder
        self._seconds = 60 * machine.save_minutes
        self._batches = machine.save_steps * trainer.recipe.optimizer.accumulation or math.inf
        self._time, self._done, self._in_epoch = time.monotonic(), trainer.progress.batches, False

    def __call__(self, done: int, total: int) -> None:
        """Write the state where that is due, and in a long epoch before it is validated."""
        due = time.monotonic() - self._time >= self._seconds or done - self._done >= self._batches
        if due or (done == total and self._in_epoch):
            self._folder.save_state(self._trainer)
            self._time, self._done, self._in_epoch = time.monotonic(), done, True

    def epoch_saved(self) -> None:
        """Note that the state has been written at the end of an epoch."""
        self._time, self._done, self._in_epoch = time.monotonic(), 0, False


def _epochs(trainer: Trainer, folder: RunFolder, machine: Machine) -> None:
    """Do the epochs that are left; of several processes, the first one writes and speaks."""
    resumed = trainer.processes.in_turn(lambda: folder.resume(trainer))
    if not trainer.processes.first:
        while not trainer.finished:
            trainer.epoch()
        _require_best(trainer)
        return
    if resumed:
        within = f" and {trainer.progress.batches} batches" if trainer.progress.batches else ""
        say(f"going on after epoch {trainer.progress.epoch}{within} of {folder.path}", err=True)
    if not has_tensorboard():
        say("TensorBoard is not installed; its scalars are left out, metrics.csv and curves.png are not", err=True)
    scalars = Scalars(folder.path / "tensorboard", max(trainer.progress.epoch, 1))
    if trainer.progress.history:  # a kill may have come between the state of an epoch and these
        _show(trainer, folder, scalars)
    saver = Saver(trainer, folder, machine)
    while not trainer.finished:
        better = _epoch(trainer, saver)
        folder.save(trainer, best=better)
        saver.epoch_saved()
        _show(trainer, folder, scalars)
        say(_line(trainer.progress.history[-1]) + (" (best)" if better else ""), err=True)
    scalars.close()
    _require_best(trainer)


def _require_best(trainer: Trainer) -> None:
    if not trainer.progress.best_epoch:
        raise EncoderError(
            f"expected an epoch whose {trainer.recipe.run.monitor} is a number, got none of "
            f"{trainer.progress.epoch}; the run has diverged: give a smaller optimizer.lr and another --out"
        )


def _show(trainer: Trainer, folder: RunFolder, scalars: Scalars) -> None:
    scalars.add(trainer.progress.history[-1])
    save_curves(folder.path / "curves.png", trainer.progress.history)


def _epoch(trainer: Trainer, saver: Saver) -> bool:
    with progress_bar("steps") as bar:
        task = bar.add_task(f"epoch {trainer.progress.epoch + 1}")
        return trainer.epoch(lambda done, total: bar.update(task, completed=done, total=total), saver)


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in row.items())


def _sentence(report: dict[str, Any], out: Path) -> str:
    best = report["best"]
    return (
        f"{out / ENCODER}: epoch {report['best_epoch']} of {report['epochs']}, valid AUROC "
        f"{best['valid_auroc']:.3f}, P@5 {best['valid_precision_at_5']:.3f}, {report['seconds'] / 60:.1f} min; "
        f"{report['policy']}"
    )
