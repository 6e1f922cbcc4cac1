"""The folder of a training run: its recipe and inputs, its curves, its best encoder, and the state to resume from.

No pickle: tensors are safetensors, the rest is JSON, TOML and CSV, and each file appears whole or not at all.
"""

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoder.errors import CheckpointError, EncoderError, RecipeError
from encoder.files import load_tensors, read_regular, save_tensors, save_text
from encoder.network.checkpoint import save_encoder
from encoder.network.single import build_encoder
from encoder.training.recipe import MOST_BYTES, Recipe
from encoder.training.trainer import Progress, Trainer

ENCODER, STATE, RECIPE, METRICS = "encoder.safetensors", "last.safetensors", "recipe.toml", "metrics.csv"
CLASSIFIER, INPUTS = "classifier.safetensors", "inputs.json"


class RunFolder:
    """One run's folder; opening it again resumes the run, and refuses another one."""

    def __init__(self, path: Path, recipe: Recipe, inputs: Mapping[str, Any]) -> None:
        """Create the folder or check it.

        Args:
            inputs: what the run reads (tables, splits), as JSON values; a run goes on only with equal ones.

        Raises:
            RecipeError: the folder holds a run of another recipe or of other inputs; each one is named.
        """
        self.path, self.recipe = path, recipe
        path.mkdir(parents=True, exist_ok=True)
        self._claim(RECIPE, recipe.to_toml(), self._other_options)
        self._claim(INPUTS, json.dumps(dict(inputs), indent=1, sort_keys=True) + "\n", self._other_inputs)

    def save(self, trainer: Trainer, *, best: bool) -> None:
        """Write the state to resume from, the curves so far, and the encoder if it is the best yet."""
        if best:
            self._save_best(trainer)
        self.save_state(trainer)
        self._write_metrics(trainer.progress.history)

    def save_state(self, trainer: Trainer) -> None:
        """Write the state to resume from, which may lie within an epoch."""
        save_tensors(self.path / STATE, _tensors_of(trainer), {"run": json.dumps(_numbers_of(trainer))})

    def resume(self, trainer: Trainer) -> bool:
        """Bring a trainer to where the folder's run stands and return True; False where nothing has been saved.

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
            raise CheckpointError(f"{str(path)!r} cannot be continued ({error}); use another --out") from error
        if trainer.progress.history:  # a kill between the state and the curves left them an epoch behind
            self._write_metrics(trainer.progress.history)
        return True

    def report(self, content: Mapping[str, Any]) -> None:
        """Write the run's closing figures, all of them finite or None, to report.json."""
        save_text(self.path / "report.json", json.dumps(dict(content), indent=2, allow_nan=False) + "\n")

    def _save_best(self, trainer: Trainer) -> None:
        encoder = build_encoder(self.recipe.encoder)
        encoder.load_state_dict(trainer.encoder_state())
        encoder.trained = True
        save_encoder(self.path / ENCODER, encoder, self.recipe.preprocessing)
        names = json.dumps(trainer.studies.target_names)
        exclusive = json.dumps(trainer.studies.exclusive)
        save_tensors(self.path / CLASSIFIER, trainer.head_state(), {"targets": names, "exclusive": exclusive})

    def _write_metrics(self, history: list[dict[str, float]]) -> None:
        lines = [",".join(history[0])]
        lines += [",".join(f"{value:.6g}" for value in row.values()) for row in history]
        text, path = "\n".join(lines) + "\n", self.path / METRICS
        if not path.exists() or read_regular(path, MOST_BYTES) != text.encode():
            save_text(path, text)

    def _claim(self, name: str, content: str, others: Callable[[str, str], list[str]]) -> None:
        """Write what a run begins with, or raise RecipeError where the folder's run began with something else."""
        path = self.path / name
        if not path.exists():
            save_text(path, content)
            return
        earlier = read_regular(path, MOST_BYTES)
        if earlier == content.encode():
            return
        try:
            differing = others(earlier.decode("utf-8"), content)
        except (EncoderError, ValueError, AttributeError) as error:
            raise RecipeError(
                f"{str(self.path)!r} holds a run whose {name} cannot be read ({error}); give another --out"
            ) from error
        if differing:
            raise RecipeError(
                f"{str(self.path)!r} holds a run with another {name}: {'; '.join(differing)}; give another --out, or "
                "what the run began with to go on"
            )

    def _other_options(self, earlier: str, content: str) -> list[str]:
        """Return the options in which a recipe differs from this run's; one that it lacks has its default there."""
        theirs, ours = (
            {
                f"{section}.{key}": value
                for section, values in dataclasses.asdict(Recipe.from_dict(tomllib.loads(text))).items()
                for key, value in values.items()
            }
            for text in (earlier, content)
        )
        return _differing(theirs, ours)

    def _other_inputs(self, earlier: str, content: str) -> list[str]:
        return _differing(json.loads(earlier), json.loads(content))


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value that is not the same."""
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return [f"{name} was {_short(theirs.get(name))} and is now {_short(ours.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else f"{text[:100]}..."


def _tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    tensors = {f"network.{name}": value for name, value in trainer.network.state_dict().items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    if trainer.average is not None:
        tensors |= {f"average.{name}": value for name, value in trainer.average.module.state_dict().items()}
    return tensors | {f"chance.{name}": value for name, value in trainer.chance.items()}


def _numbers_of(trainer: Trainer) -> dict[str, Any]:
    return {"progress": dataclasses.asdict(trainer.progress), "average_steps": trainer.average_steps}


def _restore(trainer: Trainer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    trainer.network.load_state_dict(_under(tensors, "network."))
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer.").items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = _laid_out(value, parameters[int(number)])
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if trainer.average is not None:
        averaged = trainer.average.module  # older states lack its counts of batches
        averaged.load_state_dict({**averaged.state_dict(), **_under(tensors, "average.")})
        trainer.average_steps = int(numbers["average_steps"])
    trainer.progress = Progress(**numbers["progress"])
    trainer.chance = _under(tensors, "chance.")
    if trainer.progress.batches and not {"films", "layers"} <= trainer.chance.keys():
        raise ValueError("it was saved within an epoch and lacks the states of the random generators")


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """Return the value in its parameter's memory layout, so that the next step is the same to the last bit."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
