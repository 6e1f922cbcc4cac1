"""An encoder with a linear head on its embedding: training needs the head, a search does not."""

import torch
from torch import Tensor, nn

from encoder.network.model import StudyEncoder

_FIRST_SCALE = 16.0


class Classifier(nn.Module):
    """Logits from the unit embedding: a linear layer over the embedding times one learned scale.

    The head sees exactly what a search sees, so what separates the labels also turns the vectors; the scale gives
    the logits a range that a unit vector alone cannot reach.
    """

    def __init__(self, encoder: StudyEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.view_head = nn.Linear(encoder.num_features, num_classes)
        self.scale = nn.Parameter(torch.tensor(_FIRST_SCALE))
        self.head = nn.Linear(encoder.embedding_dim, num_classes)

    def forward(self, frontal: Tensor, lateral: Tensor | None = None) -> Tensor:
        """Return the logits (B, C) of two (B, 3, S, S) batches; one alone goes to both branches."""
        return self.logits(self.encoder(frontal, lateral))

    def learn_rows(
        self,
        films: Tensor,
        frontal_rows: Tensor,
        lateral_rows: Tensor,
        positions: Tensor | None = None,
        *,
        apart: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, D) and, for training only, the logits (2, B, C) of each view on its own.

        The second are linear in what a backbone pools a film to. A loss on them reaches the backbone past the dense
        layers, which from random weights is several times quicker (deep supervision, Lee et al., AISTATS 2015).

        Args:
            films, frontal_rows, lateral_rows, positions: as for the encoder's `forward_rows`.
            apart: keep the gradient of a loss on the embeddings out of the backbones.
        """
        pooled = self.encoder.pool_rows(films, frontal_rows, lateral_rows, positions)
        with torch.autocast(films.device.type, enabled=False):
            of_views = torch.stack([self.view_head(view.float()) for view in pooled])
        to_fuse = [view.detach() if apart else view for view in pooled]
        return self.encoder.fuse_pooled(*to_fuse), of_views

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the logits (B, C) of embeddings (B, D), in float32 whatever the precision around it."""
        with torch.autocast(embeddings.device.type, enabled=False):
            logits: Tensor = self.head(embeddings.float() * self.scale)
        return logits


def build_classification_model(encoder: StudyEncoder, num_classes: int) -> Classifier:
    """Return the encoder with a new head of `num_classes` outputs; their sigmoid or softmax are probabilities."""
    return Classifier(encoder, num_classes)
