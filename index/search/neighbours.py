"""The nearest studies of every study, in one go: a collection's graph of nearest neighbours, and its near-duplicates.

Studies are compared in blocks, so that memory does not grow with the collection.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.built.collection import Collection
from index.built.vector_index import Mask, Rows
from index.errors import CollectionError
from index.search.retriever import SIMILARITY_DECIMALS, SLACK, Names

Similar = npt.NDArray[np.float64]
PAIRS = pa.schema(
    [
        ("study_id", pa.string()),
        ("neighbour_id", pa.string()),
        ("rank", pa.int32()),
        ("similarity", pa.float64()),
        ("same_patient", pa.bool_()),
        ("patient_id", pa.string()),
        ("neighbour_patient_id", pa.string()),
    ]
)
"""Columns of pairs. Ranks count from 1, the similarity is the cosine to six decimals, ids are those of the table."""
BLOCK = 4096
"""Studies that ask at a time, as one matrix product."""
_PAIRS = 1 << 20
"""Pairs that are held at a time: 16 MB."""
_COMPARED = 1 << 14
"""Pairs whose vectors are compared again at a time: 34 MB of 512 dimensions, and as much again twice, in 64 bits."""
_ROUNDING = 2 * 10.0**-SIMILARITY_DECIMALS
"""By which the order of 32-bit sums may be off."""


def nearest_neighbours(
    collection: Collection, k: int, *, same_patient: bool = False, approximate: bool = False
) -> Iterator[pa.Table]:
    """Yield the k nearest of every study, most similar first, ties by study id: a table of PAIRS a block of studies.

    Args:
        k: at least 1; a study has fewer only where there are no more.
        same_patient: whether a study of the same patient may be one.
        approximate: find them as the index usually does, with the recall that its manifest states; each is compared
            exactly all the same.
    """
    nearest = _Nearest(collection, exact=not approximate)

    def settled(similar: Similar, lowest: Similar) -> Mask:
        return np.asarray(similar[:, min(k, similar.shape[1]) - 1] > lowest) & (similar.shape[1] >= k)

    for block in nearest.blocks(k + 1 + SLACK, settled, same_patient=same_patient):
        yield nearest.table(*(np.concatenate(part) for part in zip(*(_first(k, *each) for each in block), strict=True)))


def near_duplicates(collection: Collection, at_least: float, *, most: int) -> Iterator[pa.Table]:
    """Yield every pair of studies that are at least so similar, once: a table of PAIRS a block of studies.

    The rank is that of the second among those of the first that are named with it.

    Args:
        at_least: cosine, above -1.

    Raises:
        CollectionError: more than `most` pairs are.
    """
    nearest, pairs = _Nearest(collection, exact=True), 0

    def settled(similar: Similar, lowest: Similar) -> Mask:
        return lowest < at_least - _ROUNDING

    for block in nearest.blocks(2 * SLACK, settled, same_patient=True):
        parts = []
        for rows, neighbours, similar in block:
            kept = np.where((neighbours > rows[:, None]), similar, -np.inf)
            order = np.argsort(-kept, axis=1, kind="stable")
            neighbours, kept = np.take_along_axis(neighbours, order, 1), np.take_along_axis(kept, order, 1)
            width = int((kept >= at_least).sum(axis=1).max(initial=0))
            parts.append(_first(width, rows, neighbours, np.where(kept >= at_least, kept, -np.inf)))
        pairs_table = nearest.table(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        pairs += pairs_table.num_rows
        if pairs > most:
            raise CollectionError(
                f"expected at most {most:,} pairs of a similarity of {at_least:g} or more, got more; ask for more "
                "similar ones, or allow more pairs"
            )
        yield pairs_table


def _first(k: int, rows: Rows, neighbours: Rows, similar: Similar) -> tuple[Rows, Rows, Rows, Similar]:
    """Return the first k neighbours of each row as flat columns: the row, the neighbour, its rank, its similarity."""
    neighbours, similar = neighbours[:, :k], similar[:, :k]
    held = np.isfinite(similar)
    ranks = np.broadcast_to(np.arange(1, neighbours.shape[1] + 1), neighbours.shape)
    return np.repeat(rows, held.sum(axis=1)), neighbours[held], ranks[held], similar[held]


class _Nearest:
    """Asks a collection for the nearest of all its rows."""

    def __init__(self, collection: Collection, *, exact: bool) -> None:
        self._vectors, self._exact = collection.vectors, exact
        columns = (collection.studies[name].combine_chunks() for name in ("study_id", "patient_id"))
        self._ids, self._patient_ids = columns
        self._order = Names(self._ids).ranks()
        self._patients = self._patient_ids.dictionary_encode().indices.to_numpy()

    def blocks(
        self, start: int, settled: Callable[[Similar, Similar], Mask], *, same_patient: bool
    ) -> Iterator[list[tuple[Rows, Rows, Similar]]]:
        """Yield, a block of rows at a time, each row's nearest: rows (n,), neighbours (n, m), similarities (n, m).

        Similarities descend, ties by study id, minus infinity for what may not be named: the row itself, and rows of
        its patient unless they are asked for. Ever more are fetched until nothing unfetched is wanted.

        Args:
            start: rows to fetch first.
            settled: says of similarities (n, m), and of the lowest (n,) that was fetched, which rows need no more.
        """
        rows = len(self._vectors)
        for first in range(0, rows, BLOCK):
            left, count, block = np.arange(first, min(first + BLOCK, rows)), min(start, rows), []
            while len(left):
                unsettled = []
                for asked in np.split(left, range(size := max(_PAIRS // count, 1), len(left), size)):
                    neighbours, similar = self._fetched(asked, count)
                    lowest = similar.min(axis=1)  # minus infinity where an approximate index has no more
                    own = self._patients[neighbours] == self._patients[asked][:, None]
                    barred = neighbours == asked[:, None] if same_patient else own
                    similar = np.where(barred, -np.inf, similar)
                    order = np.lexsort((self._order[neighbours], -similar))
                    neighbours = np.take_along_axis(neighbours, order, 1)
                    similar = np.take_along_axis(similar, order, 1)
                    done = settled(similar, lowest) | (count == rows) | np.isneginf(lowest)
                    block.append((asked[done], neighbours[done], similar[done]))
                    unsettled.append(asked[~done])
                left, count = np.concatenate(unsettled), min(4 * count, rows)
            yield block

    def _fetched(self, asked: Rows, count: int) -> tuple[Rows, Similar]:
        """Return the nearest rows (n, count), and their similarities compared anew, minus infinity where none is."""
        queries = self._vectors.vectors(asked)
        neighbours = self._vectors.search(queries, count, exact=self._exact)[1]
        pairs, similar = neighbours.ravel(), np.empty(neighbours.size)
        for begin in range(0, len(pairs), _COMPARED):
            part = slice(begin, begin + _COMPARED)
            others = self._vectors.vectors(np.maximum(pairs[part], 0)).astype(np.float64)
            own = queries[np.arange(len(pairs))[part] // count].astype(np.float64)
            similar[part] = np.round(np.einsum("nd,nd->n", own, others), SIMILARITY_DECIMALS)
        return neighbours, np.where(neighbours < 0, -np.inf, similar.reshape(neighbours.shape))

    def table(self, rows: Rows, neighbours: Rows, ranks: Rows, similar: Similar) -> pa.Table:
        """Return pairs, in the order of the collection and of their ranks, as a table of PAIRS."""
        order = np.lexsort((ranks, rows))
        first, second = pa.array(rows[order]), pa.array(neighbours[order])
        columns = [
            self._ids.take(first),
            self._ids.take(second),
            pa.array(ranks[order].astype(np.int32)),
            pa.array(similar[order]),
            pa.array(self._patients[rows[order]] == self._patients[neighbours[order]]),
            self._patient_ids.take(first),
            self._patient_ids.take(second),
        ]
        return pa.Table.from_arrays(columns, schema=PAIRS)
