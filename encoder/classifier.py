"""An encoder with a linear head on its embedding, which is what training needs and retrieval throws away.

Knows the encoder's unit vectors; knows nothing of how it is trained.
"""

import torch
from torch import Tensor, nn

from encoder.model import DualEfficientNetEncoder

_FIRST_SCALE = 16.0


class Classifier(nn.Module):
    """Logits from the unit embedding: a linear layer over the embedding times one learned scale.

    The head sees exactly what a search sees, so what separates the labels also turns the vectors; the scale gives
    the logits a range that a unit vector alone cannot reach.
    """

    def __init__(self, encoder: DualEfficientNetEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.scale = nn.Parameter(torch.tensor(_FIRST_SCALE))
        self.head = nn.Linear(encoder.config.embedding_dim, num_classes)

    def forward(self, frontal: Tensor, lateral: Tensor | None = None) -> Tensor:
        """Return the logits (B, C) of two (B, 3, S, S) batches; one alone goes to both branches."""
        return self.logits(self.encoder(frontal, lateral))

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the logits (B, C) of embeddings (B, D), in float32 whatever the precision around it."""
        with torch.autocast(embeddings.device.type, enabled=False):
            logits: Tensor = self.head(embeddings.float() * self.scale)
        return logits


def build_classification_model(encoder: DualEfficientNetEncoder, num_classes: int) -> Classifier:
    """Return the encoder with a new head of `num_classes` outputs; their sigmoid or softmax are probabilities."""
    return Classifier(encoder, num_classes)
