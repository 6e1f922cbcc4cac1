"""A training recipe: every choice of a run as frozen values, read from TOML and written back whole."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Self, get_type_hints

from encoder.errors import CheckpointError, EncoderError, RecipeError
from encoder.files import read_regular
from encoder.films.preprocess import Preprocessing
from encoder.network.backbone import input_statistics
from encoder.network.config import EncoderConfig
from encoder.training.augment import Augmentation
from encoder.training.losses import LossOptions
from encoder.training.options import OptimizerOptions, RunOptions, ScheduleOptions, TargetOptions

MOST_BYTES = 1 << 20
"""Of a recipe."""


@dataclass(frozen=True)
class Recipe:
    """Every option of a training run."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    targets: TargetOptions = field(default_factory=TargetOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: LossOptions = field(default_factory=LossOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        if self.preprocessing.channels != self.encoder.in_chans:
            raise RecipeError(
                "expected as many channels in the film as in the network, got "
                f"{self.preprocessing.channels} in [preprocessing] and {self.encoder.in_chans} in [encoder]"
            )
        too_long = [dim for dim in self.loss.prefixes if not 0 < dim < self.encoder.embedding_dim]
        if too_long:
            raise RecipeError(
                f"expected loss.prefixes shorter than the embedding's {self.encoder.embedding_dim}, got {too_long}"
            )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Return the recipe of parsed TOML.

        Without mean and std, preprocessing takes what the backbone's own configuration asks for.

        Raises:
            RecipeError: an unknown section or key, or a value of the wrong type or range.
        """
        kinds = get_type_hints(cls)
        _known("recipe", content, kinds)
        sections = {name: _section(name, kind, content.get(name, {})) for name, kind in kinds.items()}
        given = content.get("preprocessing", {})
        if "mean" not in given and "std" not in given:
            mean, std = _statistics(sections["encoder"])
            sections["preprocessing"] = dataclasses.replace(sections["preprocessing"], mean=mean, std=std)
        return cls(**sections)

    @classmethod
    def load(cls, name: str, changes: Sequence[str] = ()) -> Self:
        """Return a recipe of the package by its name, or of a TOML file by its path.

        Args:
            changes: `section.key=value`, the value as TOML or plain text; later ones win.
        """
        content = _parse(_text_of(name), name)
        for change in changes:
            _apply(content, change)
        return cls.from_dict(content)

    def with_batch(self, size: int) -> Self:
        """Return the recipe with another batch and a learning rate that fits it: times the square root of the ratio.

        So Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", NeurIPS 2022.
        """
        lr = self.optimizer.lr * math.sqrt(size / self.run.batch_size)
        return dataclasses.replace(
            self,
            run=dataclasses.replace(self.run, batch_size=size),
            optimizer=dataclasses.replace(self.optimizer, lr=lr),
        )

    def to_toml(self) -> str:
        """Return the recipe as TOML with every key; `load` of it gives an equal recipe."""
        lines: list[str] = []
        for name, section in dataclasses.asdict(self).items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {_as_toml(value)}" for key, value in section.items()]
            lines.append("")
        return "\n".join(lines)


def recipe_names() -> list[str]:
    """Return the names of the package's recipes."""
    folder = resources.files("encoder.training") / "recipes"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def _text_of(name: str) -> str:
    path = Path(name)
    try:
        if path.suffix == ".toml" or path.is_file():
            return read_regular(path, MOST_BYTES).decode("utf-8")
        return (resources.files("encoder.training") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, CheckpointError) as error:
        known = ", ".join(recipe_names())
        raise RecipeError(f"expected a recipe's name ({known}) or a TOML file, got {name!r}") from error


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise RecipeError(f"{name}: expected TOML, got a fault: {error}") from error


def _apply(content: dict[str, Any], change: str) -> None:
    target, sign, text = change.partition("=")
    section, dot, key = target.strip().partition(".")
    if not (sign and dot and key):
        raise RecipeError(f"expected section.key=value, got {change!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    content.setdefault(section, {})[key] = value


def _statistics(config: EncoderConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = input_statistics(config.backbone)
    if config.in_chans == len(mean):
        return mean, std
    return (sum(mean) / len(mean),) * config.in_chans, (sum(std) / len(std),) * config.in_chans


def _section(name: str, kind: type, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise RecipeError(f"expected [{name}] to be a section, got {values!r}")
    blank = kind()
    _known(f"[{name}]", values, {option.name: option for option in dataclasses.fields(kind)})
    given = {key: _fitting(f"{name}.{key}", value, getattr(blank, key)) for key, value in values.items()}
    try:
        return kind(**given)
    except (EncoderError, TypeError, ArithmeticError) as error:  # a list of other things than it should hold
        raise RecipeError(f"[{name}]: {error}") from error


def _known(where: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise RecipeError(f"{where}: expected keys of {', '.join(known)}; got {', '.join(map(repr, unknown))}")


def _fitting(where: str, value: Any, default: Any) -> Any:
    """Return the value in the type of the option's default."""
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, Mapping) and isinstance(value, Mapping):
        return {key: tuple(part) if isinstance(part, list) else part for key, part in value.items()}
    if type(default) is float and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise RecipeError(f"{where}: expected {type(default).__name__}, got {value!r}")
    return value


def _as_toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_as_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    return json.dumps(value)
