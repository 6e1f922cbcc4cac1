"""Encoders of one backbone: each film on its own, a study the mean direction of its views."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.errors import EncoderError
from encoder.films.study import POSITIONS
from encoder.network.backbone import create_backbone, create_pooling, forward_stages, pooled_width, stage_channels
from encoder.network.config import EncoderConfig
from encoder.network.model import DualEfficientNetEncoder, StudyEncoder

SCALES = (0, 1, 2, 4)
"""Which of a network's resolutions (1/2, 1/4, 1/8, 1/16, 1/32) are F1 to F4."""


class SingleEncoder(StudyEncoder):
    """One backbone, an optional 1 x 1 projection of its last stage, and optional dense layers above the pooled film."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        backbone = create_backbone(
            config.backbone, in_chans=config.in_chans, pooling=config.pooling, options=config.options
        )
        self.backbones = nn.ModuleList([backbone])
        self.projection = self.pooling = None
        if config.projection:
            self.projection = nn.Conv2d(stage_channels(self.backbone_of(0))[-1], config.projection, 1)
            self.pooling = create_pooling(config.pooling)
        pooled = config.projection or pooled_width(self.backbone_of(0))
        self.num_features = pooled + (len(POSITIONS) if config.position_input else 0)
        self.dropout = nn.Dropout(config.dropout)
        self.dense = _dense_layers(self.num_features, config)
        self.embedding_dim = config.dense[-1] if config.dense else self.num_features

    def forward(self, frontal: Tensor, lateral: Tensor | None = None) -> Tensor:
        """Return the embeddings (B, D), unit norm, of one or two (B, C, S, S) batches of unknown view position."""
        maps = [self.forward_features(film, 0) for film in (frontal, lateral) if film is not None]
        return self.forward_head(maps[0], maps[-1])

    def forward_scales(self, films: Tensor) -> dict[str, Tensor]:
        """Return the feature maps F1 (1/2), F2 (1/4), F3 (1/8) and F4 (1/32, projected) of films (B, C, S, S)."""
        _, maps = forward_stages(self.backbone_of(0), films, SCALES)
        if self.projection is not None:
            maps[-1] = self.projection(maps[-1])
        return {f"F{number}": feature_map for number, feature_map in enumerate(maps, start=1)}

    def forward_features(self, film: Tensor, branch: int) -> Tensor:
        """Return the last feature map (B, F, h, w): the projected last stage, or what the backbone pools."""
        if self.projection is None:
            return super().forward_features(film, branch)
        return self._projected(film)[0]

    def forward_stage(self, film: Tensor, branch: int, stage: int) -> tuple[Tensor, Tensor]:
        """Return the last feature map, projected where there is a projection, and an earlier one, of one pass."""
        if self.projection is None:
            return super().forward_stage(film, branch, stage)
        return self._projected(film, stage)

    def layout(self, branch: int) -> str:
        """Return how the features of a branch lie: a projected last stage is a map, whatever it is made of."""
        return super().layout(branch) if self.projection is None else "NCHW"

    def pool_map(self, feature_map: Tensor, branch: int, position: int) -> Tensor:
        """Return the pooled values (B, F) of a feature map, with the view position where that is an input."""
        return self.finish_pooled(self._pool(feature_map), torch.full((len(feature_map),), position))

    def pool_films(self, films: Tensor, branch: int) -> Tensor:
        """Return the pooled films (M, F), without their view positions."""
        return self._pool(self.forward_features(films, branch))

    def fuse_pooled(self, frontal: Tensor, lateral: Tensor) -> Tensor:
        """Return the embeddings (B, D): the mean of both views' unit vectors, back on the unit sphere."""
        views = [functional.normalize(self.dense(self.dropout(view)).float(), dim=1) for view in (frontal, lateral)]
        return functional.normalize(views[0] + views[1], dim=1)

    def _projected(self, film: Tensor, stage: int = SCALES[-1]) -> tuple[Tensor, Tensor]:
        """Return the projected last stage and the map of a stage."""
        _, maps = forward_stages(self.backbone_of(0), film, sorted({stage, SCALES[-1]}))
        assert self.projection is not None
        return self.projection(maps[-1]), maps[0]

    def _pool(self, feature_map: Tensor) -> Tensor:
        if self.pooling is not None:
            pooled: Tensor = self.pooling(feature_map)
            return pooled
        return self.backbone_of(0).forward_head(feature_map)

    def finish_pooled(self, pooled: Tensor, positions: Tensor | None) -> Tensor:
        """Return pooled films with their view positions (AP, PA, lateral) beside them, where those are an input."""
        if not self.config.position_input:
            return pooled
        codes = torch.zeros(len(pooled), dtype=torch.int64) if positions is None else positions
        shown = functional.one_hot(codes.to(pooled.device), len(POSITIONS) + 1)[:, 1:]  # unknown: all zero
        return torch.cat([pooled, shown.to(pooled.dtype)], dim=1)


def build_encoder(config: EncoderConfig) -> StudyEncoder:
    """Return the untrained network of a configuration."""
    return DualEfficientNetEncoder(config) if config.architecture == "dual" else SingleEncoder(config)


@lru_cache
def outline_of(config: EncoderConfig) -> StudyEncoder:
    """Return the network of a configuration without values: the shapes alone, of two billion parameters too."""
    with torch.device("meta"):
        return build_encoder(config).eval()


@lru_cache
def require_side(config: EncoderConfig, side: int) -> None:
    """Raise EncoderError unless a configuration's network takes films of a side, in pixels."""
    films = torch.zeros(1, config.in_chans, side, side, device="meta")
    try:
        with torch.no_grad():
            outline_of(config).pool_films(films, 0)
    except NotImplementedError:  # an operation that knows no shapes alone
        return
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise EncoderError(
            f"expected a size that {config.backbone!r} takes, got {side} x {side} pixels: {str(error)[:200]}"
        ) from error


def _dense_layers(inputs: int, config: EncoderConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, p in zip(config.dense, config.dense_dropout, strict=True):
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(p)]
        inputs = width
    return nn.Sequential(*layers)
