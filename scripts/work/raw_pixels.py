"""A baseline that any encoder should beat: films shrunk to 32 x 32 and compared pixel by pixel."""

from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.films.image import read_image
from index.storage.places import below
from index.vectors import Embeddings
from scripts.terminal import progress_bar

SIDE = 32


def raw_pixels(studies: pa.Table, images: Path, ignored_parts: Container[str] = ()) -> Embeddings:
    """Return a vector a study, (N, 1024): its frontal film (or lateral) at 32 x 32, less its mean, of unit norm.

    Args:
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
    with progress_bar("films") as bar, ThreadPoolExecutor() as pool:
        rows = list(
            bar.track(pool.map(partial(_pixels, images, ignored_parts), paths), total=len(paths), description="pixels")
        )
    return np.stack(rows)


def _pixels(images: Path, ignored_parts: Container[str], path: Any) -> npt.NDArray[np.float32]:
    whole = read_image(below(images, path), name=path, ignored_parts=ignored_parts)
    film = cv2.resize(whole, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    film = film - film.mean()
    norm = np.linalg.norm(film)
    return film / norm if norm else np.full_like(film, SIDE**-1.0)
