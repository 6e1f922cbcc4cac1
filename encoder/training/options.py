"""The options of a training run that belong to no other module: targets, optimiser, schedule, length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from encoder.errors import RecipeError
from encoder.films.preprocess import MAX_SIZE

SCHEDULES = ("constant", "plateau", "cosine", "cosine_restarts")
MONITORS = ("loss", "auroc", "precision_at_5", "auroc_and_precision")


@dataclass(frozen=True)
class TargetOptions:
    """What is learned: findings that may occur together, or classes that exclude each other."""

    findings: tuple[str, ...] = ()
    """Columns of the studies' table; empty, with no classes either, means CheXpert's 14."""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Filter words of each class, e.g. {virus = ["Etiology=virus"]}."""
    uncertain: str = "ignore"
    blank: str = "zeros"
    per_label: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.findings and self.classes:
            raise RecipeError("expected [targets] with findings or with classes, got both; drop one")


@dataclass(frozen=True)
class OptimizerOptions:
    """How weights are updated."""

    kind: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    decay_backbone: bool = True
    """Whether weight decay (with adam: an L2 penalty) also reaches the backbone; off, it shrinks the layers above."""
    betas: tuple[float, ...] = (0.9, 0.999)
    backbone_lr_factor: float = 1.0
    """Learning rate of the backbone relative to the layers above it; below 1 for pretrained weights."""
    clip_norm: float = 1.0
    """Largest norm of a gradient; 0 does not clip."""
    accumulation: int = 1
    """Batches a step."""
    precision: str = "bf16"
    checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass: about half the memory, a third more time."""
    frozen_stages: int = 0
    """First stages of each backbone that stay as loaded; the stem counts as one."""
    unfreeze_epoch: int = 0
    """Epoch from which they learn too; 0 means never."""
    ema_decay: float = 0.0
    """Decay a step of a running average of the weights, which is then what is validated and kept; 0 keeps none."""

    def __post_init__(self) -> None:
        _one_of("optimizer.kind", self.kind, ("adam", "adamw"))
        _one_of("optimizer.precision", self.precision, ("bf16", "fp32"))
        _in_range("optimizer.lr", self.lr, 1e-9, 10)
        _in_range("optimizer.accumulation", self.accumulation, 1, 4096)
        _in_range("optimizer.ema_decay", self.ema_decay, 0, 0.99999)


@dataclass(frozen=True)
class ScheduleOptions:
    """How the learning rate changes over the epochs."""

    kind: str = "cosine"
    warmup_epochs: float = 0.5
    minimum: float = 0.01
    """Smallest learning rate relative to the first."""
    t_0: float = 5.0
    """Epochs until the first warm restart; the seed designs' value."""
    t_mult: float = 2.0
    """Each following period is this many times longer."""
    restart_factor: float = 1.0
    """Peak after a restart relative to the one before."""
    patience: int = 3
    """Epochs without a better figure before a plateau lowers the rate."""
    factor: float = 0.3
    """What a plateau multiplies the rate with."""
    first_size: int = 0
    """Side of the films in the first epoch, which grows to the input's by two thirds of a run (progressive learning of
    Tan and Le, "EfficientNetV2", ICML 2021): most of what is learnt costs half; 0 keeps the input's throughout."""

    def __post_init__(self) -> None:
        _one_of("schedule.kind", self.kind, SCHEDULES)
        _in_range("schedule.t_0", self.t_0, 0.01, 1e6)
        _in_range("schedule.t_mult", self.t_mult, 1, 100)
        if self.first_size:
            _in_range("schedule.first_size", self.first_size, 16, MAX_SIZE)


@dataclass(frozen=True)
class RunOptions:
    """How long, on what, from where."""

    epochs: int = 20
    batch_size: int = 32
    patience: int = 8
    """Epochs without a better figure before the run ends early."""
    monitor: str = "auroc"
    seed: int = 1
    valid_fraction: float = 0.1
    test_fraction: float = 0.2
    """Share of the patients that the run never sees; 0 learns from all."""
    folds: int = 0
    """Parts of a cross-validation, by patient and stratified; each is the test part of a run of its own; 0 has none."""
    weights: str = "imagenet"
    """Weights the backbones start from: imagenet, none, or a safetensors file."""
    max_minutes: float = 0.0
    """The run ends after the epoch in which this passes; 0 sets no limit."""

    def __post_init__(self) -> None:
        _one_of("run.monitor", self.monitor, MONITORS)
        _in_range("run.epochs", self.epochs, 1, 100_000)
        _in_range("run.batch_size", self.batch_size, 2, 65_536)
        _in_range("run.valid_fraction", self.valid_fraction, 0.01, 0.9)
        _in_range("run.test_fraction", self.test_fraction, 0.0, 0.9)
        if self.folds:
            _in_range("run.folds", self.folds, 2, 100)


def _one_of(where: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise RecipeError(f"{where}: expected {', '.join(known)}; got {value!r}")


def _in_range(where: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise RecipeError(f"{where}: expected {least:g} to {most:g}, got {value}")
