"""`precedent train`: train an encoder on a table of studies by a recipe, and leave a folder that repeats the run.

precedent train studies.parquet --images . --recipe dual_b0 --out runs/first
"""

import json
import time
from pathlib import Path
from typing import Any

import click
import torch

from encoder.embedder import available_device
from encoder.errors import EncoderError
from encoder.network.checkpoint import fingerprint_of, load_encoder
from encoder.training.recipe import Recipe
from encoder.training.run_curves import Scalars, has_tensorboard, save_curves
from encoder.training.run_folder import ENCODER, RunFolder
from encoder.training.trainer import Trainer
from index.storage.files import finite
from index.table.splits import save_parts
from index.table.studies import save_studies
from scripts.options.body_parts import ignored_parts
from scripts.options.places import Anywhere, Here
from scripts.terminal import progress_bar, say, say_json
from scripts.work.cross_validation import Judged, deal
from scripts.work.material import Material, Parts

SAVE_MINUTES = 5.0


@click.command()
@click.argument("studies", type=Anywhere())
@click.option("--images", type=Anywhere(file_okay=False), required=True, help="Image root.")
@ignored_parts
@click.option("--recipe", "name", default="dual_b0", show_default=True, help="A recipe's name or a TOML file.")
@click.option("--set", "changes", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one option.")
@click.option("--splits", type=Here(), help="A split file with train and perhaps valid; or official: the column split.")
@click.option("--weights", help="Where backbones start: imagenet, none, or a safetensors file.")
@click.option("--out", type=Here(), required=True, help="Folder of the run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: all cores).")
@click.option("--cache-gb", type=float, default=8.0, show_default=True, help="Memory for preprocessed films.")
@click.option(
    "--save-minutes",
    type=click.FloatRange(0),
    default=SAVE_MINUTES,
    show_default=True,
    help="Write down within an epoch where the run stands, this often: what a kill costs.",
)
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
    cache_gb: float,
    save_minutes: float,
    as_json: bool,
) -> None:
    """Train an encoder on the table STUDIES; the same command goes on with a run that was killed.

    \b
    precedent train studies.parquet --images . --recipe phantom --out runs/phantom
    """
    if threads:
        torch.set_num_threads(threads)
    start = (f"run.weights={json.dumps(weights)}",) if weights else ()
    recipe = Recipe.load(name, (*changes, *start))
    if splits and recipe.run.folds:
        raise click.UsageError("expected --splits without run.folds, which deals the patients itself")
    material = Material.gather(studies, images, name, recipe, cache_gb, ignored, splits)
    device = available_device(device)
    if recipe.run.folds:
        cross_validate(material, out, device, save_minutes, as_json=as_json)
        return
    report, _ = run(material, material.split(), out, device, save_minutes)
    if as_json:
        say_json(report)
    else:
        say(_sentence(report, out))


def run(
    material: Material, parts: Parts, out: Path, device: str, save_minutes: float = SAVE_MINUTES
) -> tuple[dict[str, Any], Trainer]:
    """Do one run, or what is left of it, and return its report and its trainer with the best encoder in it."""
    folder = RunFolder(out, material.recipe, material.inputs)
    ids = material.ids
    save_parts(out / "splits.json", {part: [ids[row] for row in rows] for part, rows in parts.items()})
    save_studies(material.table_of(parts), out / "studies.parquet")
    trainer = Trainer(material.recipe, material.films, material.studies_of(parts), device=device)
    _read_films(trainer)
    _epochs(trainer, folder, save_minutes)
    encoder, preprocessing = load_encoder(folder.path / ENCODER)
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
    folder.report(finite(report))
    return report, trainer


def cross_validate(material: Material, out: Path, device: str, save_minutes: float, *, as_json: bool) -> None:
    """Do a run a fold, judge each on the patients that it did not see, and write the report over all."""
    folds = deal(material)
    judged, probes = Judged(material), {}
    for number, parts in enumerate(folds, start=1):
        say(f"fold {number} of {len(folds)}", err=True)
        report, trainer = run(material, parts, out / f"fold{number}", device, save_minutes)
        folder = out / f"fold{number}" / "probe"
        probes[folder] = judged.add(parts, trainer, report["fingerprint"])
        probes[folder].save(folder)
    judged.save(out, probes, as_json=as_json)


def _read_films(trainer: Trainer) -> None:
    with progress_bar("films") as bar:
        task = bar.add_task("read films", total=len(trainer.films))
        trainer.films.fill(lambda done: bar.update(task, completed=done))


class Saver:
    """Writes down within an epoch where a run stands, every so many minutes; called where it rests."""

    def __init__(self, trainer: Trainer, folder: RunFolder, minutes: float) -> None:
        self._trainer, self._folder, self._seconds = trainer, folder, 60 * minutes
        self._saved = time.monotonic()
        self._in_epoch = False

    def __call__(self, done: int, total: int) -> None:
        """Write the state where that is due, and in a long epoch before it is validated."""
        if time.monotonic() - self._saved >= self._seconds or (done == total and self._in_epoch):
            self._folder.save_state(self._trainer)
            self._saved, self._in_epoch = time.monotonic(), True

    def epoch_saved(self) -> None:
        """Note that the state has been written at the end of an epoch."""
        self._saved, self._in_epoch = time.monotonic(), False


def _epochs(trainer: Trainer, folder: RunFolder, save_minutes: float) -> None:
    """Do the epochs that are left."""
    if folder.resume(trainer):
        within = f" and {trainer.progress.batches} batches" if trainer.progress.batches else ""
        say(f"going on after epoch {trainer.progress.epoch}{within} of {folder.path}", err=True)
    if not has_tensorboard():
        say("TensorBoard is not installed; its scalars are left out, metrics.csv and curves.png are not", err=True)
    scalars = Scalars(folder.path / "tensorboard", max(trainer.progress.epoch, 1))
    if trainer.progress.history:  # a kill may have come between the state of an epoch and these
        _show(trainer, folder, scalars)
    saver = Saver(trainer, folder, save_minutes)
    while not trainer.finished:
        better = _epoch(trainer, saver)
        folder.save(trainer, best=better)
        saver.epoch_saved()
        _show(trainer, folder, scalars)
        say(_line(trainer.progress.history[-1]) + (" (best)" if better else ""), err=True)
    scalars.close()
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
        return trainer.epoch(lambda done, total, _: bar.update(task, completed=done, total=total), saver)


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in row.items())


def _sentence(report: dict[str, Any], out: Path) -> str:
    best = report["best"]
    return (
        f"{out / ENCODER}: epoch {report['best_epoch']} of {report['epochs']}, valid AUROC "
        f"{best['valid_auroc']:.3f}, P@5 {best['valid_precision_at_5']:.3f}, {report['seconds'] / 60:.1f} min; "
        f"{report['policy']}"
    )
