"""Maps of single pixels through captum: integrated gradients and GradientShap.

Knows films as tensors; captum is only imported when a map is asked for, because most installations do without.
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.errors import EncoderError
from encoder.model import StudyEncoder

STEPS = 24
"""Points on the way from the black film to the film itself."""
SEED = 0
_SMOOTHING = 1 / 64
"""Standard deviation of the blur over a map, relative to its side: single pixels are noise to a reader."""
Map = npt.NDArray[np.float32]


def pixel_attribution(
    encoder: StudyEncoder, films: Mapping[str, Tensor], number: Callable[[Tensor], Tensor], method: str
) -> dict[str, Map]:
    """Return one map a view, (S, S) float32 in [0, 1], peak at 1: the positive attributions, summed over channels.

    Integrated gradients: Sundararajan et al., ICML 2017, against a black film. GradientShap: Lundberg and Lee, NeurIPS
    2017, expectations over points between the film and two baselines, black and the film's own mean.

    Args:
        films: (1, C, S, S) of each view that the study has.

    Raises:
        EncoderError: captum is not installed.
    """
    try:
        from captum import attr  # an extra: `pip install 'cxr-precedent[explain]'`
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"expected captum for {method}, which is not installed; run: pip install 'cxr-precedent[explain]'"
        ) from error
    views = list(films)

    def forward(*stacks: Tensor) -> Tensor:
        first, last = stacks[0], stacks[-1]
        maps = [encoder.forward_features(film, branch) for branch, film in enumerate((first, last))]
        return number(encoder.forward_head(*maps))

    inputs = tuple(films[view].detach().clone() for view in views)
    black = tuple(torch.full_like(film, float(film.min())) for film in inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        found = _attributed(attr, forward, inputs, black, method)
    return {view: _smooth(one[0]) for view, one in zip(views, found, strict=True)}


def _attributed(
    attr: Any, forward: Callable[..., Tensor], inputs: tuple[Tensor, ...], black: tuple[Tensor, ...], method: str
) -> tuple[Tensor, ...]:
    if method == "integrated_gradients":
        found = attr.IntegratedGradients(forward).attribute(inputs, black, n_steps=STEPS, internal_batch_size=4)
    else:
        grey = tuple(torch.full_like(film, float(film.mean())) for film in inputs)
        baselines = tuple(torch.cat(pair) for pair in zip(black, grey, strict=True))
        found = attr.GradientShap(forward).attribute(inputs, baselines, n_samples=STEPS, stdevs=0.05)
    return tuple(found)


def _smooth(attribution: Tensor) -> Map:
    heat = attribution.detach().sum(0).relu().float().cpu().numpy()  # (S, S)
    heat = np.asarray(cv2.GaussianBlur(heat, (0, 0), max(1.0, heat.shape[0] * _SMOOTHING)), dtype=np.float32)
    peak = float(heat.max())
    return np.asarray(heat / peak if peak > 0 else np.zeros_like(heat), dtype=np.float32)
