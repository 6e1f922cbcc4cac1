"""Whether a query looks like anything in the collection: its nearest similarity among the collection's own.

Knows vectors and patients; it must not know what makes a film a chest film, which it only infers.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from index.collection import Collection
from index.vector_index import EXACT_UP_TO, Rows, VectorIndex

UNFAMILIAR_BELOW = 5.0
"""Percentile. About 5 in 100 films of the collection's own kind fall below it too; at 1, films of other body parts
pass."""
SAMPLE = 500
"""Studies, each of another patient, that stand for the collection: one point of standard error at the bar, and below a
second for 50,000 x 512."""
_FETCH = 16

Codes = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Familiarity:
    """How near a query is to the collection, beside how near the collection's own studies are."""

    similarity: float
    """Of the nearest study of another patient."""
    percentile: float
    """Share, in percent, of the collection's studies that are no nearer to any other patient's; 0 to 100."""
    reference: int
    """Studies that the percentile is taken among."""

    @property
    def unfamiliar(self) -> bool:
        """Whether the film may be no chest film, or one of a kind that the collection lacks."""
        return self.percentile < UNFAMILIAR_BELOW


@dataclass(frozen=True)
class FamiliarityGate:
    """The nearest-neighbour similarities of a collection's own studies; built once, safe under threads.

    The rank of a new film's similarity among these is a conformal p-value (Laxhammar and Falkman, 2010): a film of
    the same kind falls below a percentile as often as it says. Nearest neighbours in feature space as a test for
    foreign input: Sun et al., ICML 2022. It can only be as good as the encoder: what the vectors do not tell apart,
    the gate does not either.
    """

    similarities: npt.NDArray[np.float64]
    """(n,) ascending."""

    @classmethod
    def build(cls, collection: Collection, *, sample: int = SAMPLE, seed: int = 0) -> Self:
        """Return the gate of a collection, from at most `sample` studies, one a patient, drawn with the seed.

        Studies of one patient are no neighbours of each other, so that follow-ups do not raise the bar.
        """
        codes = collection.studies["patient_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        order = np.random.default_rng(seed).permutation(len(codes))
        firsts = np.sort(np.unique(codes[order], return_index=True)[1])[:sample]
        return cls(np.sort(_nearest_of_others(collection.vectors, codes, order[firsts])))

    def judge(self, similarity: float) -> Familiarity | None:
        """Return where a query with this nearest similarity stands; None where the collection has one patient alone."""
        count = len(self.similarities)
        if not count:
            return None
        below = np.searchsorted(self.similarities, similarity, side="right")
        return Familiarity(similarity, 100 * float(below) / count, count)


def _nearest_of_others(vectors: VectorIndex, codes: Codes, rows: Rows) -> npt.NDArray[np.float64]:
    """Return the similarity of each row to the nearest of another patient; a row that has none is left out."""
    found = np.full(len(rows), np.nan)
    affordable = len(vectors) <= EXACT_UP_TO
    open_rows, fetch = np.arange(len(rows)), min(_FETCH, len(vectors))
    while len(open_rows):
        queries = vectors.vectors(rows[open_rows])
        similarities, neighbours = vectors.search(queries, fetch, exact=affordable or fetch > _FETCH)
        others = (codes[neighbours] != codes[rows[open_rows], None]) & (neighbours >= 0)
        nearest = others.argmax(axis=1)
        settled = others.any(axis=1)
        found[open_rows[settled]] = similarities[settled, nearest[settled]]
        if fetch == len(vectors):
            break
        open_rows, fetch = open_rows[~settled], min(4 * fetch, len(vectors))
    return found[~np.isnan(found)]
