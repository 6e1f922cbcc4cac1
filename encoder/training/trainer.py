"""Training an encoder: epochs of batches, a figure on held-out patients, the best encoder kept."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.network.backbone import load_backbone_weights
from encoder.network.model import StudyEncoder
from encoder.network.single import build_encoder, require_side
from encoder.training.augment import augment, hide_positions, hide_views
from encoder.training.classifier import Classifier, build_classification_model
from encoder.training.depthwise import speed_up_depthwise
from encoder.training.film_store import FilmStore, Normalizer, TrainingStudies
from encoder.training.losses import class_loss, label_weights, multilabel_loss, prefix_contrastive_loss
from encoder.training.optimizer import (
    build_optimizer,
    freeze_stages,
    held_statistics,
    rate_factor,
    running_average,
    set_rate,
)
from encoder.training.recipe import Recipe
from encoder.training.validation import figures_of, monitored

Rows = npt.NDArray[np.int64]
OnStep = Callable[[int, int, float], None]
"""Steps done, steps of the epoch, mean loss so far."""
OnRest = Callable[[int, int], None]
"""Batches done, batches of the epoch."""


@dataclass
class Progress:
    """How far a run has come; all of it is numbers, so that it can be saved as JSON."""

    epoch: int = 0
    """Epochs done."""
    batches: int = 0
    """Batches done of the epoch after those, up to a step of the optimizer."""
    sums: list[float] = field(default_factory=lambda: [0.0] * 3)
    """Of the three losses over those batches."""
    best: float = -np.inf
    best_epoch: int = 0
    since_better: int = 0
    since_reduced: int = 0
    reduction: float = 1.0
    """What plateaus have multiplied the learning rate with."""
    seconds: float = 0.0
    """Spent on all of that."""
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One training run in memory: `epoch` does one, `finished` says whether another is due."""

    def __init__(self, recipe: Recipe, films: FilmStore, studies: TrainingStudies, *, device: str = "cpu") -> None:
        self.recipe, self.films, self.studies = recipe, films, studies
        self.device = torch.device(device)
        self.network = _build_network(recipe, studies).to(self.device)
        self.optimizer = build_optimizer(self.network, recipe.optimizer)
        decay = recipe.optimizer.ema_decay
        self.average = running_average(self.network, decay) if decay else None
        self.average_steps = 0
        """Steps of the optimizer that the running average has seen."""
        self.progress = Progress()
        self.chance: dict[str, Tensor] = {}
        """States of the random generators at the point that a run within an epoch has reached."""
        self._normalize = Normalizer(recipe.preprocessing, self.device)
        weights = label_weights(
            torch.from_numpy(studies.targets[studies.train]),
            recipe.loss.class_weights,
            exclusive=studies.exclusive,
        )
        self._weights = weights.to(self.device)
        self._started = time.monotonic()

    @property
    def validated(self) -> Classifier:
        """The network that is validated and kept: the running average where there is one."""
        averaged: Classifier = self.network if self.average is None else self.average.module
        return averaged

    @property
    def finished(self) -> bool:
        """Whether the run has reached its epochs, its patience or its minutes."""
        run, progress = self.recipe.run, self.progress
        late = 0 < run.max_minutes * 60 <= progress.seconds
        return progress.epoch >= run.epochs or progress.since_better >= run.patience or late

    def epoch(self, on_step: OnStep | None = None, on_rest: OnRest | None = None) -> bool:
        """Do one epoch, or what is left of it, and return whether its figure is the best so far.

        `progress.history` gets its row. Chance in it comes from the recipe's seed and the epoch's number alone, so a
        resumed run repeats it.

        Args:
            on_rest: called after each step of the optimizer, when the run may be saved to resume from there.
        """
        self._started = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            seed = self.recipe.run.seed * 1_000_003 + self.progress.epoch
            torch.manual_seed(seed)
            losses = self._learn(torch.Generator().manual_seed(seed), on_step, on_rest)
        figures = self._validate()
        better = self._judge(figures)
        self._count_seconds()
        self.progress.history.append(
            {"epoch": self.progress.epoch, **losses, **figures, "seconds": self.progress.seconds}
        )
        return better

    def encoder_state(self) -> dict[str, Tensor]:
        """Return the state dict of the encoder as it is validated: the running average where there is one."""
        return self.validated.encoder.state_dict()

    def head_state(self) -> dict[str, Tensor]:
        """Return the head's weight, bias and scale as they are validated."""
        return {**self.validated.head.state_dict(), "scale": self.validated.scale.detach()}

    def take(self, encoder: StudyEncoder) -> None:
        """Replace the trained weights by another encoder's, for `embed`; training cannot go on afterwards."""
        self.average = None
        self.network.encoder.load_state_dict(encoder.state_dict())

    def embed(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, D) and logits (B, C) of studies, without augmentation, as validated."""
        network = self.validated.eval()
        parts: list[tuple[Tensor, Tensor]] = []
        with torch.inference_mode():
            for start in range(0, len(rows), self.recipe.run.batch_size):
                planes, *seen = self._films(rows[start : start + self.recipe.run.batch_size])
                with self._precision():
                    embeddings = network.encoder.forward_rows(self._normalize(planes), *seen)
                parts.append((embeddings.cpu(), network.logits(embeddings).cpu()))
        embedded, logits = zip(*parts, strict=True)
        return torch.cat(embedded), torch.cat(logits)

    def _learn(self, generator: torch.Generator, on_step: OnStep | None, on_rest: OnRest | None) -> dict[str, float]:
        self._set_mode()
        self.optimizer.zero_grad(set_to_none=True)
        batches = list(self._batches(generator))
        accumulation = self.recipe.optimizer.accumulation
        first, sums = self.progress.batches, np.array(self.progress.sums)
        if first:
            self._set_chance(generator)
        for step, rows in enumerate(batches[first:], start=first):
            set_rate(self.optimizer, self._rate_factor(step, len(batches)))
            terms = self._loss(rows, generator)
            in_step = min(accumulation, len(batches) - step // accumulation * accumulation)
            with held_statistics(self.network):  # checkpointing runs the batch a second time here
                (terms[0] / in_step).backward()
            sums += [float(term.detach()) for term in terms]
            if rests := (step + 1) % accumulation == 0 or step + 1 == len(batches):
                self._step()
                self._rest(step + 1, sums, generator)
            if on_step is not None:
                on_step(step + 1, len(batches), sums[0] / (step + 1))
            if rests and on_rest is not None:
                on_rest(step + 1, len(batches))
        mean = dict(zip(("loss", "label_loss", "neighbour_loss"), (sums / len(batches)).tolist(), strict=True))
        last = self._rate_factor(len(batches) - 1, len(batches))
        return {**mean, "lr": self.optimizer.param_groups[0]["base_lr"] * last}

    def _rate_factor(self, step: int, steps: int) -> float:
        """Return the learning rate of a batch of this epoch, relative to the first."""
        moment = self.progress.epoch + step / steps
        return rate_factor(self.recipe.schedule, moment, self.recipe.run.epochs) * self.progress.reduction

    def _rest(self, batches: int, sums: npt.NDArray[np.float64], generator: torch.Generator) -> None:
        """Note how far the run has come; every gradient has been applied here."""
        self.progress.batches, self.progress.sums = batches, sums.tolist()
        self.chance = {"films": generator.get_state(), "layers": torch.get_rng_state()}
        if self.device.type == "cuda":
            self.chance["cuda"] = torch.cuda.get_rng_state(self.device)
        self._count_seconds()

    def _set_chance(self, generator: torch.Generator) -> None:
        generator.set_state(self.chance["films"])
        torch.set_rng_state(self.chance["layers"])
        if self.device.type == "cuda" and "cuda" in self.chance:
            torch.cuda.set_rng_state(self.chance["cuda"], self.device)

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self._started
        self._started = now

    def _loss(self, rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        planes, frontal, lateral, positions = self._films(rows)
        planes = augment(planes, self.recipe.augmentation, generator)
        frontal, lateral = hide_views(frontal, lateral, self.recipe.augmentation, generator)
        if self.recipe.encoder.position_input:
            positions = hide_positions(positions, self.recipe.augmentation, generator)
        options = self.recipe.loss
        apart = self.progress.epoch < options.head_start
        with self._precision():
            films = self._normalize(planes)
            embeddings, of_views = self.network.learn_rows(films, frontal, lateral, positions, apart=apart)
        targets = torch.from_numpy(self.studies.targets[rows]).to(self.device)
        label = self._label_loss(self.network.logits(embeddings), targets, options.label_smoothing)
        of_view = self._label_loss(of_views.flatten(0, 1), targets.repeat(2, 1), options.label_smoothing)
        neighbour = prefix_contrastive_loss(embeddings, targets, options.temperature, options.prefixes)
        total = options.bce * label + options.per_view * of_view + options.contrastive * neighbour
        return total, label, neighbour

    def _label_loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        of_labels = class_loss if self.studies.exclusive else multilabel_loss
        return of_labels(logits, targets, self._weights.to(logits.device), smoothing)

    def _films(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the distinct films (M, 1, S, S) of studies, the rows (B,) of each view among them, and the films'
        position codes (M,)."""
        distinct, film_rows = np.unique(np.concatenate(self.studies.views(rows)), return_inverse=True)
        frontal, lateral = torch.from_numpy(film_rows).view(2, -1).to(self.device)
        known = self.studies.positions
        positions = torch.from_numpy(np.zeros_like(distinct) if known is None else known[distinct])
        return self.films.batch(distinct).to(self.device), frontal, lateral, positions.to(self.device)

    def _precision(self) -> torch.autocast:
        bf16 = self.recipe.optimizer.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def _batches(self, generator: torch.Generator) -> Iterator[Rows]:
        """Yield shuffled training rows; a last batch of one is left out, because batch statistics need two."""
        order = torch.randperm(len(self.studies.train), generator=generator).numpy()
        for start in range(0, len(order), self.recipe.run.batch_size):
            part = order[start : start + self.recipe.run.batch_size]
            if len(part) >= 2:
                yield self.studies.train[part]

    def _step(self) -> None:
        if self.recipe.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average_steps += 1
            self.average.update(self.network, self.average_steps)

    def _set_mode(self) -> None:
        """Put the network into training mode, except for its frozen stages, whose batch statistics stay as they are."""
        options = self.recipe.optimizer
        thawed = 0 < options.unfreeze_epoch <= self.progress.epoch
        self.network.train()
        for backbone in self.network.encoder.backbones:
            for module in freeze_stages(backbone, 0 if thawed else options.frozen_stages):
                module.eval()

    def _validate(self) -> dict[str, float]:
        rows = self.studies.valid
        embeddings, logits = self.embed(rows)
        loss = float(self._label_loss(logits, torch.from_numpy(self.studies.targets[rows])))
        figures = figures_of(
            embeddings.numpy(),
            logits.softmax(1).numpy() if self.studies.exclusive else logits.sigmoid().numpy(),
            self.studies.targets[rows],
            self.studies.patients[rows],
        )
        return {"valid_loss": loss, **{f"valid_{name}": value for name, value in figures.items()}}

    def _judge(self, figures: dict[str, float]) -> bool:
        """Count the epoch, remember the best one, and reduce the learning rate on a plateau."""
        progress, schedule = self.progress, self.recipe.schedule
        progress.epoch += 1
        progress.batches, progress.sums, self.chance = 0, [0.0] * 3, {}
        figure = monitored(figures, self.recipe.run.monitor)
        if figure > progress.best:
            progress.best, progress.best_epoch = figure, progress.epoch
            progress.since_better = progress.since_reduced = 0
            return True
        progress.since_better += 1
        progress.since_reduced += 1
        if schedule.kind == "plateau" and progress.since_reduced >= schedule.patience:
            progress.reduction = max(progress.reduction * schedule.factor, schedule.minimum)
            progress.since_reduced = 0
        return False


def _build_network(recipe: Recipe, studies: TrainingStudies) -> Classifier:
    require_side(recipe.encoder, recipe.preprocessing.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        encoder = build_encoder(recipe.encoder)
        network = build_classification_model(encoder, len(studies.target_names))
    for backbone in encoder.backbones:
        load_backbone_weights(backbone, recipe.encoder.backbone, recipe.run.weights, in_chans=recipe.encoder.in_chans)
        if recipe.optimizer.checkpointing:
            backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    speed_up_depthwise(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
