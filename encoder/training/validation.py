"""The figures that choose the best epoch: how well labels are separated and how well neighbours share them.

They are not meant for a report: nothing of them has an interval.
"""

import numpy as np
import numpy.typing as npt

from encoder.findings.scores import macro_auroc

Array = npt.NDArray[np.float32]


def figures_of(
    embeddings: Array, probabilities: Array, targets: Array, patients: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return `auroc` and `precision_at_5`, NaN where undefined."""
    return {
        "auroc": macro_auroc(probabilities, targets),
        "precision_at_5": neighbour_precision(embeddings, targets, patients, 5),
    }


def monitored(figures: dict[str, float], monitor: str) -> float:
    """Return the figure that says which epoch is best, higher is better; minus infinity where it is undefined."""
    values = {
        "loss": -figures["valid_loss"],
        "auroc": figures["valid_auroc"],
        "precision_at_5": figures["valid_precision_at_5"],
        "auroc_and_precision": (figures["valid_auroc"] + figures["valid_precision_at_5"]) / 2,
    }
    return float(np.nan_to_num(values[monitor], nan=-np.inf))


def neighbour_precision(embeddings: Array, targets: Array, patients: npt.NDArray[np.int64], k: int) -> float:
    """Return the mean share of a study's k nearest, other patients only, that share one of its positives.

    Studies without a positive are no queries, and where fewer than k others exist they are what counts.
    """
    positive = (np.nan_to_num(targets) > 0.5).astype(np.float32)
    similarity = embeddings @ embeddings.T
    similarity[patients[:, None] == patients[None]] = -np.inf
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]  # (N, k)
    shares = (positive @ positive.T > 0)[np.arange(len(nearest))[:, None], nearest]
    usable = np.isfinite(np.take_along_axis(similarity, nearest, axis=1))
    queries = (positive.sum(axis=1) > 0) & usable.any(axis=1)
    if not queries.any():
        return float("nan")
    return float(((shares & usable).sum(1)[queries] / usable.sum(1)[queries]).mean())
