"""What training minimises: cross-entropies that skip unknown labels, and a contrastive term for neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from encoder.errors import RecipeError

_MOST_WEIGHT = 20.0  # a finding of three positives in a thousand would otherwise rule the loss
_NO_CLASS = -100


@dataclass(frozen=True)
class LossOptions:
    """How much each term counts."""

    bce: float = 1.0
    """Weight of the cross-entropy: binary a finding, softmax where the targets are exclusive classes."""
    per_view: float = 0.5
    """Weight of the same cross-entropy on each view alone, straight from the backbone; only training needs it."""
    head_start: int = 0
    """First epochs in which a backbone learns from `per_view` alone and the dense layers follow; for random weights,
    where the gradient through the dense layers is mostly noise."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly; 0.1 is usual against overconfidence."""
    class_weights: str = "none"
    """`balanced` gives rare labels as much weight as common ones; `none` keeps their frequencies."""
    contrastive: float = 0.5
    """Weight of the neighbour term; it buys precision of retrieval."""
    temperature: float = 0.1
    """Of the neighbour term; smaller looks at nearer neighbours."""
    prefixes: tuple[int, ...] = ()
    """Shorter dimensions whose renormalised prefix also enters the neighbour term, e.g. [256]."""

    def __post_init__(self) -> None:
        if self.head_start and not self.per_view:
            raise RecipeError("expected per_view above 0 with a head_start, got 0; the backbone would not learn")
        if self.class_weights not in ("none", "balanced"):
            raise RecipeError(f"expected class_weights 'none' or 'balanced', got {self.class_weights!r}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise RecipeError(f"expected label_smoothing in [0, 1), got {self.label_smoothing}")
        if self.temperature <= 0:
            raise RecipeError(f"expected a temperature above 0, got {self.temperature}")


def multilabel_loss(logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean binary cross-entropy over known labels; 0 where none is known.

    Args:
        logits, targets: (B, C); targets in [0, 1], NaN is left out.
        weights: (C,) factor of the positives.
    """
    known = ~torch.isnan(targets)
    wanted = torch.where(known, targets, 0.0) * (1 - smoothing) + smoothing / 2
    losses = functional.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def class_loss(logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the weighted mean softmax cross-entropy over rows that have a class.

    Args:
        logits, targets: (B, C); targets one-hot, a row of NaN has no class.
        weights: (C,) factor of each class.
    """
    known = ~torch.isnan(targets).any(dim=1)
    classes = targets.argmax(dim=1).masked_fill(~known, _NO_CLASS)
    total = functional.cross_entropy(
        logits, classes, weight=weights, label_smoothing=smoothing, ignore_index=_NO_CLASS, reduction="sum"
    )
    count = (weights[classes.clamp(min=0)] * known).sum()
    return total / torch.where(count > 0, count, 1.0)  # no look at a value, for which a GPU would be waited


def contrastive_loss(embeddings: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss with every pair weighted by its label sets' Jaccard index.

    The outer form of Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020 (equation 2), with its set of
    positives made graded: for anchor i, minus sum_j J_ij log softmax_j(e_i . e_j / temperature) over sum_j J_ij,
    j other than i. J counts only labels known in both studies; two studies without any positive have J = 1.
    Anchors without a positive are left out.

    Args:
        embeddings: (B, D) unit vectors. targets: (B, C) in [0, 1] with NaN.
    """
    own = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    similarity = embeddings @ embeddings.T / temperature  # (B, B)
    similarity = similarity.masked_fill(own, torch.finfo(similarity.dtype).min)
    log_share = functional.log_softmax(similarity, dim=1).masked_fill(own, 0.0)
    weights = jaccard(targets).masked_fill(own, 0.0)
    total = weights.sum(dim=1)
    anchors = total > 0
    losses = -(weights * log_share).sum(dim=1) / torch.where(anchors, total, 1.0)  # 0 where there is no positive
    return losses.sum() / anchors.sum().clamp(min=1)


def prefix_contrastive_loss(embeddings: Tensor, targets: Tensor, temperature: float, prefixes: Sequence[int]) -> Tensor:
    """Return the mean of the contrastive losses of the whole embedding and of its renormalised prefixes.

    Learning prefixes beside the whole is of Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022.
    """
    parts = [embeddings, *(functional.normalize(embeddings[:, :dim], dim=1) for dim in prefixes)]
    return torch.stack([contrastive_loss(part, targets, temperature) for part in parts]).mean()


def jaccard(targets: Tensor) -> Tensor:
    """Return (B, B): shared positives over positives of either, among labels known in both; 0 where none is known."""
    known = (~torch.isnan(targets)).float()
    positive = (targets > 0.5).float()
    shared = positive @ positive.T
    either = positive @ known.T + known @ positive.T - shared
    both_empty = (either == 0) & (known @ known.T > 0)
    return torch.where(both_empty, 1.0, shared / either.clamp(min=1))


def label_weights(targets: Tensor, kind: str, *, exclusive: bool) -> Tensor:
    """Return (C,) weights from the training targets: ones, or balanced (at most 20).

    Balanced: negatives over positives for findings; rows over classes times the class's rows for exclusive classes.
    """
    if kind == "none":
        return torch.ones(targets.shape[1])
    positives = (targets == 1).sum(dim=0).float()
    known = (~torch.isnan(targets)).sum(dim=0).float()
    ratio = known / (targets.shape[1] * positives) if exclusive else (known - positives) / positives
    return torch.nan_to_num(ratio, nan=1.0, posinf=1.0).clamp(1 / _MOST_WEIGHT, _MOST_WEIGHT)
