"""The films of one study as a network takes them, and the view positions that they were taken in."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.errors import EncoderError

Film = npt.NDArray[np.float32]
"""(C, S, S): one preprocessed film."""

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
