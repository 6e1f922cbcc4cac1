"""Class activation maps: how much each place of a feature map raises a number of the embedding."""

from collections.abc import Callable, Iterable, Mapping

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.errors import EncoderError
from encoder.films.study import Positions
from encoder.network.model import StudyEncoder

Number = Callable[[Tensor], Tensor]
"""Embeddings (B, D) to numbers (B,)."""
Heat = npt.NDArray[np.float32]
"""A heat map from 0 up: (S, S) on the network's square, or (H, W) on the film's own pixels."""
_LEAST_SHARE = 1e-4
"""A map that adds less than this to the number, signs aside, shows rounding: a cosine's gradient at the film itself."""


def cam_of(
    encoder: StudyEncoder,
    films: Mapping[str, Tensor],
    number: Number,
    method: str,
    stage: int | None = None,
    positions: Positions = (0, 0),
) -> dict[str, Heat]:
    """Return one map a view, (S, S) float32 in [0, 1], its peak at 1; all 0 where no gradient is positive.

    A single film feeds both branches; its map is the sum of what both say.

    Args:
        films: (1, C, S, S) of each view that the study has.
        method: a key of CAMS.
        stage: which of the network's resolutions to explain at, 0 for 1/2 and so on; None takes the last maps.
        positions: codes of the view positions, 0 unknown.

    Raises:
        EncoderError: the network has no such stage, or its features make no map.
    """
    views = branch_views(films)
    branches = [_on_tape(encoder, films[view], branch, stage) for branch, view in enumerate(views)]
    value = number(encoder.forward_head(branches[0][0], branches[1][0], positions)).sum()
    gradients = torch.autograd.grad(value, [at for _, at in branches])
    raw: dict[str, Heat] = {}
    for branch, (view, (_, at), gradient) in enumerate(zip(views, branches, gradients, strict=True)):
        at, gradient = (encoder.as_map(values, branch) for values in (at, gradient))
        if float((gradient * at.detach()).abs().sum()) < _LEAST_SHARE:
            gradient = torch.zeros_like(gradient)
        heat = CAMS[method](at.detach()[0], gradient[0])
        raw[view] = raw.get(view, np.float32(0)) + heat.float().cpu().numpy()
    side = films[views[0]].shape[-1]
    return {view: _scaled(heat, side) for view, heat in raw.items()}


def branch_views(views: Iterable[str]) -> tuple[str, str]:
    """Return the view that the frontal and that the lateral branch is given; a single film stands in for both."""
    given = list(views)
    return "frontal" if "frontal" in given else "lateral", "lateral" if "lateral" in given else "frontal"


def feature_map(encoder: StudyEncoder, film: Tensor, branch: int, stage: int | None) -> tuple[Tensor, Tensor]:
    """Return the last feature map, and the one of a stage that it depends on; None takes the last itself."""
    if stage is None:
        last = encoder.as_map(encoder.forward_features(film, branch), branch)
        return last, last
    return encoder.forward_stage(film, branch, stage)


def _on_tape(encoder: StudyEncoder, film: Tensor, branch: int, stage: int | None) -> tuple[Tensor, Tensor]:
    """Return the last features and what they are explained at, with a gradient although no weight needs one."""
    if stage is None:
        return encoder.forward_tape(film, branch)
    return encoder.forward_stage(film.detach().clone().requires_grad_(), branch, stage)


def _gradcam(maps: Tensor, gradient: Tensor) -> Tensor:
    """Selvaraju et al., ICCV 2017, equations 1 and 2: channels weighted by their mean gradient."""
    return (gradient.mean(dim=(1, 2), keepdim=True) * maps).sum(0).relu()


def _gradcam_plus_plus(maps: Tensor, gradient: Tensor) -> Tensor:
    """Chattopadhay et al., WACV 2018, equation 19: positive gradients, weighted by place."""
    square, cube = gradient**2, gradient**3
    below = 2 * square + maps.sum(dim=(1, 2), keepdim=True) * cube
    share = torch.where(gradient != 0, square / torch.where(below != 0, below, torch.ones_like(below)), 0)
    weight = (share * gradient.relu()).sum(dim=(1, 2), keepdim=True)
    return (weight * maps).sum(0).relu()


def _layercam(maps: Tensor, gradient: Tensor) -> Tensor:
    """Jiang et al., TIP 2021, equations 5 and 6: each place of each channel weighted by its own positive gradient."""
    return (gradient.relu() * maps).sum(0).relu()


CAMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "layercam": _layercam,
}
"""Maps by name, of feature maps (F, h, w) and the gradient on them (F, h, w), as (h, w) from 0 up."""


def _scaled(heat: Heat, side: int) -> Heat:
    """Return the heat on the network's square, its peak at 1."""
    peak = float(heat.max())
    if not np.isfinite(peak):
        raise EncoderError("expected finite gradients, got others; is the encoder damaged?")
    if peak <= 0:
        return np.zeros((side, side), dtype=np.float32)
    whole = cv2.resize(heat / np.float32(peak), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(whole, 0, 1), dtype=np.float32)
