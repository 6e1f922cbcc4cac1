"""The folder of a training run: what it was told, how it went, its best encoder, and where to go on after a kill.

Knows the files and their layout; knows nothing of how a step is taken. No pickle: tensors are safetensors, the
rest is JSON, TOML and CSV, and each file appears whole or not at all.
"""

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoder.checkpoint import save_encoder
from encoder.errors import CheckpointError, RecipeError
from encoder.recipe import Recipe
from encoder.single import build_encoder
from encoder.tensor_files import load_tensors, read_regular, save_tensors, save_text
from encoder.train import Progress, Trainer

ENCODER, STATE, RECIPE, METRICS = "encoder.safetensors", "last.safetensors", "recipe.toml", "metrics.csv"
CLASSIFIER = "classifier.safetensors"


class RunFolder:
    """One run's folder; opening it a second time goes on with the same run, and only with the same."""

    def __init__(self, path: Path, recipe: Recipe, inputs: Mapping[str, Any]) -> None:
        """Create the folder or check it.

        Args:
            inputs: what the run reads (tables, splits), as JSON values; a run goes on only with equal ones.

        Raises:
            RecipeError: the folder holds a run of another recipe or of other inputs.
        """
        self.path, self.recipe = path, recipe
        path.mkdir(parents=True, exist_ok=True)
        self._claim(RECIPE, recipe.to_toml())
        self._claim("inputs.json", json.dumps(dict(inputs), indent=1, sort_keys=True) + "\n")

    def save(self, trainer: Trainer, *, best: bool) -> None:
        """Write the state to go on from, the curves so far, and the encoder if it is the best yet."""
        if best:
            self._save_best(trainer)
        save_tensors(self.path / STATE, _tensors_of(trainer), {"run": json.dumps(_numbers_of(trainer))})
        self._write_metrics(trainer.progress.history)

    def resume(self, trainer: Trainer) -> bool:
        """Put a trainer where the folder's run stands and return True; False where nothing has been saved.

        Raises:
            CheckpointError: the saved state is unreadable or does not fit.
        """
        path = self.path / STATE
        if not path.exists():
            return False
        try:
            metadata, tensors = load_tensors(path, "start anew")
            _restore(trainer, tensors, json.loads(metadata["run"]))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{str(path)!r} cannot be gone on from ({error}); use another --out") from error
        return True

    def report(self, content: Mapping[str, Any]) -> None:
        """Write the run's closing figures, report.json."""
        save_text(self.path / "report.json", json.dumps(dict(content), indent=2) + "\n")

    def _save_best(self, trainer: Trainer) -> None:
        encoder = build_encoder(self.recipe.encoder)
        encoder.load_state_dict(trainer.encoder_state())
        save_encoder(self.path / ENCODER, encoder, self.recipe.preprocessing)
        names = json.dumps(trainer.studies.target_names)
        exclusive = json.dumps(trainer.studies.exclusive)
        save_tensors(self.path / CLASSIFIER, trainer.head_state(), {"targets": names, "exclusive": exclusive})

    def _write_metrics(self, history: list[dict[str, float]]) -> None:
        lines = [",".join(history[0])]
        lines += [",".join(f"{value:.6g}" for value in row.values()) for row in history]
        save_text(self.path / METRICS, "\n".join(lines) + "\n")

    def _claim(self, name: str, content: str) -> None:
        path = self.path / name
        if not path.exists():
            save_text(path, content)
        elif read_regular(path, 2 * len(content.encode()) + 1) != content.encode():
            raise RecipeError(
                f"{str(self.path)!r} holds a run with another {name}; give another --out, or the same recipe to go on"
            )


def load_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.csv, one an epoch."""
    with (folder / METRICS).open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    tensors = {f"network.{name}": value for name, value in trainer.network.state_dict().items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    if trainer.average is not None:
        tensors |= {f"average.{name}": value for name, value in trainer.average.state.items()}
    return tensors


def _numbers_of(trainer: Trainer) -> dict[str, Any]:
    steps = trainer.average.steps if trainer.average else 0
    return {"progress": dataclasses.asdict(trainer.progress), "average_steps": steps}


def _restore(trainer: Trainer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    trainer.network.load_state_dict(_under(tensors, "network."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer.").items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if trainer.average is not None:
        for name, value in _under(tensors, "average.").items():
            trainer.average.state[name].copy_(value)
        trainer.average.steps = int(numbers["average_steps"])
    trainer.progress = Progress(**numbers["progress"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
