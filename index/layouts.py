"""The layouts of a collection's films: which of them are kept beside an index, and how far a new one is from them.

Knows rows of small whole numbers and patients; it must not know how a film becomes such a row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.shards import load_layouts

SAMPLE = 1000
"""Studies whose films stand for the collection: 0.3 points of standard error at the first percentile, 0.3 MB."""
Layout = npt.NDArray[np.int8]
"""(W,): one film."""
Films = npt.NDArray[np.float32]
"""(n, W): layouts, scaled."""
Patients = npt.NDArray[np.str_]
"""(n,): whose films they are."""


def sample_layouts(embeddings: Path, *, sample: int = SAMPLE, seed: int = 0) -> pa.Table | None:
    """Return `patient_id` and `layout` of the films of some studies of an export, drawn with the seed.

    None where the export, an older one, has no layouts.
    """
    table = load_layouts(embeddings)
    rows = np.flatnonzero(table["layouts"].is_valid().to_numpy()) if table is not None else np.empty(0, np.int64)
    if table is None or not len(rows):
        return None
    drawn = np.random.default_rng(seed).choice(rows, min(sample, len(rows)), replace=False)
    studies = table.take(pa.array(np.sort(drawn))).combine_chunks()
    column = studies["layouts"].combine_chunks()
    patients = studies["patient_id"].take(column.value_parent_indices())
    return pa.table({"patient_id": patients, "layout": column.flatten()})


@dataclass(frozen=True)
class LayoutGate:
    """Films of a collection, and how far each is from the nearest of another patient. Built once, safe under threads.

    The distance is Euclid's after each number is divided by its spread over the collection, so that places where
    its films are all alike count for most.
    """

    films: Films
    scale: npt.NDArray[np.float32]
    """(W,)."""
    patients: Patients
    distances: npt.NDArray[np.float32]
    """(n,) ascending."""

    @classmethod
    def build(cls, sample: pa.Table | None) -> Self | None:
        """Return the gate of what `sample_layouts` gave; None without films of two patients."""
        if sample is None or len(sample["patient_id"].unique()) < 2:
            return None
        layouts = _stacked(sample["layout"].to_pylist())
        patients = np.array(sample["patient_id"].to_pylist())
        scale = 1 / (layouts.std(axis=0) + np.float32(1))  # one step of rounding is no spread
        films = layouts * scale
        return cls(films, scale, patients, np.sort(_nearest(films, patients, films, patients)))

    def percentile(self, layout: Layout, patient: str | None = None) -> float:
        """Return the share, in percent, of the collection's films that are as far from the next patient's or farther.

        Args:
            layout: (W,) of the film asked about.
            patient: whose own films are no neighbours of it.
        """
        asked = (layout * self.scale)[None], np.array([patient or ""])
        nearer = np.searchsorted(self.distances, _nearest(*asked, self.films, self.patients)[0], side="left")
        return 100 * float(1 - nearer / len(self.distances))


def _stacked(rows: list[bytes]) -> Films:
    return np.frombuffer(b"".join(rows), dtype=np.int8).reshape(len(rows), -1).astype(np.float32)


def _nearest(asked: Films, asked_patients: Patients, films: Films, patients: Patients) -> npt.NDArray[np.float32]:
    """Return the distance (q,) of each film asked about (q, W) to the nearest film (n, W) of another patient."""
    squared = np.square(asked).sum(axis=1)[:, None] + np.square(films).sum(axis=1) - 2 * asked @ films.T
    squared[asked_patients[:, None] == patients] = np.inf
    nearest: npt.NDArray[np.float32] = np.sqrt(np.maximum(squared.min(axis=1), 0))
    return nearest
