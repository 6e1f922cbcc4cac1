"""Search by a part of a film: which place of another film is most like it.

Of each film a collection may keep a feature map, a few numbers a place on a coarse grid over the network's square.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from index.errors import ArtefactError, RegionError, RegionsMissing
from index.export.film_maps import VIEWS, Maps, RegionFormat
from index.vectors import Rows

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in shares of a film's width and height, from its upper left corner."""
CANDIDATES = 200
"""Studies most similar by the whole film, whose places are compared unless all are asked for."""
WHOLE_WEIGHT = 0.5
"""Of the whole film's similarity beside the place's. Of simulated films the five first had the finding under the box
in 0.908 by the whole film alone, in 0.891 by the place alone, in 0.933 with a weight of 0.3 and in 0.939 with 0.5."""
LEAST_SIDE = 0.01
"""Share of a side that a box must cover: less is a slip of the mouse, and a place of the map covers some 0.15."""
_SAMPLE = 2048
"""Films whose mean map stands for the collection's."""
_BLOCK = 512
_NONE_KEPT = (
    "this index keeps no feature maps of its films, which a search by region needs; export with --regions and index "
    "again (vectors that were imported, and databases, have none)"
)


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a film that is searched by.

    Raises:
        RegionError: no box on the film.
    """

    box: Box
    view: str = "frontal"
    square: Box | None = None
    """Where the network's square lies on the film, in shares of it."""
    film_map: Maps | None = None
    """(h, w, d) of the film; without it the film is that of the stored study that is searched by."""

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise RegionError(
                f"expected a region x0,y0,x1,y1 in shares of the film's width and height, 0 <= x0 < x1 <= 1 and "
                f"0 <= y0 < y1 <= 1, got {','.join(f'{side:g}' for side in self.box)}"
            )
        if min(x1 - x0, y1 - y0) < LEAST_SIDE:
            raise RegionError(f"expected a region of at least {LEAST_SIDE:.0%} of each side, got a smaller one")
        if self.view not in VIEWS:
            raise RegionError(f"expected a region of the frontal or the lateral film, got {self.view[:40]!r}")

    def on(self, square: Box, film_map: Maps) -> Self:
        """Return the region on a film."""
        return replace(self, square=square, film_map=film_map)

    @classmethod
    def parse(cls, text: str, view: str = "frontal") -> Self:
        """Return the region of a text x0,y0,x1,y1. Raises RegionError."""
        try:
            x0, y0, x1, y1 = map(float, text.split(","))
        except ValueError:
            raise RegionError(
                f"expected a region as four numbers x0,y0,x1,y1 in shares of the film, got {text[:80]!r}"
            ) from None
        return cls((x0, y0, x1, y1), view)


@dataclass(frozen=True)
class RegionPlace:
    """The place of a hit's film that is most like the region searched by."""

    view: str
    box: Box
    similarity: float
    """Cosine of the two places' features, each less what is usual at its place, in [-1, 1]."""


