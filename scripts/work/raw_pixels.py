"""What is measured of films themselves: as a baseline that any encoder should beat, each shrunk to 32 x 32 pixels."""

from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.films.image import read_image
from index.storage.places import below
from index.vectors import Embeddings
from scripts.terminal import progress_bar

SIDE = 32
T = TypeVar("T")


def raw_pixels(studies: pa.Table, images: Path, ignored_parts: Container[str] = ()) -> Embeddings:
    """Return a vector a study, (N, 1024): its frontal film (or lateral) at 32 x 32, less its mean, of unit norm.

    Args and errors as `first_films`.
    """
    return np.stack(first_films(studies, images, _pixels, "pixels", ignored_parts))


def first_films(
    studies: pa.Table,
    images: Path,
    measure: Callable[[npt.NDArray[np.float32]], T],
    what: str,
    ignored_parts: Container[str] = (),
) -> list[T]:
    """Return what is measured of each study's frontal film (or lateral), (H, W) in [0, 1].

    Args:
        what: what is measured, as progress is told.
        ignored_parts: as `encoder.films.image.read_plane` has them.

    Raises:
        ImageError, OSError: a film cannot be read. PlaceError: it lies outside of the folder.
    """
    paths = [
        frontal or lateral
        for frontal, lateral in zip(
            studies["frontal_path"].to_pylist(), studies["lateral_path"].to_pylist(), strict=True
        )
    ]

    def measured(path: Any) -> T:
        return measure(read_image(below(images, path), name=path, ignored_parts=ignored_parts))

    with progress_bar("films") as bar, ThreadPoolExecutor() as pool:
        return list(bar.track(pool.map(measured, paths), total=len(paths), description=what))


def _pixels(whole: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    film = cv2.resize(whole, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    film = film - film.mean()
    norm = np.linalg.norm(film)
    return film / norm if norm else np.full_like(film, SIDE**-1.0)
