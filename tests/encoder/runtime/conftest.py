"""What the tests of every runtime share: an encoder of each shape."""

import pytest
import torch
from encoder_shapes import SHAPES

from encoder.network.config import EncoderConfig
from encoder.network.model import StudyEncoder
from encoder.network.single import build_encoder


@pytest.fixture(params=SHAPES)
def encoder(request: pytest.FixtureRequest) -> StudyEncoder:
    """Return an encoder of each shape whose batch statistics are those of films, as after training."""
    torch.manual_seed(0)
    network = build_encoder(EncoderConfig(**SHAPES[request.param])).train()  # type: ignore[arg-type]
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(16, 3, 64, 64), torch.randn(16, 3, 64, 64))
    return network.eval()