class RegionMaps:
    """The maps of a collection's films. Safe under threads."""

    def __init__(self, films: npt.NDArray[Any]) -> None:
        """Take (N, 2) records, frontal and lateral, of the collection's rows."""
        self.films = films

    @classmethod
    def load(cls, path: Path, text: str, rows: int) -> Self:
        """Return the maps in a file, mapped into memory. Raises ArtefactError: it is of another size."""
        if (size := path.stat().st_size) != (wanted := cls.bytes_of(text, rows)):
            raise ArtefactError(f"expected {wanted:,} bytes of feature maps in {path.name!r}, got {size:,}")
        return cls(np.memmap(path, RegionFormat(text).record, "r", shape=(rows, len(VIEWS))))

    @staticmethod
    def bytes_of(text: str, rows: int) -> int:
        """Return how many bytes the maps of so many studies take. Raises ArtefactError: the format is none."""
        return rows * len(VIEWS) * RegionFormat(text).record.itemsize

    def blocks(self, rows: Rows, *, further: int = 0) -> Iterator[npt.NDArray[Any]]:
        """Yield the records of rows, some at a time, and then so many of studies that have none."""
        for start in range(0, len(rows), _BLOCK):
            yield np.asarray(self.films[rows[start : start + _BLOCK]])
        if further:
            yield np.zeros((further, len(VIEWS)), self.films.dtype)

    def of_row(self, region: Region, row: int) -> Region:
        """Return a region on a stored film. Raises RegionsMissing: there is none."""
        record = np.asarray(self.films[row, VIEWS.index(region.view)])
        if not _is_there(record["square"]):
            raise RegionsMissing(f"the study has no {region.view} film with a feature map; ask about its other film")
        left, top, right, bottom = record["square"].tolist()
        return region.on((left, top, right, bottom), _maps_of(record))

    def places(self, region: Region, rows: Rows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the similarity (n,) of each row's most similar place, NaN of a missing film, and its box (n, 4).

        Raises:
            RegionError: the network sees nothing of the region, or it is of another encoder's film.
        """
        view = VIEWS.index(region.view)
        usual = self._usual[view]
        assert region.film_map is not None
        assert region.square is not None
        if region.film_map.shape != usual.shape:
            raise RegionError("expected a feature map of the collection's encoder and version, got another")
        box = _on_square(region.box, region.square)
        asked = _unit(np.einsum("hwd,hw->d", region.film_map.astype(np.float32) - usual, _weights(box, usual.shape)))
        windows = _windows(box, usual.shape)
        similarities, boxes = np.full(len(rows), np.nan), np.zeros((len(rows), 4))
        for start in range(0, len(rows), _BLOCK):
            records = self.films[rows[start : start + _BLOCK], view]
            block = slice(start, start + len(records))
            similarities[block], boxes[block] = _best(records, windows, usual, asked)
        return similarities, boxes

    @cached_property
    def _usual(self) -> npt.NDArray[np.float32]:
        """The mean map of each view (2, h, w, d) over films that lie evenly in the collection."""
        records = self.films[:: max(len(self.films) // _SAMPLE, 1)]
        there = _is_there(records["square"])[..., None, None, None]  # (n, 2, 1, 1, 1)
        count = np.maximum(there.sum(axis=0), 1)
        mean: npt.NDArray[np.float32] = _maps_of(records).sum(axis=0, where=there) / count
        return mean


def missing_maps(studies: int) -> str:
    """Return in a sentence how many studies could not be ranked by a region."""
    return (
        f"{studies:,} studies were left out: they have no such film, or no map of it is kept, as of studies that were "
        "added after the index was built; export with --regions and index again to have all"
    )


def require_maps(maps: RegionMaps | None) -> RegionMaps:
    """Return the maps. Raises RegionsMissing: the collection has none."""
    if maps is None:
        raise RegionsMissing(_NONE_KEPT)
    return maps


def _is_there(squares: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    is_box = (squares[..., 2] > squares[..., 0]) & (squares[..., 3] > squares[..., 1])
    return np.asarray(is_box & np.isfinite(squares).all(axis=-1))


def _maps_of(records: npt.NDArray[Any]) -> Maps:
    return np.nan_to_num(records["map"].astype(np.float32), nan=0, posinf=0, neginf=0)


def _on_square(box: Box, square: Box) -> Box:
    """Return a box of a film in shares of the network's square, cut to it. Raises RegionError: nothing is left."""
    left, top, right, bottom = square
    across, down = right - left, bottom - top
    x0, x1 = (min(max((x - left) / across, 0.0), 1.0) for x in box[::2])
    y0, y1 = (min(max((y - top) / down, 0.0), 1.0) for y in box[1::2])
    if x0 >= x1 or y0 >= y1:
        raise RegionError("the region lies outside of what the encoder sees of the film; choose one nearer its middle")
    return x0, y0, x1, y1


def _weights(box: Box, shape: tuple[int, ...]) -> Maps:
    """Return which share of each place (h, w) a box of the square covers."""
    return _covered(box[1], box[3], shape[0])[:, None] * _covered(box[0], box[2], shape[1])


def _covered(low: float, high: float, cells: int) -> npt.NDArray[np.float32]:
    """Return which share of each of so many cells lies between two shares of their line."""
    edges = np.arange(cells, dtype=np.float32)
    return np.clip(np.minimum(high * cells, edges + 1) - np.maximum(low * cells, edges), 0, 1).astype(np.float32)


def _windows(box: Box, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the windows (m, 4) of whole places, as many as a box has, at least one, that lie in the square."""
    height, width, _ = shape
    down = max(1, min(height, round((box[3] - box[1]) * height)))
    across = max(1, min(width, round((box[2] - box[0]) * width)))
    y, x = (side.ravel() for side in np.mgrid[: height - down + 1, : width - across + 1])
    return np.stack([x / width, y / height, (x + across) / width, (y + down) / height], axis=1)


def _best(
    records: npt.NDArray[Any], windows: npt.NDArray[np.float64], usual: Maps, asked: Maps
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the cosine (n,) of each film's most similar window to a feature (d,), NaN where there is no film, and the
    window (n, 4) in shares of the film, cut to it. The middle of a window lies on the film.
    """
    weights = np.stack([_weights((x0, y0, x1, y1), usual.shape).ravel() for x0, y0, x1, y1 in windows])  # (m, h * w)
    flat = usual.reshape(-1, usual.shape[-1])
    squares = records["square"].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # numbers that are none, in an index of somebody else's
        pooled = weights @ records["map"].reshape(-1, *flat.shape).astype(np.float32) - weights @ flat  # (n, m, d)
        lengths = np.sqrt(np.einsum("nmd,nmd->nm", pooled, pooled))
        cosines = np.nan_to_num(pooled @ asked / np.maximum(lengths, 1e-12), nan=-1)
        corners = squares[:, None, :2]
        on_film = np.tile(corners, 2) + windows * np.tile(squares[:, None, 2:] - corners, 2)  # (n, m, 4)
        middles = (on_film[..., :2] + on_film[..., 2:]) / 2
        best = np.where(((middles >= 0) & (middles <= 1)).all(axis=-1), cosines, -2).argmax(axis=1)
    rows = np.arange(len(records))
    similarities = np.where(_is_there(squares), np.clip(cosines[rows, best], -1, 1), np.nan)
    return similarities, np.clip(np.nan_to_num(on_film[rows, best]), 0, 1).round(4)


def _unit(values: Maps) -> Maps:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12))
