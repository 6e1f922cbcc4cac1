"""Many logistic regressions on the same rows, solved together by preconditioned L-BFGS, and how strongly to penalise.

The strength of the penalty is chosen for each column by folds; all candidates are solved in one go.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import softplus

Floats = npt.NDArray[np.float32]
ClassWeight = Literal["none", "balanced"]
Pair = tuple[Floats, Floats]
"""(D + 1, K) each: a step, and how the gradient changed along it."""

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
"""Inverse L2 strengths that are tried: scikit-learn's C, on embeddings centred and scaled to unit mean variance."""
MEMORY = 10
"""Pairs that L-BFGS keeps; with the preconditioner few are needed."""
MAX_STEPS = 200
TOLERANCE = 2e-5
"""Largest gradient entry at which a column counts as solved; losses are means, so it does not depend on N."""
_ARMIJO = 1e-4
_HALVINGS = 20
_SAMPLE_ROWS_A_DIM = 16


@dataclass(frozen=True)
class Design:
    """The design matrix and its principal axes, shared by any number of problems."""

    values: Tensor
    """(N, D) float32, centred, about unit variance."""
    spectrum: Tensor
    """(D,) variances along `axes`."""
    axes: Tensor
    """(D, D)"""

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Return the rows with the axes of their covariance, taken from a sample."""
        count, dim = values.shape
        sample = values[:: max(count // (_SAMPLE_ROWS_A_DIM * dim), 1)]
        spectrum, axes = torch.linalg.eigh(sample.T @ sample / len(sample))
        return cls(values, spectrum.clamp(min=0), axes)


@dataclass(frozen=True)
class Problem:
    """What is minimised, column by column: mean weighted log loss + decay / 2 * |coefficients|^2."""

    rows: Design
    targets: Tensor
    """(N, K) of 0 and 1."""
    weights: Tensor
    """(N, K), each column sums to 1 (or is all 0, and then stays at the start); 0 leaves a row out."""
    decay: Tensor
    """(K,) strength of the L2 penalty; the intercept carries none."""

    def logits(self, solution: Tensor) -> Tensor:
        """Return the logits (N, K) of coefficients and intercept (D + 1, K)."""
        return torch.addmm(solution[-1:], self.rows.values, solution[:-1])

    def loss(self, logits: Tensor, solution: Tensor) -> Tensor:
        """Return the objective (K,)."""
        losses = torch.addcmul(softplus(logits), self.targets, logits, value=-1)
        return (losses * self.weights).sum(0) + self.decay / 2 * solution[:-1].square().sum(0)

    def gradient(self, logits: Tensor, solution: Tensor) -> Tensor:
        """Return the gradient (D + 1, K)."""
        residual = (torch.sigmoid(logits) - self.targets) * self.weights
        slope = torch.addcmul(self.rows.values.T @ residual, self.decay, solution[:-1])
        return torch.cat([slope, residual.sum(0, keepdim=True)])


@torch.inference_mode()
def solve_logistic(problem: Problem, *, max_steps: int = MAX_STEPS, tolerance: float = TOLERANCE) -> Tensor:
    """Return coefficients and, last, intercept of every column, (D + 1, K) float32.

    L-BFGS (Nocedal, 1980) with a line search a column; the start of its inverse Hessian is that of the penalised
    covariance at the base rate, which makes badly conditioned embeddings converge in tens of steps. A step reads
    the rows twice, however many columns there are and however often the line search halves.
    """
    precondition = _preconditioner(problem)
    solution = torch.zeros(problem.rows.values.shape[1] + 1, problem.targets.shape[1])
    solution[-1] = torch.logit(_base_rate(problem))
    logits = problem.logits(solution)
    loss, gradient = problem.loss(logits, solution), problem.gradient(logits, solution)
    history: list[Pair] = []
    for _ in range(max_steps):
        moving = gradient.abs().amax(0) > tolerance
        if not moving.any():
            break
        direction = _descent(gradient, history, precondition) * moving
        along = problem.logits(direction)
        step, loss = _line_search(problem, solution, direction, logits, along, loss, gradient)
        if not step.any():
            break
        solution = solution + step * direction
        logits.addcmul_(step, along)
        previous, gradient = gradient, problem.gradient(logits, solution)
        history = [*history[1 - MEMORY :], ((step * direction).numpy(), (gradient - previous).numpy())]
    return solution


def _base_rate(problem: Problem) -> Tensor:
    return (problem.targets * problem.weights).sum(0).clamp(1e-4, 1 - 1e-4)


def _preconditioner(problem: Problem) -> Callable[[Tensor], Tensor]:
    """Return the map of a gradient (D + 1, K) to inverse-Hessian x gradient at the start, approximately.

    At the base rate p the Hessian is p (1 - p) x covariance + decay.
    """
    rate = _base_rate(problem)
    curvature = rate * (1 - rate) * problem.weights.sum(0).clamp(min=1e-3)
    axes = problem.rows.axes
    damping = (problem.rows.spectrum[:, None] * curvature + problem.decay).reciprocal()  # (D, K)

    def precondition(gradient: Tensor) -> Tensor:
        inner = axes @ (damping * (axes.T @ gradient[:-1]))
        return torch.cat([inner, gradient[-1:] / curvature])

    return precondition


def _descent(gradient: Tensor, history: list[Pair], precondition: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the L-BFGS direction (D + 1, K): the two-loop recursion, every column its own.

    The loops are NumPy's: a thousand small operations, which torch would each wake its threads for.
    """
    direction = -gradient.numpy()
    shares = []
    for moved, turned in reversed(history):
        curvature = np.einsum("dk,dk->k", moved, turned)
        inverse = np.where(curvature > 1e-12, 1 / np.maximum(curvature, 1e-12), 0).astype(np.float32)
        share = inverse * np.einsum("dk,dk->k", moved, direction)
        direction -= share * turned
        shares.append((inverse, share))
    direction = precondition(torch.from_numpy(direction)).numpy()
    for (moved, turned), (inverse, share) in zip(history, reversed(shares), strict=True):
        direction += moved * (share - inverse * np.einsum("dk,dk->k", turned, direction))
    uphill = np.einsum("dk,dk->k", direction, gradient.numpy()) >= 0
    return torch.from_numpy(np.where(uphill, -precondition(gradient).numpy(), direction) if uphill.any() else direction)


