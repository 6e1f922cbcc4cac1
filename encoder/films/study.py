"""The films of one study on their way to a network, and the view positions that they were taken in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.errors import EncoderError
from encoder.films.plane import Plane, deep

Film = Plane
"""(S, S): one film in the network's square, of 8 or 16 bits, before it is normalised."""
Normalized = npt.NDArray[np.float32]
"""(C, S, S): one film as the network takes it."""

POSITIONS = ("AP", "PA", "lateral")
"""View positions that a network can be given, in the order of their codes from 1 on; 0 is unknown."""
Positions = tuple[int, int]
"""Codes of the films that the frontal and the lateral branch are given."""


def position_code(position: str | None) -> int:
    """Return the code of a view position: 1 to 3 for those of POSITIONS, 0 for any other and for none."""
    return POSITIONS.index(position) + 1 if position in POSITIONS else 0


@dataclass(frozen=True)
class StudyFilms:
    """The preprocessed films of one study; at least one of the two is there."""

    frontal: Film | None
    lateral: Film | None
    projection: str | None = None
    """AP or PA, of the frontal film, where it is known; only encoders with a position input use it."""

    def __post_init__(self) -> None:
        if self.frontal is None and self.lateral is None:
            raise EncoderError("expected a frontal or a lateral film, got neither; give at least one")

    @property
    def positions(self) -> Positions:
        """The view positions of the films that the two branches get; a single film is in both."""
        given = [
            position_code(position)
            for film, position in ((self.frontal, self.projection), (self.lateral, "lateral"))
            if film is not None
        ]
        return given[0], given[-1]


def stack_films(films: Sequence[Film]) -> Plane:
    """Return films in one batch (M, 1, S, S): of 8 bits where all are, else of 16."""
    if any(film.dtype != films[0].dtype for film in films):
        films = [deep(film) for film in films]
    stack: Plane = np.stack(films)
    return stack[:, None]
