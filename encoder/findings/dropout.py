"""Monte-Carlo dropout: the same films through an encoder many times, its dropout layers drawing as in training.

The encoder that is given stays untouched, and so does torch's global random state, so that other threads may use both
meanwhile.
"""

import copy

import torch
from torch import Tensor, nn

from encoder.errors import EncoderError
from encoder.network.model import StudyEncoder

_BACKBONES = "backbones"


class DrawnDropout(nn.Module):
    """Dropout that is always active, with its own random generator."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__()
        self.p = p
        self.generator = generator

    def forward(self, values: Tensor) -> Tensor:
        """Return the values with a share p set to 0 and the others scaled by 1 / (1 - p)."""
        kept = torch.rand(values.shape, generator=self.generator) >= self.p
        return values * kept.to(values.device) / (1 - self.p)


class DropoutPasses(StudyEncoder):
    """An encoder that embeds every study `passes` times, each time with other values dropped.

    The layers above the backbones drop; backbones have no dropout here and run once for all passes. Batch
    normalisation keeps its running statistics (Gal and Ghahramani, ICML 2016, need no other change).
    """

    def __init__(self, encoder: StudyEncoder, passes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.passes = passes
        self.dropping = _dropping(encoder, generator)

    def forward_rows(
        self, films: Tensor, frontal_rows: Tensor, lateral_rows: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Return embeddings (passes * B, D), one pass after the other; arguments as for any encoder."""
        pooled = self.dropping.pool_rows(films, frontal_rows, lateral_rows, positions)
        return self.dropping.fuse_pooled(*(view.repeat(self.passes, 1) for view in pooled))


def _dropping(encoder: StudyEncoder, generator: torch.Generator) -> StudyEncoder:
    """Return an encoder of the same weights, not copied, in which every dropout layer draws from the generator."""
    kept = [encoder.backbones, *encoder.parameters(), *encoder.buffers()]
    twin = copy.deepcopy(encoder, {id(module): module for module in kept})
    layers = [
        (name, layer)
        for name, layer in twin.named_modules()
        if isinstance(layer, nn.Dropout) and layer.p > 0 and not name.startswith(f"{_BACKBONES}.")
    ]
    if not layers:
        raise EncoderError(
            "expected an encoder with dropout for Monte-Carlo passes, got one whose dropout is 0; "
            "predict without passes, or train an encoder with dropout"
        )
    for name, layer in layers:
        twin.set_submodule(name, DrawnDropout(layer.p, generator))
    return twin
