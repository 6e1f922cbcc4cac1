"""Whether a query looks like anything in the collection: how its similarity ranks among those of stored studies.

What makes a film a chest film is only inferred from the films that the collection has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.built.collection import Collection
from index.built.kinds import EXACT_UP_TO
from index.built.vector_index import VectorIndex
from index.importing.dicom_header import ReadHeader
from index.importing.pairing import FilmsByView, film_notices
from index.vectors import Rows

UNFAMILIAR_BELOW = 1.0
"""Percentile. About 1 in 100 studies of the collection's own kind falls below it too: by layout 0.5 to 1.4 of 100
held-out studies of four collections (simulated films, children's, adults', COVID-19's), while a tibia and a hand stood
at 0.0 in all four, as did 80 cuttings of them, turned and of other exposure, but for 3 in the last."""
NO_CALL = "the film is unfamiliar: it may be of a kind that the probe has not learnt"
"""Why nothing is called present or absent on an unfamiliar film."""
SAMPLE = 500
"""Studies, each of another patient, that stand for the collection: one point of standard error at the bar, and below a
second for 50,000 x 512."""
_FETCH = 16
VIEWS = ("frontal", "lateral")
SAME = 4
"""Most by which a number of two layouts of one film differs: 3 between a film and its JPEG of quality 50 or its
picture of 0.7 times the size, while among 574 films the next that are not one differed by 13."""
Layout = npt.NDArray[np.int8]
"""(W,): one film."""
_Layouts = npt.NDArray[np.float32]
"""(n, W): layouts, scaled."""
_Patients = npt.NDArray[np.str_]
"""(n,): whose films they are."""
NEAREST = 5
"""A film is of the view that all of so many films nearest to it are of. In a collection of 574 adults' films, 64 of 69
laterals and 504 of 505 frontals were known so, and none was taken for the other view; of 491 frontals of another
hospital's adults 1 was, of 517 of children, whom that collection lacks, 21."""
LEAST_VIEWS = 20
"""Films of each view without which the view of none is said: with fewer, a lateral has frontals among its nearest."""
MENDED = 1.2
"""Times that a film is farther from the films nearest to it than it would be turned, or as a negative, where that is
said. Of 491 held-out frontals and 19 laterals of two collections none was called so wrongly. Of the same turned or
inverted, in seven ways, at least 98.2 % of the frontals were known, and of the laterals 53 % that were upside down and
89 % of the others. Of films that were mirrored, some 85 % of the frontals and half of the laterals were nearer to the
others as they had been, which is too few: nothing is said of those."""
Codes = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Familiarity:
    """How similar a query is to the collection, compared with how similar its own studies are to each other."""

    similarity: float | None
    """Of the nearest study of another patient, where it was asked for."""
    percentile: float
    """Share, in percent, of the collection's own that are no nearer to any other patient's; 0 to 100."""
    reference: int
    """Films or studies that the percentile is taken among."""
    measure: Literal["layout", "embedding"]
    """What near means: layout, that films look alike from afar; embedding, that the encoder finds studies similar."""

    @property
    def unfamiliar(self) -> bool:
        """Whether the film may be no chest film, or one of a kind that the collection lacks."""
        return self.percentile < UNFAMILIAR_BELOW

    @property
    def bar(self) -> float:
        """The percentile below which a film is unfamiliar."""
        return UNFAMILIAR_BELOW

    @property
    def sentence(self) -> str:
        """The percentile in words."""
        if self.measure == "layout":
            return (
                f"{self.percentile:.1f} % of the collection's films look at least as unusual as this one, compared "
                "with films of other patients"
            )
        return (
            f"the most similar study has a similarity of {self.similarity:.2f}; for {self.percentile:.1f} % of the "
            "collection's studies the most similar one of another patient is no closer"
        )


@dataclass(frozen=True)
class LayoutGate:
    """Films of a collection, and how far each is from the nearest of another patient. Built once, safe under threads.

    The distance is Euclid's after each number is divided by its spread over the collection, so that places where
    its films are all alike count for most.
    """

    films: _Layouts
    scale: npt.NDArray[np.float32]
    """(W,)."""
    patients: _Patients
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

    def distances_to(self, layouts: Sequence[Layout]) -> npt.NDArray[np.float64]:
        """Return how far each film (q,) is from the nearest, all of them of other patients."""
        asked, strangers = np.stack(layouts) * self.scale, np.full(len(layouts), "")
        return _nearest(asked, strangers, self.films, self.patients).astype(np.float64)

    def best_mend(self, layout: Layout, mended: Mapping[str, Layout]) -> str | None:
        """Return the name of the layout that a film would have if it were turned or inverted, where it fits in clearly.

        Args:
            layout: (W,) of the film as it is.
            mended: by name.
        """
        asked = np.stack([layout, *mended.values()]) * self.scale
        squared = _squared(asked, np.full(len(asked), ""), self.films, self.patients)
        count = min(NEAREST, squared.shape[1])
        near = np.sqrt(np.maximum(np.partition(squared, count - 1)[:, :count], 0)).mean(axis=1)
        best = int(near[1:].argmin())
        return list(mended)[best] if MENDED * near[1 + best] < near[0] else None

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


@dataclass(frozen=True)
class FamiliarityGate:
    """How near a collection's own studies and films are to other patients'; built once, safe under threads.

    The rank of a new film among these is a conformal p-value (Laxhammar and Falkman, 2010): a film of the same kind
    falls below a percentile as often as it says. Nearest neighbours as a test for foreign input: Sun et al., ICML 2022.

    Films are judged by their layouts. An encoder that was trained to tell findings apart may put any picture among
    its films: a tibia stood above a third of the adults' chest films that one had learnt. Only a study whose films
    are not at hand, or a collection without layouts, is judged by embeddings.
    """

    similarities: npt.NDArray[np.float64]
    """(n,) ascending: of studies to the nearest of another patient."""
    layouts: LayoutGate | None = None

    @classmethod
    def build(cls, collection: Collection, *, sample: int = SAMPLE, seed: int = 0) -> Self:
        """Return the gate of a collection, from at most `sample` studies, one a patient, drawn with the seed.

        Studies of one patient are no neighbours of each other, so that follow-ups do not raise the bar.
        """
        codes = collection.studies["patient_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        order = np.random.default_rng(seed).permutation(len(codes))
        firsts = np.sort(np.unique(codes[order], return_index=True)[1])[:sample]
        nearest = np.sort(_nearest_of_others(collection.vectors, codes, order[firsts]))
        return cls(nearest, LayoutGate.build(collection.layouts))

    def judge(
        self, similarity: float | None, layouts: Sequence[Layout] = (), *, patient: str | None = None
    ) -> Familiarity | None:
        """Return how familiar a query is; None where the collection has one patient alone, or nothing is given.

        Args:
            similarity: of its nearest study.
            layouts: of its films, one each; the least familiar counts, its percentile as often as there are films,
                since one of two falls low twice as often as one alone (Bonferroni).
            patient: whose own films are no neighbours of these.
        """
        if self.layouts is not None and len(layouts):
            least = min(self.layouts.percentile(layout, patient) for layout in layouts)
            return Familiarity(similarity, min(100.0, least * len(layouts)), len(self.layouts.distances), "layout")
        count = len(self.similarities)
        if similarity is None or not count:
            return None
        below = np.searchsorted(self.similarities, similarity, side="right")
        return Familiarity(similarity, 100 * float(below) / count, count, "embedding")

    def best_mend(self, layout: Layout, mended: Mapping[str, Layout]) -> str | None:
        """Return how a film should be turned or inverted to look like the collection's own; None where it should not.

        Args:
            layout: of the film as it is. mended: its layout after each mend, by name.
        """
        return None if self.layouts is None else self.layouts.best_mend(layout, mended)

    def view_of(self, layout: Layout, patient: str | None = None) -> str | None:
        """Return frontal or lateral, as a film looks beside the collection's own; None where it is not known.

        Args:
            layout: of the film; one that is unfamiliar has no view here.
            patient: whose own films are no neighbours of it.
        """
        if self.layouts is None or self.layouts.percentile(layout, patient) < UNFAMILIAR_BELOW:
            return None
        return self.layouts.view_of(layout, patient)


def paired(
    gate: FamiliarityGate | None, films: FilmsByView, layouts: Sequence[Layout], read_header: ReadHeader
) -> list[str]:
    """Return what a reader should know of films given as one study, with how they look beside the collection's.

    Args:
        gate: the collection's; without one their looks are not known.
        films: by view. layouts: theirs, in that order.
    """
    every = {} if gate is None else {view: gate.view_of(layout) for view, layout in zip(films, layouts, strict=True)}
    looks = {view: look for view, look in every.items() if look}
    return film_notices(films, looks, read_header=read_header, same=len(layouts) == 2 and are_alike(*layouts))


def are_alike(layout: Layout, other: Layout) -> bool:
    """Return whether two layouts are of one film, which may have been written anew in between."""
    return bool(np.abs(layout.astype(np.int16) - other).max() <= SAME)


def _stacked(rows: list[bytes]) -> _Layouts:
    return np.frombuffer(b"".join(rows), dtype=np.int8).reshape(len(rows), -1).astype(np.float32)


def _squared(asked: _Layouts, asked_patients: _Patients, films: _Layouts, patients: _Patients) -> _Layouts:
    """Return the squared distances (q, n) of films asked about (q, W) to films (n, W); infinite to one's own."""
    squared: _Layouts = np.square(asked).sum(axis=1)[:, None] + np.square(films).sum(axis=1) - 2 * asked @ films.T
    squared[asked_patients[:, None] == patients] = np.inf
    return squared


def _nearest(
    asked: _Layouts, asked_patients: _Patients, films: _Layouts, patients: _Patients
) -> npt.NDArray[np.float32]:
    """Return the distance (q,) of each film asked about (q, W) to the nearest film (n, W) of another patient."""
    squared = _squared(asked, asked_patients, films, patients)
    nearest: npt.NDArray[np.float32] = np.sqrt(np.maximum(squared.min(axis=1), 0))
    return nearest


def _nearest_of_others(vectors: VectorIndex, codes: Codes, rows: Rows) -> npt.NDArray[np.float64]:
    """Return the similarity of each row to the nearest of another patient; a row that has none is left out."""
    nearest_of = np.full(len(rows), np.nan)
    affordable = len(vectors) <= EXACT_UP_TO
    open_rows, fetch = np.arange(len(rows)), min(_FETCH, len(vectors))
    while len(open_rows):
        queries = vectors.vectors(rows[open_rows])
        similarities, neighbours = vectors.search(queries, fetch, exact=affordable or fetch > _FETCH)
        others = (codes[neighbours] != codes[rows[open_rows], None]) & (neighbours >= 0)
        nearest = others.argmax(axis=1)
        settled = others.any(axis=1)
        nearest_of[open_rows[settled]] = similarities[settled, nearest[settled]]
        if fetch == len(vectors):
            break
        open_rows, fetch = open_rows[~settled], min(4 * fetch, len(vectors))
    return nearest_of[~np.isnan(nearest_of)]
