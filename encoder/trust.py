"""How far a map can be believed: what the number does when the hot area is blurred, and when only it is sharp.

Knows a film, a map and a way to get numbers; it must not know encoders.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

STEPS = 8
_BLUR = 0.1
"""Standard deviation of the blur, relative to the film's side: no finding survives it."""
_GRID = 7
"""Cells a side of the random map: about as coarse as a class activation map."""
_RANDOM_MAPS = 2
_SEED = 0
_LEAST_FALL = 1e-3
"""A number that moves less than this from the sharp to the blurred film has nothing to explain."""
Map = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trust:
    """Areas under the two curves, for the map and for a random one; 1 is the whole film's number, 0 the blurred one's.

    Deletion blurs the hottest share first: lower is better. Insertion sharpens it first in a blurred film: higher is
    better. A map is worth looking at when both beat the random map's clearly. None where blurring the whole film
    changes nothing.
    """

    deletion: float | None
    insertion: float | None
    random_deletion: float | None
    random_insertion: float | None


def trust_of(film: Map, heat: Map, values: Callable[[Sequence[Map]], Values]) -> Trust:
    """Return deletion and insertion scores (Petsiuk et al., "RISE", BMVC 2018), with blur in the place of black.

    The number at each of eight shares of the area is taken as (v - v_blurred) / (v_sharp - v_blurred), cut to [-1, 2],
    and averaged.

    Args:
        film: (C, S, S) as the network takes it.
        heat: (S, S) in [0, 1].
        values: the number for each of several films of that shape.
    """
    blurred = np.stack([cv2.GaussianBlur(channel, (0, 0), _BLUR * film.shape[-1]) for channel in film])
    maps = [heat, *_random_maps(film.shape[-1])]
    changed = [film, blurred]
    for one in maps:
        for share in _shares():
            hot = _hottest(one, share)
            changed += [np.where(hot, blurred, film), np.where(hot, film, blurred)]
    found = values(changed)
    fall = found[0] - found[1]
    if abs(fall) < _LEAST_FALL:
        return Trust(None, None, None, None)
    scores = np.clip((found[2:] - found[1]) / fall, -1, 2).reshape(len(maps), STEPS, 2).mean(axis=1)
    random = scores[1:].mean(axis=0)
    return Trust(float(scores[0, 0]), float(scores[0, 1]), float(random[0]), float(random[1]))


def _shares() -> Values:
    return (np.arange(STEPS) + 0.5) / STEPS


def _hottest(heat: Map, share: float) -> npt.NDArray[np.bool_]:
    """Return the hottest share of the map's pixels, (S, S); equal heat is taken in reading order."""
    order = np.argsort(-heat, axis=None, kind="stable")
    hot = np.zeros(heat.size, dtype=bool)
    hot[order[: round(share * heat.size)]] = True
    return hot.reshape(heat.shape)


def _random_maps(side: int) -> list[Map]:
    rng = np.random.default_rng(_SEED)
    grids = rng.random((_RANDOM_MAPS, _GRID, _GRID)).astype(np.float32)
    return [np.asarray(cv2.resize(grid, (side, side), interpolation=cv2.INTER_LINEAR), np.float32) for grid in grids]
