"""The dual encoder, and what every encoder of studies does: films of a study in, one unit vector out."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.errors import EncoderError
from encoder.films.study import Positions
from encoder.network.backbone import (
    Backbone,
    as_map,
    create_backbone,
    forward_last_block,
    forward_stages,
    layout_of,
    pooled_width,
)
from encoder.network.config import EncoderConfig


class StudyEncoder(nn.Module):
    """What every encoder does: films of a study in, one unit vector out.

    A backbone pools a film to `num_features` values; `fuse_pooled` makes the embedding of both views' values.
    """

    config: EncoderConfig
    backbones: nn.ModuleList
    num_features: int
    embedding_dim: int
    trained: bool | None = None
    """Whether the layers above the backbones have learnt from films; None where that is not known."""
    source: Mapping[str, str] | None = None
    """Of an adopted encoder: its family, the licence of its weights, and the SHA-256 of the file they came from."""

    def forward_rows(
        self, films: Tensor, frontal_rows: Tensor, lateral_rows: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Return embeddings (B, D), unit norm, of studies that point into a stack of films.

        A study with one view points to the same film twice.

        Args:
            films: (M, C, S, S) distinct films.
            frontal_rows, lateral_rows: (B,) int64 rows of `films`.
            positions: (M,) int64 codes of `POSITIONS`, 0 unknown; used only where `config.position_input` is set.
        """
        return self.fuse_pooled(*self.pool_rows(films, frontal_rows, lateral_rows, positions))

    def pool_rows(
        self, films: Tensor, frontal_rows: Tensor, lateral_rows: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what both views are pooled to, (B, F) each; with one backbone, each film passes it once."""
        if len(self.backbones) == 1:
            pooled = self.finish_pooled(self.pool_films(films, 0), positions)
            return pooled[frontal_rows], pooled[lateral_rows]
        return self.pool_films(films[frontal_rows], 0), self.pool_films(films[lateral_rows], 1)

    def pool_films(self, films: Tensor, branch: int) -> Tensor:
        """Return what a branch's backbone pools films (M, C, S, S) to, (M, F)."""
        return self.backbone_of(branch)(films)

    def finish_pooled(self, pooled: Tensor, positions: Tensor | None) -> Tensor:
        """Return pooled films (M, F) with further inputs of an encoder appended; here there are none."""
        return pooled

    def fuse_pooled(self, frontal: Tensor, lateral: Tensor) -> Tensor:
        """Return the embeddings (B, D) of two pooled views, (B, F) each."""
        raise NotImplementedError

    def forward_features(self, film: Tensor, branch: int) -> Tensor:
        """Return the last feature map (B, F, h, w) of a branch: 0 frontal, 1 lateral."""
        return self.backbone_of(branch).forward_features(film)

    def forward_stage(self, film: Tensor, branch: int, stage: int) -> tuple[Tensor, Tensor]:
        """Return the last feature map and an earlier one (B, F', h', w') that it depends on, of one pass.

        Args:
            stage: which of the backbone's resolutions, 0 for 1/2 and so on.

        Raises:
            EncoderError: the backbone has no such stage, or its features are no maps that its stages lead to.
        """
        if self.layout(branch) != "NCHW":
            raise EncoderError(
                f"expected a stage of a network of maps, got stage {stage} of {self.config.backbone!r}, whose "
                "features are tokens or have their channels last; leave the stage away"
            )
        last, stages = forward_stages(self.backbone_of(branch), film, [stage])
        return last, stages[0]

    def forward_tape(self, film: Tensor, branch: int) -> tuple[Tensor, Tensor]:
        """Return the last features of a branch and what they are explained at, which needs a gradient.

        That is the features themselves, or of a network of blocks the tokens before its last block.
        """
        if self.layout(branch) == "NLC":
            return forward_last_block(self.backbone_of(branch), film)
        last = self.forward_features(film, branch).detach().requires_grad_()
        return last, last

    def as_map(self, features: Tensor, branch: int) -> Tensor:
        """Return features of a branch, or tokens before its last block, as a map (B, F, h, w). Raises EncoderError."""
        return as_map(features, self.layout(branch), self.backbone_of(branch))

    def layout(self, branch: int) -> str:
        """Return how the features of a branch lie: NCHW, NHWC, or NLC, tokens of the patches after other tokens."""
        return layout_of(self.backbone_of(branch))

    def forward_head(self, frontal_map: Tensor, lateral_map: Tensor, positions: Positions = (0, 0)) -> Tensor:
        """Return the embeddings (B, D) of two feature maps (B, F, h, w) of films in these view positions."""
        maps = (frontal_map, lateral_map)
        return self.fuse_pooled(*(self.pool_map(maps[branch], branch, positions[branch]) for branch in range(2)))

    def pool_map(self, feature_map: Tensor, branch: int, position: int) -> Tensor:
        """Return the pooled values (B, F) of a feature map (B, F, h, w) of films in a view position."""
        codes = torch.full((len(feature_map),), position)
        return self.finish_pooled(self.backbone_of(branch).forward_head(feature_map), codes)

    def backbone_of(self, branch: int) -> Backbone:
        """Return the backbone of a branch; both branches have the same one when weights are shared."""
        return cast(Backbone, self.backbones[branch if len(self.backbones) > 1 else 0])


class DualEfficientNetEncoder(StudyEncoder):
    """A frontal and a lateral branch (backbone -> extractor), concatenated and fused into a unit vector.

    Extractor: num_features -> 1024 -> D. Fusion: 2D -> 2D -> D, then L2 normalisation. Each layer is Linear, ReLU,
    BatchNorm, in that order, as in the design this follows.
    """

    def __init__(self, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EncoderConfig()
        branches = 1 if config.use_shared_weights else 2
        self.backbones = nn.ModuleList(
            create_backbone(config.backbone, in_chans=config.in_chans, pooling=config.pooling, options=config.options)
            for _ in range(branches)
        )
        self.num_features = pooled_width(self.backbone_of(0))
        self.embedding_dim = config.embedding_dim
        self.extractors = nn.ModuleList(
            _extractor(self.num_features, config.embedding_dim, config.dropout) for _ in range(2)
        )
        self.fusion = _fusion(config.embedding_dim, config.dropout)

    def forward(self, frontal: Tensor, lateral: Tensor | None = None) -> Tensor:
        """Return the embeddings (B, D), unit norm, of two (B, C, S, S) batches; one alone goes to both branches."""
        return self._fuse(*self._extract(frontal, lateral))

    def fuse_pooled(self, frontal: Tensor, lateral: Tensor) -> Tensor:
        """Return the embeddings (B, D) of two views as the backbones pool them, (B, F) each."""
        return self._fuse(self.extractors[0](frontal), self.extractors[1](lateral))

    def get_individual_features(self, frontal: Tensor, lateral: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the frontal branch's, the lateral branch's and the fused features, each (B, D); only the last unit."""
        first, second = self._extract(frontal, lateral)
        return first, second, self._fuse(first, second)

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
