"""How far a heat map can be trusted: how the score changes if its hottest area is blurred, or alone kept sharp."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.films.study import Normalized, Positions
from encoder.maps.cam import Heat, branch_views
from encoder.maps.passes import PASS
from encoder.network.model import StudyEncoder

STEPS = 8
_BLUR = 0.1
"""Standard deviation of the blur, relative to the film's side: small findings go, a large opacity stays in part."""
_GRID = 7
"""Cells a side of the random map: about as coarse as a class activation map."""
_BATCH = 8
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trust:
    """The number, averaged while more and more of one film is blurred, for the map and for a random one.

    The number is a probability in [0, 1] or a cosine in [-1, 1]. Deletion blurs the hottest share of the film: lower is
    better. Insertion leaves only it sharp: higher is better. A map is worth looking at when both beat the random map's.
    """

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float


def trust_of(film: Normalized, heat: Heat, values: Callable[[Sequence[Normalized]], Values]) -> Trust:
    """Return deletion and insertion scores (Petsiuk et al., "RISE", BMVC 2018), with blur in the place of black.

    Each is the area under the curve of the number over the share of the film that is changed, from eight shares.

    Args:
        film: (C, S, S) as the network takes it.
        heat: (S, S) in [0, 1].
        values: the number for each of several films of that shape.
    """
    blurred = np.stack([cv2.GaussianBlur(channel, (0, 0), _BLUR * film.shape[-1]) for channel in film])
    scores: list[float] = []
    for ranking in (heat, _random_map(film)):
        hot = [_hottest(ranking, share) for share in _shares()]
        changed = [np.where(where, blurred, film) for where in hot] + [np.where(where, film, blurred) for where in hot]
        scores += values(changed).reshape(2, STEPS).mean(axis=1).tolist()
    return Trust(*scores)


class ChangedFilm:
    """Gives the numbers of a study while one film changes; the other film passes its backbone once."""

    def __init__(
        self,
        encoder: StudyEncoder,
        films: Mapping[str, Tensor],
        view: str,
        number: Callable[[Tensor], Tensor],
        positions: Positions = (0, 0),
    ) -> None:
        self._encoder, self._number, self._device = encoder, number, films[view].device
        self._positions = positions
        views = branch_views(films)
        self._same_branches = views[0] == views[1] and encoder.backbone_of(0) is encoder.backbone_of(1)
        with torch.inference_mode():
            self._fixed = {
                branch: encoder.forward_features(films[other], branch)
                for branch, other in enumerate(views)
                if other != view
            }

    @torch.inference_mode()
    def __call__(self, versions: Sequence[Normalized]) -> Values:
        """Return the numbers (B,) with each version (C, S, S) in the film's place."""
        batches = [versions[start : start + _BATCH] for start in range(0, len(versions), _BATCH)]
        return np.concatenate([self._numbers(np.stack(batch)) for batch in batches])

    def _numbers(self, versions: Normalized) -> Values:
        PASS.get()()
        stack = torch.from_numpy(versions).to(self._device)
        frontal = self._map(stack, 0)
        lateral = frontal if self._same_branches else self._map(stack, 1)
        return self._number(self._encoder.forward_head(frontal, lateral, self._positions)).double().cpu().numpy()

    def _map(self, stack: Tensor, branch: int) -> Tensor:
        if branch in self._fixed:
            fixed = self._fixed[branch]
            return fixed.expand(len(stack), *fixed.shape[1:])
        return self._encoder.forward_features(stack, branch)


def _shares() -> Values:
    """Return the middles of equal parts of [0, 1], whose mean is the midpoint rule."""
    return (np.arange(STEPS) + 0.5) / STEPS


def _hottest(heat: Heat, share: float) -> npt.NDArray[np.bool_]:
    """Return the hottest share of the map's pixels, (S, S); equal heat is taken in reading order."""
    order = np.argsort(-heat, axis=None, kind="stable")
    hot = np.zeros(heat.size, dtype=bool)
    hot[order[: round(share * heat.size)]] = True
    return hot.reshape(heat.shape)


def _random_map(film: Normalized) -> Heat:
    """Return a map (S, S) that is always the same for a film, and another for the next film."""
    rng = np.random.default_rng(zlib.crc32(film.tobytes()))
    grid = rng.random((_GRID, _GRID)).astype(np.float32)
    return np.asarray(cv2.resize(grid, film.shape[1:], interpolation=cv2.INTER_LINEAR), dtype=np.float32)
