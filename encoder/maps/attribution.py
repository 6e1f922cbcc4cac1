"""Maps of single pixels: integrated gradients through captum, and GradientShap.

captum is only imported when a map of its is asked for, because most installations do without.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

from encoder.errors import EncoderError
from encoder.films.study import Positions
from encoder.maps.cam import Heat, branch_views
from encoder.maps.passes import PASS
from encoder.network.model import StudyEncoder

STEPS = 24
"""Points between baseline and film."""
_BATCH = 4
_NOISE = 0.05
"""Standard deviation of GradientShap's noise, in the film's normalised units."""
_SEED = 0
_SMOOTHING = 1 / 64
"""Standard deviation of the blur over a map, relative to its side: single pixels are noise to a reader."""
Views = tuple[Tensor, ...]
"""(B, C, S, S) of each view."""


def pixel_attribution(
    encoder: StudyEncoder,
    films: Mapping[str, Tensor],
    black: Tensor,
    number: Callable[[Tensor], Tensor],
    method: str,
    positions: Positions = (0, 0),
) -> dict[str, Heat]:
    """Return one map a view, (S, S) float32 in [0, 1], peak at 1: the positive attributions, summed over channels.

    Args:
        films: (1, C, S, S) of each view that the study has.
        black: (1, C, 1, 1), a black film's pixel.
        method: a key of METHODS.
        positions: codes of the view positions, 0 unknown.

    Raises:
        EncoderError: captum is needed and not installed.
    """
    views = list(films)
    first, last = (views.index(view) for view in branch_views(films))

    def forward(*stacks: Tensor) -> Tensor:
        PASS.get()()
        frontal, lateral = (encoder.forward_features(stacks[row], branch) for branch, row in enumerate((first, last)))
        return number(encoder.forward_head(frontal, lateral, positions))

    inputs = tuple(films[view].detach().clone() for view in views)
    attributions = METHODS[method](forward, inputs, black)
    return {view: _smooth(attribution) for view, attribution in zip(views, attributions, strict=True)}


def _integrated_gradients(forward: Callable[..., Tensor], films: Views, black: Tensor) -> Views:
    """Sundararajan et al., ICML 2017, from a black film on."""
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise EncoderError(
            "expected captum for integrated_gradients, it is not installed; run: pip install 'cxr-precedent[explain]'"
        ) from error
    baselines = tuple(black.expand_as(film) for film in films)
    explained = IntegratedGradients(forward)
    return tuple(explained.attribute(films, baselines, n_steps=STEPS, internal_batch_size=_BATCH))


def _gradient_shap(forward: Callable[..., Tensor], films: Views, black: Tensor) -> Views:
    """Lundberg and Lee, NIPS 2017, as expected gradients (Erion et al., 2021) from black and the film's own mean grey.

    captum draws its points from the process's generators, which other threads draw from too; these are the call's own.
    """
    chance = torch.Generator().manual_seed(_SEED)
    grounds = [torch.cat([black, film.mean(dim=(2, 3), keepdim=True)]) for film in films]  # (2, C, 1, 1)
    total = [torch.zeros_like(film) for film in films]
    for _ in range(STEPS // _BATCH):
        share = torch.rand(_BATCH, 1, 1, 1, generator=chance).to(black.device)
        chosen = torch.randint(2, (_BATCH,), generator=chance)
        points, ways = [], []
        for film, ground in zip(films, grounds, strict=True):
            noise = _NOISE * torch.randn(_BATCH, *film.shape[1:], generator=chance).to(film.device)
            ways.append(film + noise - ground[chosen.to(film.device)])  # (B, C, S, S)
            points.append((film + noise - (1 - share) * ways[-1]).requires_grad_())
        gradients = torch.autograd.grad(forward(*points).sum(), points)
        for attribution, gradient, way in zip(total, gradients, ways, strict=True):
            attribution += (gradient * way).sum(0, keepdim=True) / STEPS
    return tuple(total)


METHODS: dict[str, Callable[[Callable[..., Tensor], Views, Tensor], Views]] = {
    "integrated_gradients": _integrated_gradients,
    "gradient_shap": _gradient_shap,
}
"""Attributions (1, C, S, S) of each view by name."""


def _smooth(attribution: Tensor) -> Heat:
    heat = attribution.detach()[0].sum(0).relu().float().cpu().numpy()  # (S, S)
    heat = np.asarray(cv2.GaussianBlur(heat, (0, 0), max(1.0, heat.shape[0] * _SMOOTHING)), dtype=np.float32)
    peak = float(heat.max())
    return np.asarray(heat / peak if peak > 0 else np.zeros_like(heat), dtype=np.float32)
