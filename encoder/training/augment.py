"""Training films changed a little each time: small turns, shifts and exposures that a real chest could have had."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


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


def augment(films: Tensor, options: Augmentation, generator: torch.Generator) -> Tensor:
    """Return changed films (M, 1, S, S) in [0, 1]; what moves in from outside is black.

    Args:
        films: (M, 1, S, S) float in [0, 1].
        generator: the only source of chance, on the CPU; the same state gives the same films.
    """
    draws = torch.rand(len(films), 8, generator=generator).to(films.device) * 2 - 1  # (M, 8) in [-1, 1)
    maps = _affine_maps(draws, options)
    grid = functional.affine_grid(maps, list(films.shape), align_corners=False)
    moved = functional.grid_sample(films, grid.to(films.dtype), align_corners=False)
    gain = (1 + options.contrast * draws[:, 4])[:, None, None, None]
    offset = (options.brightness * draws[:, 5])[:, None, None, None]
    mean = moved.mean(dim=(2, 3), keepdim=True)
    return ((moved - mean) * gain + mean + offset).clamp(0, 1)


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
