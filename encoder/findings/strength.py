"""How strongly to hold coefficients down: one finding at a time, by folds, all candidates solved in one go.

Knows arrays, folds and the solver; it must not know what a finding is called or where a fold came from.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from encoder.findings.logistic import Problem, Rows, solve_logistic

Floats = npt.NDArray[np.float32]
ClassWeight = Literal["none", "balanced"]

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
"""Inverse L2 strengths that are tried: scikit-learn's C, on embeddings centred and scaled to unit mean variance."""


def scaled_rows(embeddings: Floats) -> tuple[Rows, Floats, float]:
    """Return the rows centred and divided by one number, so that the geometry of the space is kept."""
    mean = embeddings.mean(0, dtype=np.float64).astype(np.float32)
    rows = torch.from_numpy(embeddings - mean)
    scale = max(float(rows.square().mean().sqrt()), 1e-12)
    return Rows.of(rows.div_(scale)), mean, scale


def solve_strengths(
    rows: Rows, targets: torch.Tensor, strengths: torch.Tensor, class_weight: ClassWeight
) -> torch.Tensor:
    """Return (D + 1, G, C) solutions for strengths (G, C); one call solves them all."""
    counted = ~targets.isnan()
    weights = counted.float()
    if class_weight == "balanced":
        for outcome in (targets == 1, targets == 0):
            weights = torch.where(outcome, weights / outcome.sum(0).clamp(min=1) / 2, weights)
    else:
        weights = weights / weights.sum(0).clamp(min=1)
    copies = len(strengths)
    problem = Problem(
        rows,
        targets.nan_to_num().repeat(1, copies),
        weights.repeat(1, copies),
        (strengths * counted.sum(0).clamp(min=1)).reciprocal().flatten(),
    )
    return solve_logistic(problem).unflatten(1, (copies, -1))


def best_strengths(
    rows: Rows, targets: torch.Tensor, folds: torch.Tensor, strengths: tuple[float, ...],
    class_weight: ClassWeight,
) -> torch.Tensor:  # fmt: skip
    """Return the strength (C,) of each finding with the least mean log loss over the folds left out."""
    grid = torch.tensor(strengths)[:, None].expand(-1, targets.shape[1])
    if len(strengths) == 1 or len(folds.unique()) < 2:
        return grid[len(strengths) // 2]
    total = torch.zeros(grid.shape)
    for fold in folds.unique():
        held = folds == fold
        seen = torch.where(held[:, None], torch.nan, targets)
        learnable = (seen == 1).any(0) & (seen == 0).any(0)
        solution = solve_strengths(rows, seen, grid, class_weight)
        logits = torch.einsum("nd,dgc->ngc", rows.values[held], solution[:-1]) + solution[-1]
        wanted = targets[held][:, None]
        losses = torch.nn.functional.softplus(logits) - wanted * logits
        total += losses.nansum(0) * learnable
    return torch.tensor(strengths)[total.argmin(0)]
