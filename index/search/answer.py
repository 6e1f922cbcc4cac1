"""What is asked of a collection and what it answers: a `Query` goes in whole, an `Answer` comes out whole."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy.typing as npt

from index.built.pairs import PairShares
from index.built.regions import Region, RegionPlace
from index.errors import CollectionError
from index.search.familiarity import Familiarity, FamiliarityGate, Layout
from index.table.filters import Where
from index.table.studies import Study


@dataclass(frozen=True)
class Subject:
    """What is known of a query besides its vector; what is not known is not matched."""

    patient_id: str | None = None
    study_id: str | None = None
    views: tuple[str, ...] = ()
    """Of ("frontal", "lateral"); empty where unknown."""
    projection: str | None = None
    sex: str | None = None
    age: float | None = None

    @classmethod
    def of(cls, study: Study) -> Self:
        """Return what is known of a stored study."""
        return cls(study.patient_id, study.study_id, study.views, study.projection, study.sex, study.age)


@dataclass(frozen=True, eq=False)
class Query:
    """What a collection is asked: which studies are most similar to this vector, or to that stored study.

    Raises:
        CollectionError: a `k` below 1 or that is no whole number, or another `group_by`.
    """

    vector: npt.ArrayLike | None = None
    """(D,) of unit norm; None where it is that of the stored study `subject.study_id`."""
    subject: Subject = Subject()
    """A stored study is never its own hit."""
    k: int = 10
    """Hits, at least 1; fewer come back only where fewer studies qualify."""
    where: Where | None = None
    """The filter grammar of `index.table.filters`."""
    exclude_same_patient: bool = True
    """Leave out the studies of the subject's own patient, where that is known."""
    group_by: Literal["patient"] | None = None
    """"patient" keeps the most similar study of each patient."""
    min_similarity: float | None = None
    """Hits below this cosine are dropped."""
    exact: bool = False
    """Compare every study even where an approximate index would do."""
    region: Region | None = None
    """Part of a film: the studies most similar by the whole film, of `exact` all, are ranked by their most similar
    place and, beside it, the whole film."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "k", operator.index(self.k))  # which numpy's integers become
        except TypeError:
            raise CollectionError(f"expected k as a whole number, got {self.k!r}") from None
        if self.k < 1:
            raise CollectionError(f"expected k of at least 1, got {self.k}")
        if self.group_by not in (None, "patient"):
            raise CollectionError(f"expected group_by 'patient' or nothing, got {self.group_by!r}")

    def of(self, study: Study, vector: npt.ArrayLike) -> Self:
        """Return the query for a stored study, with the vector (D,) that is stored of it."""
        return replace(self, vector=vector, subject=Subject.of(study))


@dataclass(frozen=True)
class Hit:
    """One similar study; rank counts from 1, similarity is the cosine in [-1, 1]."""

    rank: int
    similarity: float
    study: Study
    place: RegionPlace | None = None
    """Where a region was searched by: what is most like it, by which hits are ranked then."""


@dataclass(frozen=True)
class Answer:
    """What a search found."""

    hits: list[Hit]
    matched_total: int
    """Rows that passed filter and patient rules, whether or not they are among the hits."""
    exact: bool
    """Whether every row that passed was compared."""
    fingerprint: str = ""
    """Of the encoder whose vectors were searched."""
    familiarity: Familiarity | None = None
    """How near the query is to the collection; None where that was not asked or cannot be said."""
    film_notices: tuple[str, ...] = ()
    """What a reader should know of the films that were searched by, each in a sentence."""
    summary: str | None = None
    """What the hits have in common, in words, where that was asked for."""
    warning: str | None = None
    """Why the collection's neighbours are not to be relied on."""
    pairs: PairShares | None = None
    """What similarities are worth in this collection; None where that was not measured, and of a region or a text."""
    regions_missing: int = 0
    """Studies that could not be ranked by a region, having no such film or no map of it, as those added later."""
    took_ms: float = 0.0
    """Milliseconds that it took, where they were measured."""

    def judged(self, gate: FamiliarityGate, query: Query, layouts: Sequence[Layout] = ()) -> Self:
        """Return the same with how familiar the query is.

        Its nearest hit says so only where the search left out nothing but the query's own patient.

        Args:
            gate: of the collection. layouts: of the query's films, where they are at hand.
        """
        whole = query.exclude_same_patient and not query.where and query.region is None
        nearest = self.hits[0].similarity if self.hits and whole else None
        return replace(self, familiarity=gate.judge(nearest, layouts, patient=query.subject.patient_id))
