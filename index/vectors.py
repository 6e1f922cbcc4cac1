"""The check that every vector passes, and figures that describe a set of vectors without labels."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.errors import VectorsError

Embeddings = npt.NDArray[np.float32]
"""(N, D) float32, finite, rows of unit norm."""
Rows = npt.NDArray[np.int64]
"""Numbers of rows of a table, or of vectors that lie like one."""
Mask = npt.NDArray[np.bool_]
"""(N,) which rows."""

NORM_TOLERANCE = 1e-3
COLLAPSED_COSINE = 0.999


def as_embeddings(values: npt.ArrayLike, embedding_dim: int | None = None) -> Embeddings:
    """Return the values as a checked, contiguous (N, D) float32 array; one vector (D,) becomes (1, D).

    Raises:
        VectorsError: not numbers, wrong shape, not finite, or not of unit norm.
    """
    try:
        array = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise VectorsError(f"expected embeddings as an array of numbers, got {type(values).__name__}") from error
    if array.ndim == 1:
        array = array[None]
    expected = f"(N, {embedding_dim})" if embedding_dim else "(N, D)"
    if array.ndim != 2 or (embedding_dim and array.shape[1] != embedding_dim):
        raise VectorsError(
            f"expected embeddings of shape {expected}, got {array.shape}; were they made by another encoder?"
        )
    if not np.isfinite(array).all():
        raise VectorsError(f"expected finite embeddings, got {int((~np.isfinite(array)).any(1).sum())} with NaN or inf")
    norms = np.sqrt(np.einsum("nd,nd->n", array, array, dtype=np.float64))
    if len(norms) and np.abs(norms - 1).max() > NORM_TOLERANCE:
        worst = norms[np.abs(norms - 1).argmax()]
        raise VectorsError(f"expected embeddings of unit norm, got one of norm {worst:.4g}; divide it by its norm")
    return array


def as_embedding(value: npt.ArrayLike, embedding_dim: int) -> npt.NDArray[np.float32]:
    """Return one vector as a checked (D,) float32 array; (1, D) is one too. Raises VectorsError."""
    array = as_embeddings(value, embedding_dim)
    if len(array) != 1:
        raise VectorsError(
            f"expected one embedding of shape ({embedding_dim},), got {len(array)}; search_many takes several"
        )
    return array[0]


@dataclass(frozen=True)
class SpaceHealth:
    """How well a set of embeddings spreads over its space."""

    sample: int
    mean_cosine: float
    """Mean cosine of two different rows; near 1 all studies look alike. NaN of fewer than two."""
    effective_rank: float
    """Directions in use, 1 to D. NaN of fewer than two rows."""

    @property
    def collapsed(self) -> bool:
        """Whether neighbours mean nothing: the vectors are nearly all the same."""
        return self.sample > 1 and self.mean_cosine > COLLAPSED_COSINE

    def sentence(self) -> str:
        """Return the verdict in words."""
        if self.sample < 2:
            return f"embedding space: not judged (sample of {self.sample})"
        figures = (
            f"mean pairwise cosine {self.mean_cosine:.4f}, effective rank {self.effective_rank:.1f} "
            f"(sample of {self.sample})"
        )
        if self.collapsed:
            return (
                f"COLLAPSED embedding space: {figures}; nearly all studies have the same vector, so neighbours mean "
                "nothing. The encoder is probably untrained: train it, or start from pretrained weights."
            )
        return f"embedding space: {figures}"


def space_health(embeddings: Embeddings) -> SpaceHealth:
    """Return mean pairwise cosine and effective rank of (N, D) embeddings, N up to a few thousand.

    Effective rank is exp(entropy) of the normalised singular values of the centred rows (Roy and Vetterli,
    EUSIPCO 2007).
    """
    count = len(embeddings)
    if count < 2:
        return SpaceHealth(count, float("nan"), float("nan"))
    rows = embeddings.astype(np.float64)
    total = rows.sum(0)
    mean_cosine = (total @ total - np.einsum("nd,nd->", rows, rows)) / (count * (count - 1))
    spectrum = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    share = spectrum[spectrum > 1e-12 * max(spectrum[0], 1e-12)]
    share = share / share.sum() if len(share) else np.ones(1)
    return SpaceHealth(count, float(mean_cosine), float(np.exp(-(share * np.log(share)).sum())))
