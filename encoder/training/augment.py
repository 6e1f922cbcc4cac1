"""Training films changed a little each time: small turns, shifts and exposures that a real chest could have had."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoder.errors import RecipeError


@dataclass(frozen=True)
class Augmentation:
    """How far a film may be changed; each range is symmetric and drawn evenly, a film at a time."""

    rotation: float = 8.0
    """Degrees either way: how far from straight a patient may stand."""
    shift: float = 0.05
    """Share of the side, either way."""
    scale: float = 0.1
    """Relative size either way: distance to the tube and build of the patient."""
    brightness: float = 0.1
    """Added, in units of [0, 1]: exposure."""
    contrast: float = 0.15
    """Relative to the film's mean, either way: tube voltage and processing."""
    horizontal_flip: float = 0.0
    """Chance of a mirrored film. Off: it puts the heart on the right, which is a finding (situs inversus)."""
    quarter_turns: bool = False
    """Turns by 0, 90, 180 or 270 degrees. Off: fluid levels and the diaphragm lose their meaning."""
    hide_lateral: float = 0.3
    """Chance that a study with both views is shown without its lateral, so that a missing one costs little."""
    hide_frontal: float = 0.1
    """Chance that such a study is shown without its frontal."""
    hide_position: float = 0.2
    """Chance that a network with a position input is not given a film's, so that an unknown one costs little."""
    erasing: float = 0.0
    """Chance that a square of a film is made black (Zhong et al., "Random Erasing", AAAI 2020), so that no finding is
    known by one place alone."""
    erasing_least: float = 0.18
    """Smallest side of that square, relative to the film's."""
    erasing_most: float = 0.54
    """Largest side of that square."""
    mix_up: float = 0.0
    """Both parameters of the beta distribution of the share with which each study is mixed with another one of its
    batch, films and losses alike (Zhang et al., "mixup", ICLR 2018); 0.2 to 0.4 is usual, 0 mixes nothing."""

    def __post_init__(self) -> None:
        if not 0 < self.erasing_least <= self.erasing_most <= 1:
            raise RecipeError(
                "expected erasing_least and erasing_most above 0, up to 1 and in that order, got "
                f"{self.erasing_least} and {self.erasing_most}"
            )
        if not 0 <= self.erasing <= 1 or not 0 <= self.mix_up <= 100:
            raise RecipeError(
                f"expected erasing in [0, 1] and mix_up in [0, 100], got {self.erasing} and {self.mix_up}"
            )


def draw(count: int, options: Augmentation, generator: torch.Generator) -> Tensor:
    """Return the random numbers that `augment` needs for so many films: (M, 8), with erasing (M, 12), in [-1, 1).

    Args:
        generator: the only source of chance, on the CPU; the same state gives the same films.
    """
    draws = [torch.rand(count, 8, generator=generator)]
    if options.erasing:
        draws.append(torch.rand(count, 4, generator=generator))
    return torch.cat(draws, dim=1) * 2 - 1


def augment(films: Tensor, options: Augmentation, draws: Tensor, side: int | None = None) -> Tensor:
    """Return changed films (M, 1, s, s) in [0, 1]; what moves in from outside is black.

    Args:
        films: (M, 1, S, S) float in [0, 1].
        draws: as `draw` gives them, on the device of the films.
        side: s, at most S; None is S.
    """
    side = side or films.shape[2]
    maps = _affine_maps(draws, options)
    grid = functional.affine_grid(maps, [len(films), 1, side, side], align_corners=False)
    moved = functional.grid_sample(films, grid.to(films.dtype), align_corners=False)
    gain = (1 + options.contrast * draws[:, 4])[:, None, None, None]
    offset = (options.brightness * draws[:, 5])[:, None, None, None]
    mean = moved.mean(dim=(2, 3), keepdim=True)
    changed = ((moved - mean) * gain + mean + offset).clamp(0, 1)
    return changed * ~_erased(draws, options, side) if options.erasing else changed


def _erased(draws: Tensor, options: Augmentation, side: int) -> Tensor:
    """Return (M, 1, S, S), true inside the square that is erased; it lies within the film."""
    chances, sizes, tops, lefts = ((draws[:, 8:].T + 1) / 2)[:, :, None]
    length = options.erasing_least + sizes * (options.erasing_most - options.erasing_least)
    middles = (torch.arange(side, device=draws.device) + 0.5) / side  # of pixels, in [0, 1]
    rows, columns = (
        (middles >= (1 - length) * start) & (middles < (1 - length) * start + length) for start in (tops, lefts)
    )
    return ((chances < options.erasing)[..., None] & rows[:, :, None] & columns[:, None, :])[:, None]


def mix_share(options: Augmentation, generator: torch.Generator) -> float:
    """Return the share in [0, 1] that each study of a batch keeps of itself; the rest is its partner's."""
    if not options.mix_up:
        return 1.0
    seed = int(torch.randint(2**31, (), generator=generator))
    return float(np.random.default_rng(seed).beta(options.mix_up, options.mix_up))


def _affine_maps(draws: Tensor, options: Augmentation) -> Tensor:
    """Return (M, 2, 3) maps from the new film's coordinates to the old one's, both in [-1, 1]."""
    angle = draws[:, 0] * math.radians(options.rotation)
    if options.quarter_turns:
        angle = angle + torch.floor((draws[:, 7] + 1) * 2) * (math.pi / 2)
    size = 1 + options.scale * draws[:, 1]
    mirror = torch.where((draws[:, 6] + 1) / 2 < options.horizontal_flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    first = torch.stack([cos * mirror, -sin, 2 * options.shift * draws[:, 2]], dim=1)
    second = torch.stack([sin * mirror, cos, 2 * options.shift * draws[:, 3]], dim=1)
    return torch.stack([first, second], dim=1)


def hide_views(
    frontal: Tensor, lateral: Tensor, options: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the film rows (B,) of both views with some views hidden: the other one stands in, as when missing.

    A study that has one film anyway, with equal rows, stays as it is.
    """
    draws = torch.rand(len(frontal), generator=generator).to(frontal.device)
    no_lateral = draws < options.hide_lateral
    no_frontal = draws > 1 - options.hide_frontal
    return torch.where(no_frontal, lateral, frontal), torch.where(no_lateral, frontal, lateral)


def hide_positions(positions: Tensor, options: Augmentation, generator: torch.Generator) -> Tensor:
    """Return the position codes (M,) of films with some set to 0, unknown."""
    hidden = torch.rand(len(positions), generator=generator).to(positions.device) < options.hide_position
    return positions.masked_fill(hidden, 0)
