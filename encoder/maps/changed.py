"""The number of a study for each of several versions of one of its films.

Knows encoders and films; it must not know why a film is changed.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.films.study import Film, Positions
from encoder.maps.cam import branch_views
from encoder.network.model import StudyEncoder

_BATCH = 8


class ChangedFilm:
    """Gives the numbers of a study while one film changes; the other film passes its backbone once."""

    def __init__(
        self, encoder: StudyEncoder, films: Mapping[str, Tensor], view: str, number: Callable[[Tensor], Tensor],
        positions: Positions = (0, 0),
    ) -> None:  # fmt: skip
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
    def __call__(self, versions: Sequence[Film]) -> npt.NDArray[np.float64]:
        """Return the numbers (B,) with each version (C, S, S) in the film's place."""
        batches = [versions[start : start + _BATCH] for start in range(0, len(versions), _BATCH)]
        return np.concatenate([self._numbers(np.stack(batch)) for batch in batches])

    def _numbers(self, versions: Film) -> npt.NDArray[np.float64]:
        stack = torch.from_numpy(versions).to(self._device)
        frontal = self._map(stack, 0)
        lateral = frontal if self._same_branches else self._map(stack, 1)
        return self._number(self._encoder.forward_head(frontal, lateral, self._positions)).double().cpu().numpy()

    def _map(self, stack: Tensor, branch: int) -> Tensor:
        if branch in self._fixed:
            return self._fixed[branch].expand(len(stack), -1, -1, -1)
        return self._encoder.forward_features(stack, branch)
