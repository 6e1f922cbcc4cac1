"""What a second look at the same batch must not change when activations are computed again for the gradient.

Knows batch normalisation; knows nothing of losses or of the loop that calls it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def held_statistics(network: nn.Module) -> Iterator[None]:
    """Keep running statistics of batch normalisation as they are inside the block.

    For the backward pass under gradient checkpointing, whose repeated forward pass would count each batch twice.
    What is normalised with does not change: in training that is the batch's own statistics.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
