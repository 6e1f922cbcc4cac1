"""`precedent train`: train an encoder on a table of studies by a recipe, and leave a folder that repeats the run.

precedent train studies.parquet --images . --recipe dual_b0 --out runs/first
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import torch

from encoder.checkpoint import fingerprint_of, load_encoder
from encoder.films import FilmStore, TrainingStudies
from encoder.recipe import Recipe
from encoder.run_curves import Scalars, has_tensorboard, save_curves
from encoder.run_folder import ENCODER, RunFolder
from encoder.train import Trainer
from index.files import sha256_of
from index.labels import LabelPolicy, class_targets, finding_targets
from index.splits import Rows, require_disjoint_patients, save_parts, split_by_patient
from index.studies import FINDINGS, load_studies, save_studies
from scripts.terminal import ERR, progress_bar


@click.command()
@click.argument("studies", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path, file_okay=False), required=True, help="Image root.")
@click.option("--recipe", "name", default="dual_b0", show_default=True, help="A recipe's name or a TOML file.")
@click.option("--set", "changes", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one option.")
@click.option("--weights", help="Where backbones start: imagenet, none, or a safetensors file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: all cores).")
@click.option("--cache-gb", type=float, default=8.0, show_default=True, help="Memory for preprocessed films.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    studies: Path, images: Path, name: str, changes: tuple[str, ...], weights: str | None, out: Path, device: str,
    threads: int | None, cache_gb: float, as_json: bool,
) -> None:  # fmt: skip
    """Train an encoder on the table STUDIES; the same command goes on with a run that was killed.

    \b
    precedent train studies.parquet --images . --recipe phantom --out runs/phantom
    """
    if threads:
        torch.set_num_threads(threads)
    start = (f"run.weights={json.dumps(weights)}",) if weights else ()
    recipe = Recipe.load(name, (*changes, *start))
    table = load_studies(studies)
    targets, names, policy = targets_of(table, recipe)
    parts = split(table, targets, recipe)
    folder = RunFolder(out, recipe, {"studies_sha256": sha256_of(studies), "images": str(images.resolve())})
    ids = table["study_id"].to_pylist()
    save_parts(out / "splits.json", {part: [ids[row] for row in rows] for part, rows in parts.items()})
    save_studies(with_split(table, parts), out / "studies.parquet")
    films, frontal, lateral = films_of(table, images, recipe, cache_gb)
    patients = np.unique(np.asarray(table["patient_id"].to_pylist()), return_inverse=True)[1]
    data = TrainingStudies(
        frontal, lateral, targets, names, patients, parts["train"], parts["valid"], bool(recipe.targets.classes)
    )
    report = train(Trainer(recipe, films, data, device=_device(device)), folder)
    report |= {"recipe": name, "policy": policy, "studies": {part: len(rows) for part, rows in parts.items()}}
    folder.report(report)
    click.echo(json.dumps(report) if as_json else _sentence(report, out))


def targets_of(table: pa.Table, recipe: Recipe) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Return the targets (N, C), their names, and the policy in words. Raises StudiesError, FilterError."""
    options = recipe.targets
    if options.classes:
        words = ", ".join(f"{name}: {' and '.join(held)}" for name, held in options.classes.items())
        return class_targets(table, options.classes), tuple(options.classes), f"exclusive classes ({words})"
    policy = LabelPolicy(options.uncertain, options.blank, options.per_label)  # type: ignore[arg-type]
    findings = options.findings or FINDINGS
    return finding_targets(table, findings, policy), tuple(findings), policy.sentence()


def split(table: pa.Table, targets: np.ndarray, recipe: Recipe) -> dict[str, Rows]:
    """Return the rows of train, valid and test, by patient; studies without any known label are in none."""
    run = recipe.run
    shares = {"train": 1 - run.valid_fraction - run.test_fraction, "valid": run.valid_fraction}
    if run.test_fraction:
        shares["test"] = run.test_fraction
    patients = table["patient_id"].to_pylist()
    known = np.flatnonzero(~np.isnan(targets).all(axis=1))
    parts = split_by_patient([patients[row] for row in known], shares, run.seed, targets[known])
    parts = {part: known[rows] for part, rows in parts.items()}
    require_disjoint_patients(patients, parts)
    return parts


def with_split(table: pa.Table, parts: dict[str, Rows]) -> pa.Table:
    """Return the studies of all parts, with the part in the column `split`, so that a probe can hold out the same."""
    part_of = np.full(table.num_rows, None, dtype=object)
    for part, rows in parts.items():
        part_of[rows] = part
    column = pa.array(part_of.tolist(), pa.string())
    return table.set_column(table.column_names.index("split"), "split", column).filter(column.is_valid())


def films_of(
    table: pa.Table, images: Path, recipe: Recipe, cache_gb: float
) -> tuple[FilmStore, np.ndarray, np.ndarray]:
    """Return the films of all studies, read into memory, and the rows (N,) of each study's frontal and lateral."""
    paths: list[Path] = []
    rows: list[list[int]] = []
    for view in ("frontal", "lateral"):
        rows.append([])
        for path in table[f"{view}_path"].to_pylist():
            rows[-1].append(-1 if path is None else len(paths))
            paths += [] if path is None else [images / path]
    films = FilmStore(paths, recipe.preprocessing, cache_gb=cache_gb)
    with progress_bar("films") as bar:
        task = bar.add_task("read films", total=len(paths))
        films.fill(lambda done: bar.update(task, completed=done))
    return films, np.array(rows[0], dtype=np.int64), np.array(rows[1], dtype=np.int64)


def train(trainer: Trainer, folder: RunFolder) -> dict[str, Any]:
    """Do the epochs that are left and return the report."""
    if folder.resume(trainer):
        ERR.print(f"going on after epoch {trainer.progress.epoch} of {folder.path}")
    if not has_tensorboard():
        ERR.print("TensorBoard is not installed; its scalars are left out, metrics.csv and curves.png are not")
    scalars = Scalars(folder.path / "tensorboard", trainer.progress.epoch + 1)
    while not trainer.finished:
        better = _epoch(trainer)
        folder.save(trainer, best=better)
        scalars.add(trainer.progress.history[-1])
        save_curves(folder.path / "curves.png", trainer.progress.history)
        ERR.print(_line(trainer.progress.history[-1]) + (" (best)" if better else ""), soft_wrap=True)
    scalars.close()
    encoder, preprocessing = load_encoder(folder.path / ENCODER)
    return {
        "best_epoch": trainer.progress.best_epoch,
        "epochs": trainer.progress.epoch,
        "seconds": round(trainer.progress.seconds, 1),
        "best": trainer.progress.history[trainer.progress.best_epoch - 1],
        "fingerprint": fingerprint_of(encoder, preprocessing),
    }


def _epoch(trainer: Trainer) -> bool:
    with progress_bar("steps") as bar:
        task = bar.add_task(f"epoch {trainer.progress.epoch + 1}")
        return trainer.epoch(lambda done, total, _: bar.update(task, completed=done, total=total))


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in row.items())


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _sentence(report: dict[str, Any], out: Path) -> str:
    best = report["best"]
    return (
        f"{out / ENCODER}: epoch {report['best_epoch']} of {report['epochs']}, valid AUROC "
        f"{best['valid_auroc']:.3f}, P@5 {best['valid_precision_at_5']:.3f}, {report['seconds'] / 60:.1f} min; "
        f"labels: {report['policy']}"
    )