def _line_search(
    problem: Problem,
    solution: Tensor,
    direction: Tensor,
    logits: Tensor,
    along: Tensor,
    loss: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return a step (K,) that lowers the loss enough, 0 where none does, and the loss it reaches.

    Logits are linear in the step, so a trial reads no rows.
    """
    slope = (direction * gradient).sum(0)
    step = torch.ones_like(loss)
    for _ in range(_HALVINGS):
        reached = problem.loss(torch.addcmul(logits, step, along), solution + step * direction)
        # Float32 sums are exact to about 1e-7 of the loss; a smaller rise is none.
        worse = reached > loss + _ARMIJO * step * slope + 1e-7 * loss.abs()
        if not worse.any():
            return step, reached
        step = torch.where(worse, step / 2, step)
    return torch.where(worse, 0, step), torch.where(worse, loss, reached)


def scaled_rows(embeddings: Floats) -> tuple[Design, Floats, float]:
    """Return the rows centred and divided by one number, so that the geometry of the space is kept."""
    mean = embeddings.mean(0, dtype=np.float64).astype(np.float32)
    rows = torch.from_numpy(embeddings - mean)
    scale = max(float(rows.square().mean().sqrt()), 1e-12)
    return Design.of(rows.div_(scale)), mean, scale


def solve_strengths(rows: Design, targets: Tensor, strengths: Tensor, class_weight: ClassWeight) -> Tensor:
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
    rows: Design,
    targets: Tensor,
    folds: Tensor,
    strengths: tuple[float, ...],
    class_weight: ClassWeight,
) -> Tensor:
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
        losses = softplus(logits) - wanted * logits
        total += losses.nansum(0) * learnable
    return torch.tensor(strengths)[total.argmin(0)]
