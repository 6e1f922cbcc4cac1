"""Planes of a batch made a network's input, on the device on which they lie."""

import torch
from torch import Tensor

from encoder.films.preprocess import Preprocessing

_WHITE = {torch.uint8: 255.0, torch.uint16: 65535.0}


class Normalizer:
    """Turns planes (M, 1, S, S) into a network's input (M, C, S, S), as `Preprocessing.normalize` does."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._mean, self._std = (
            torch.tensor(values, device=device)[None, :, None, None]
            for values in (preprocessing.mean, preprocessing.std)
        )

    def __call__(self, planes: Tensor) -> Tensor:
        """Return the planes, a copy for each channel, normalised, float32, channels last in memory.

        Args:
            planes: uint8 or uint16, black 0 and white the greatest number, or floats in [0, 1].
        """
        if planes.dtype in _WHITE:
            planes = planes.float() / _WHITE[planes.dtype]
        return ((planes - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
