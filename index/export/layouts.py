"""The layouts of a collection's films: which of them are kept beside an index, and how far a new one is from them.

Knows rows of small whole numbers and patients; it must not know how a film becomes such a row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.export.shards import load_layouts

SAMPLE = 1000
"""Studies whose films stand for the collection: 0.3 points of standard error at the first percentile, 0.3 MB."""
VIEWS = ("frontal", "lateral")
SAME = 4
"""Most by which a number of two layouts of one film differs: 3 between a film and its JPEG of quality 50 or its
picture of 0.7 times the size, while among 574 films the next that are not one differed by 13."""
Layout = npt.NDArray[np.int8]
"""(W,): one film."""
Films = npt.NDArray[np.float32]
"""(n, W): layouts, scaled."""
Patients = npt.NDArray[np.str_]
"""(n,): whose films they are."""
NEAREST = 5
"""A film is of the view that all of so many films nearest to it are of. In a collection of 574 adults' films, 64 of 69
laterals and 504 of 505 frontals were known so, and none was taken for the other view; of 491 frontals of another
hospital's adults 1 was, of 517 of children, whom that collection lacks, 21."""
LEAST_VIEWS = 20
"""Films of each view without which none is told: with fewer, a lateral has frontals among its nearest."""


def sample_layouts(embeddings: Path, *, sample: int = SAMPLE, seed: int = 0) -> pa.Table | None:
    """Return `patient_id`, `view` and `layout` of the films of some studies of an export, drawn with the seed.

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
    views = [
        view
        for named, films in zip(studies["views"].to_pylist(), column.to_pylist(), strict=True)
        for view in (named if len(named) == len(films) else [None] * len(films))
    ]
    return pa.table({"patient_id": patients, "view": pa.array(views, pa.string()), "layout": column.flatten()})


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
    views: npt.NDArray[np.str_] | None = None
    """(n,): frontal, lateral, or "" where it is not known; None in a collection that does not say."""

    @classmethod
    def build(cls, sample: pa.Table | None) -> Self | None:
        """Return the gate of what `sample_layouts` gave; None without films of two patients."""
        if sample is None or len(sample["patient_id"].unique()) < 2:
            return None
        layouts = _stacked(sample["layout"].to_pylist())
        patients = np.array(sample["patient_id"].to_pylist())
        scale = 1 / (layouts.std(axis=0) + np.float32(1))  # one step of rounding is no spread
        films = layouts * scale
        views = None
        if "view" in sample.column_names:
            views = np.array([view or "" for view in sample["view"].to_pylist()])
        return cls(films, scale, patients, np.sort(_nearest(films, patients, films, patients)), views)

    def view_of(self, layout: Layout, patient: str | None = None) -> str | None:
        """Return frontal or lateral, as the collection's films nearest to this one are; None where that is not known.

        Args:
            layout: (W,) of the film asked about, one of a kind that the collection has.
            patient: whose own films are no neighbours of it.
        """
        if self.views is None or min(np.count_nonzero(self.views == view) for view in VIEWS) < LEAST_VIEWS:
            return None
        squared = _squared((layout * self.scale)[None], np.array([patient or ""]), self.films, self.patients)[0]
        nearest = self.views[np.argpartition(squared, NEAREST)[:NEAREST]]  # of 40 and more
        return next((view for view in VIEWS if (nearest == view).all()), None)

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


def are_alike(one: Layout, other: Layout) -> bool:
    """Return whether two layouts are of one film, which may have been written anew in between."""
    return bool(np.abs(one.astype(np.int16) - other).max() <= SAME)


def _squared(asked: Films, asked_patients: Patients, films: Films, patients: Patients) -> Films:
    """Return the squared distances (q, n) of films asked about (q, W) to films (n, W); infinite to one's own."""
    squared: Films = np.square(asked).sum(axis=1)[:, None] + np.square(films).sum(axis=1) - 2 * asked @ films.T
    squared[asked_patients[:, None] == patients] = np.inf
    return squared


def _nearest(asked: Films, asked_patients: Patients, films: Films, patients: Patients) -> npt.NDArray[np.float32]:
    """Return the distance (q,) of each film asked about (q, W) to the nearest film (n, W) of another patient."""
    squared = _squared(asked, asked_patients, films, patients)
    nearest: npt.NDArray[np.float32] = np.sqrt(np.maximum(squared.min(axis=1), 0))
    return nearest
