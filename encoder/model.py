"""The dual encoder: two films of a study in, one unit vector out.

Knows torch and backbones; knows nothing of files of films, studies or searches.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.backbone import Backbone, create_backbone
from encoder.errors import EncoderError

EMBEDDING_DIMS = (256, 384, 512)


@dataclass(frozen=True)
class EncoderConfig:
    """What a checkpoint must know to rebuild its network; every default is the seed design's own."""

    backbone: str = "efficientnet_b0"
    """A timm network; EfficientNet-B0 has the best accuracy for its 4 M parameters."""
    embedding_dim: int = 512
    """D of the fused vector: 256, 384 or 512."""
    use_shared_weights: bool = False
    """One backbone for both views; separate ones may specialise, a shared one runs half as often on a single film."""
    dropout: float = 0.2
    """p after each hidden layer, p / 2 after each extractor; 0.0 to 0.5."""
    in_chans: int = 3
    """Channels of a film as the backbone wants it; 1 for networks trained on grey films."""

    def __post_init__(self) -> None:
        if self.embedding_dim not in EMBEDDING_DIMS:
            raise EncoderError(f"expected embedding_dim 256, 384 or 512, got {self.embedding_dim}")
        if not 0.0 <= self.dropout <= 0.5:
            raise EncoderError(f"expected dropout in [0.0, 0.5], got {self.dropout}")


class DualEfficientNetEncoder(nn.Module):
    """A frontal and a lateral branch (backbone -> extractor), concatenated and fused into a unit vector.

    Extractor: num_features -> 1024 -> D. Fusion: 2D -> 2D -> D, then L2 normalisation. Each layer is Linear, ReLU,
    BatchNorm, in that order, as in the design this follows.
    """

    def __init__(self, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EncoderConfig()
        branches = 1 if config.use_shared_weights else 2
        self.backbones = nn.ModuleList(
            create_backbone(config.backbone, in_chans=config.in_chans) for _ in range(branches)
        )
        self.extractors = nn.ModuleList(
            _extractor(self.num_features, config.embedding_dim, config.dropout) for _ in range(2)
        )
        self.fusion = _fusion(config.embedding_dim, config.dropout)

    @property
    def num_features(self) -> int:
        """Values that a backbone pools one film to."""
        return self.backbone_of(0).num_features

    def forward(self, frontal: Tensor, lateral: Tensor | None = None) -> Tensor:
        """Return the embeddings (B, D), unit norm, of two (B, C, S, S) batches; one alone goes to both branches."""
        return self._fuse(*self._extract(frontal, lateral))

    def forward_rows(self, films: Tensor, frontal_rows: Tensor, lateral_rows: Tensor) -> Tensor:
        """Return embeddings (B, D) of studies that point into a stack of films.

        A study with one view points to the same film twice; with shared weights that film passes the backbone once.

        Args:
            films: (M, C, S, S) distinct films.
            frontal_rows, lateral_rows: (B,) int64 rows of `films`.
        """
        return self.fuse_pooled(*self.pool_rows(films, frontal_rows, lateral_rows))

    def pool_rows(self, films: Tensor, frontal_rows: Tensor, lateral_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the backbones pool both views to, (B, F) each; arguments as for `forward_rows`."""
        if self.config.use_shared_weights:
            pooled = self.backbone_of(0)(films)  # (M, F)
            return pooled[frontal_rows], pooled[lateral_rows]
        return self.backbone_of(0)(films[frontal_rows]), self.backbone_of(1)(films[lateral_rows])

    def fuse_pooled(self, frontal: Tensor, lateral: Tensor) -> Tensor:
        """Return the embeddings (B, D) of two views as the backbones pool them, (B, F) each."""
        return self._fuse(self.extractors[0](frontal), self.extractors[1](lateral))

    def get_individual_features(self, frontal: Tensor, lateral: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the frontal branch's, the lateral branch's and the fused features, each (B, D); only the last unit."""
        first, second = self._extract(frontal, lateral)
        return first, second, self._fuse(first, second)

    def forward_features(self, film: Tensor, branch: int) -> Tensor:
        """Return the last feature map (B, F, h, w) of a branch: 0 frontal, 1 lateral."""
        return self.backbone_of(branch).forward_features(film)

    def forward_head(self, frontal_map: Tensor, lateral_map: Tensor) -> Tensor:
        """Return the embeddings (B, D) of two feature maps (B, F, h, w); `forward` is this after `forward_features`."""
        return self.fuse_pooled(
            self.backbone_of(0).forward_head(frontal_map), self.backbone_of(1).forward_head(lateral_map)
        )

    def backbone_of(self, branch: int) -> Backbone:
        """Return the backbone of a branch; both branches have the same one when weights are shared."""
        return cast(Backbone, self.backbones[0 if self.config.use_shared_weights else branch])

    def _extract(self, frontal: Tensor, lateral: Tensor | None) -> tuple[Tensor, Tensor]:
        first = self.backbone_of(0)(frontal)  # (B, F)
        single_pass = self.config.use_shared_weights and lateral is None
        second = first if single_pass else self.backbone_of(1)(frontal if lateral is None else lateral)
        return self.extractors[0](first), self.extractors[1](second)

    def _fuse(self, frontal: Tensor, lateral: Tensor) -> Tensor:
        fused = self.fusion(torch.cat([frontal, lateral], dim=1))  # (B, D)
        return functional.normalize(fused.float(), dim=1)


def count_parameters(network: nn.Module) -> int:
    """Return how many learnable values a network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def _dense(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.ReLU(), nn.BatchNorm1d(outputs), nn.Dropout(dropout)]


def _extractor(num_features: int, embedding_dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*_dense(num_features, 1024, dropout), *_dense(1024, embedding_dim, dropout / 2))


def _fusion(embedding_dim: int, dropout: float) -> nn.Sequential:
    hidden = 2 * embedding_dim
    return nn.Sequential(*_dense(hidden, hidden, dropout), *_dense(hidden, embedding_dim, 0.0)[:-1])
