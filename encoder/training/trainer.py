"""Training an encoder: epochs of batches, a figure on held-out patients, the best encoder kept."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.network.backbone import load_backbone_weights
from encoder.network.model import StudyEncoder
from encoder.network.single import build_encoder, require_side
from encoder.runtime.fixed_batches import moved
from encoder.runtime.normalize import Normalizer
from encoder.training.augment import augment, draw, hide_positions, hide_views, mix_share
from encoder.training.classifier import Classifier, build_classification_model
from encoder.training.depthwise import speed_up_depthwise
from encoder.training.film_store import FilmStore, Rows, TrainingStudies
from encoder.training.losses import class_loss, label_weights, multilabel_loss, prefix_contrastive_loss
from encoder.training.optimizer import (
    build_optimizer,
    freeze_stages,
    held_statistics,
    rate_factor,
    running_average,
    set_rate,
    side_of,
)
from encoder.training.processes import Processes
from encoder.training.recipe import Recipe
from encoder.training.validation import figures_of, monitored

OnStep = Callable[[int, int], None]
"""Batches done, batches of the epoch."""
REST = {"cpu": 1, "cuda": 20}
"""Steps of the optimizer after which a run's losses are read: a GPU is waited for then, and at no other step."""


@dataclass(frozen=True)
class Batch:
    """What one batch is made of, known before the epoch's first."""

    rows: Rows
    """(B,) studies, of all processes."""
    part: slice
    """Which of them are this process's."""
    films: Rows
    """(m,) ascending, films that the part needs; with mix-up those of its partners too."""


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

    def __init__(
        self,
        recipe: Recipe,
        films: FilmStore,
        studies: TrainingStudies,
        *,
        device: str = "cpu",
        processes: Processes | None = None,
        workers: int = 0,
        rest: int | None = None,
    ) -> None:
        """Build the network and what moves it.

        Args:
            processes: that share the run, each with a trainer like this one; None is this one alone.
            workers: processes that read batches ahead, of films that fit neither the memory nor the device.
            rest: steps of the optimizer between two rests, at which a run may be saved; None is REST of the device.
        """
        self.recipe, self.films, self.studies = recipe, films, studies
        self.device = torch.device(device)
        self.processes = processes or Processes()
        self._workers, self._rest_steps = workers, rest or REST.get(self.device.type, 1)
        self.network = _build_network(recipe, studies, self.device, self.processes)
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

    def epoch(self, on_step: OnStep | None = None, on_rest: OnStep | None = None) -> bool:
        """Do one epoch, or what is left of it, and return whether its figure is the best so far.

        `progress.history` gets its row. Chance in it comes from the recipe's seed and the epoch's number alone, so a
        resumed run repeats it.

        Args:
            on_rest: called every few steps of the optimizer, when the run may be saved to resume from there.
        """
        self._started = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            seed = self.recipe.run.seed * 1_000_003 + self.progress.epoch
            torch.manual_seed(seed)
            self._seed_layers(0)
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
        """Load another encoder's weights, for `embed`; training cannot be continued afterwards."""
        self.average = None
        self.network.encoder.load_state_dict(encoder.state_dict())

    def embed(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, D) and logits (B, C) of studies, without augmentation, as validated."""
        network = self.validated.eval()
        parts: list[tuple[Tensor, Tensor]] = []
        shared = len(rows) >= self.processes.count
        own = rows[self.processes.part(len(rows))] if shared else rows
        size = self.recipe.run.batch_size
        views = [self.studies.views(own[start : start + size]) for start in range(0, len(own), size)]
        wanted = [np.unique(np.concatenate(both)) for both in views]
        self.films.place(self.device)
        with torch.inference_mode():
            for both, films, planes in zip(views, wanted, self._planes_of(wanted), strict=True):
                frontal, lateral = (self._moved(np.searchsorted(films, view)) for view in both)
                seen = self._normalize(planes.float() / 255)
                with self._precision():
                    embeddings = network.encoder.forward_rows(
                        seen, frontal, lateral, self._moved(self._positions_of(films))
                    )
                parts.append((embeddings, network.logits(embeddings)))
            embedded, logits = (torch.cat(part) for part in zip(*parts, strict=True))
            if shared:
                embedded, logits = (self.processes.gathered(part, len(rows)) for part in (embedded, logits))
        return embedded.cpu(), logits.cpu()

    def _learn(self, generator: torch.Generator, on_step: OnStep | None, on_rest: OnStep | None) -> dict[str, float]:
        self._set_mode()
        self.optimizer.zero_grad(set_to_none=True)
        batches = list(self._batches(generator))
        accumulation = self.recipe.optimizer.accumulation
        first = self.progress.batches
        sums = torch.tensor(self.progress.sums, dtype=torch.float64, device=self.device)
        if first:
            self._set_chance(generator)
        self.films.place(self.device)
        planes = self._planes_of([batch.films for batch in batches[first:]])
        held = held_statistics if self.recipe.optimizer.checkpointing else nullcontext  # it runs a batch twice
        for step, (batch, films) in enumerate(zip(batches[first:], planes, strict=True), start=first):
            set_rate(self.optimizer, self._rate_factor(step, len(batches)))
            terms = self._loss(batch, films, generator)
            in_step = min(accumulation, len(batches) - step // accumulation * accumulation)
            with held(self.network):
                (terms[0] / in_step).backward()
            sums += torch.stack(terms).detach()
            done = step + 1
            last = done == len(batches)
            if done % accumulation == 0 or last:
                self._step()
            if on_step is not None:
                on_step(done, len(batches))
            if done % (accumulation * self._rest_steps) == 0 or last:
                self._rest(done, sums, generator)
                if on_rest is not None:
                    on_rest(done, len(batches))
        mean = dict(zip(("loss", "label_loss", "neighbour_loss"), (sums / len(batches)).tolist(), strict=True))
        factor = self._rate_factor(len(batches) - 1, len(batches))
        return {**mean, "lr": self.optimizer.param_groups[0]["base_lr"] * factor}

    def _rate_factor(self, step: int, steps: int) -> float:
        """Return the learning rate of a batch of this epoch, relative to the first."""
        moment = self.progress.epoch + step / steps
        return rate_factor(self.recipe.schedule, moment, self.recipe.run.epochs) * self.progress.reduction

    def _side(self) -> int:
        """Return the side of this epoch's films."""
        recipe = self.recipe
        return side_of(recipe.schedule, recipe.preprocessing.size, self.progress.epoch, recipe.run.epochs)

    def _rest(self, batches: int, sums: Tensor, generator: torch.Generator) -> None:
        """Note how far the run has come; every gradient has been applied here."""
        self.progress.batches, self.progress.sums = batches, sums.tolist()
        self.chance = {"films": generator.get_state(), "layers": torch.get_rng_state()}
        if self.device.type == "cuda":
            self.chance["cuda"] = torch.cuda.get_rng_state(self.device)
        self._seed_layers(batches)
        self._count_seconds()

    def _set_chance(self, generator: torch.Generator) -> None:
        generator.set_state(self.chance["films"])
        torch.set_rng_state(self.chance["layers"])
        if self.device.type == "cuda" and "cuda" in self.chance:
            torch.cuda.set_rng_state(self.chance["cuda"], self.device)
        self._seed_layers(self.progress.batches)

    def _seed_layers(self, batches: int) -> None:
        """Give dropout in every process but the first, whose chance is what is saved, a chance of its own."""
        if not self.processes.first:
            of_epoch = self.recipe.run.seed * 1_000_003 + self.progress.epoch
            torch.manual_seed((of_epoch * 1_000_003 + batches) * 1_009 + self.processes.rank)

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.progress.seconds = self.processes.agreed(self.progress.seconds + now - self._started)
        self._started = now

    def _loss(self, batch: Batch, films: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a whole batch and its two terms, given this process's films (m, 1, S, S) of it.

        Chance is drawn for the batch as a whole, so that it is the same however many processes share it.
        """
        options, loss = self.recipe.augmentation, self.recipe.loss
        views = self.studies.views(batch.rows)
        every = np.unique(np.concatenate(views))
        own = np.searchsorted(every, batch.films)
        draws = draw(len(every), options, generator)[own]
        frontal, lateral = hide_views(torch.from_numpy(views[0]), torch.from_numpy(views[1]), options, generator)
        positions = torch.from_numpy(self._positions_of(every))
        if self.recipe.encoder.position_input:
            positions = hide_positions(positions, options, generator)
        kept = mix_share(options, generator)
        planes = augment(films.float() / 255, options, moved(draws, self.device), self._side())
        seen = [np.searchsorted(batch.films, view.numpy()[batch.part]) for view in (frontal, lateral)]
        codes = positions[own].numpy()
        if options.mix_up:
            partners = [np.roll(view.numpy(), 1)[batch.part] for view in (frontal, lateral)]
            pairs = np.stack([np.concatenate(seen), np.searchsorted(batch.films, np.concatenate(partners))])
            (first, second), mixed = np.unique(pairs, axis=1, return_inverse=True)
            seen, codes = np.split(mixed.reshape(-1), 2), codes[first]
            planes = torch.lerp(planes[self._moved(second)], planes[self._moved(first)], kept)
        with self._precision():
            embeddings, of_views = self.network.learn_rows(
                self._normalize(planes),
                self._moved(seen[0]),
                self._moved(seen[1]),
                self._moved(codes),
                apart=self.progress.epoch < loss.head_start,
            )
        embeddings, *of_both = self._gathered([embeddings, *of_views], len(batch.rows))
        logits, of_views = self.network.logits(embeddings), torch.cat(of_both)
        targets = self.studies.targets[batch.rows]
        terms = self._terms(embeddings, logits, of_views, self._moved(targets))
        if options.mix_up:
            others = self._terms(embeddings, logits, of_views, self._moved(np.roll(targets, 1, axis=0)))
            terms = [torch.lerp(other, term, kept) for term, other in zip(terms, others, strict=True)]
        label, of_view, neighbour = terms
        return loss.bce * label + loss.per_view * of_view + loss.contrastive * neighbour, label, neighbour

    def _terms(self, embeddings: Tensor, logits: Tensor, of_views: Tensor, targets: Tensor) -> list[Tensor]:
        """Return the losses of the labels, of the labels by each view (2B, C) alone, and of the neighbours."""
        options = self.recipe.loss
        return [
            self._label_loss(logits, targets, options.label_smoothing),
            self._label_loss(of_views, targets.repeat(2, 1), options.label_smoothing),
            prefix_contrastive_loss(embeddings, targets, options.temperature, options.prefixes),
        ]

    def _gathered(self, parts: list[Tensor], length: int) -> list[Tensor]:
        """Return rows of all processes, given this one's; what is sent is sent at once."""
        if self.processes.count == 1:
            return parts
        widths = [part.shape[1] for part in parts]
        whole = self.processes.gathered(torch.cat([part.float() for part in parts], dim=1), length)
        return list(whole.split(widths, dim=1))

    def _label_loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        of_labels = class_loss if self.studies.exclusive else multilabel_loss
        return of_labels(logits, targets, self._weights.to(logits.device), smoothing)

    def _planes_of(self, wanted: list[Rows]) -> Iterator[Tensor]:
        return self.films.batches(wanted, self.device, self._workers)

    def _positions_of(self, films: Rows) -> Rows:
        """Return the position codes (M,) of films."""
        known = self.studies.positions
        return np.zeros_like(films) if known is None else known[films]

    def _moved(self, values: npt.NDArray[Any]) -> Tensor:
        return moved(torch.from_numpy(values), self.device)

    def _precision(self) -> torch.autocast:
        bf16 = self.recipe.optimizer.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def _batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield the shuffled training studies; a last batch of one, or of fewer than the processes, is left out.

        Batch statistics need two. With mix-up, each study's partner is the one before it.
        """
        order = torch.randperm(len(self.studies.train), generator=generator).numpy()
        for start in range(0, len(order), self.recipe.run.batch_size):
            rows = self.studies.train[order[start : start + self.recipe.run.batch_size]]
            if len(rows) < max(2, self.processes.count):
                continue
            part = self.processes.part(len(rows))
            views = [*self.studies.views(rows[part])]
            if self.recipe.augmentation.mix_up:
                views += self.studies.views(np.roll(rows, 1)[part])
            yield Batch(rows, part, np.unique(np.concatenate(views)))

    def _step(self) -> None:
        self.processes.average_gradients(self.network)
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


def _build_network(recipe: Recipe, studies: TrainingStudies, device: torch.device, processes: Processes) -> Classifier:
    size, epochs = recipe.preprocessing.size, recipe.run.epochs
    for side in {side_of(recipe.schedule, size, epoch, epochs) for epoch in range(epochs)}:
        require_side(recipe.encoder, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        encoder = build_encoder(recipe.encoder)
        network = build_classification_model(encoder, len(studies.target_names))
    for backbone in encoder.backbones:
        load_backbone_weights(backbone, recipe.encoder.backbone, recipe.run.weights, in_chans=recipe.encoder.in_chans)
        if recipe.optimizer.checkpointing:
            backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    if device.type == "cpu":  # a GPU's own gradients are quick
        speed_up_depthwise(network)
    laid_out = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return cast(Classifier, processes.share_statistics(laid_out))
