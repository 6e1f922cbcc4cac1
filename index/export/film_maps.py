"""How feature maps of films are kept: the bytes of one film, in a shard and in an index."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from index.errors import ArtefactError

VIEWS = ("frontal", "lateral")
Maps = npt.NDArray[np.floating[Any]]
"""(..., h, w, d)."""
_FORMAT = re.compile(r"([1-9]\d{0,3}):([1-9]\d?)x([1-9]\d?)x([1-9]\d{0,2})")


@dataclass(frozen=True)
class RegionFormat:
    """Version and shape of maps: (h, w) places of d numbers. Its text is 1:5x5x64."""

    text: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w, d)."""
        return tuple(map(int, self._parts[1:]))

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        found = _FORMAT.fullmatch(self.text)
        if found is None:
            raise ArtefactError(f"expected feature maps as 1:5x5x64 has them, got {self.text[:40]!r}; export again")
        return found.groups()

    @property
    def record(self) -> np.dtype[Any]:
        """One film: where the network's square lies on it, x0, y0, x1, y1 in shares of the film, and its map.

        A film that is missing has a square of nothing.
        """
        return np.dtype([("square", "<f4", 4), ("map", "<f2", self.shape)])


def as_record(text: str, square: Sequence[float], film_map: Maps) -> npt.NDArray[Any]:
    """Return a film's square and map as one record of a format."""
    record = np.zeros((), RegionFormat(text).record)
    record["square"], record["map"] = square, film_map
    return record
