"""Films on their way to a browser: the file of a stored study, and pictures of what a browser cannot show.

No path outside the image root is ever opened, and no path leaves in a message. Pictures show a film as the encoder
reads it, in the sizes that the page wants.
"""

import base64
import threading
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from cachetools import LRUCache
from flask import Response, make_response

from encoder.errors import ImageError
from encoder.films.image import MAX_FILE_BYTES, read_image, view_film
from index.errors import PlaceError
from index.storage.places import below
from index.table.studies import Study
from service.context import running
from service.errors import ImageMissing
from service.served.decoding import decoding

SMALL_SIDE = 640
"""Long side in pixels: sharp in a card on a 4K screen, some tens of kilobytes."""
_QUALITY = 88
KEPT_BYTES = 1 << 26
"""Of small pictures, in memory: about a thousand."""


class SmallPictures:
    """The small pictures that were asked for last, as many as fit. Safe under threads."""

    def __init__(self, size: int = KEPT_BYTES) -> None:
        """Keep at most `size` bytes of them."""
        self._pictures: LRUCache[Hashable, bytes] = LRUCache(size, getsizeof=len)
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> bytes | None:
        """Return the picture of a key, where it is kept."""
        with self._lock:
            return self._pictures.get(key)

    def keep(self, key: Hashable, picture: bytes) -> None:
        """Keep a picture in the place of those that nobody has asked for longest."""
        with self._lock:
            self._pictures[key] = picture


def film_path(image_root: Path | None, study: Study, view: str) -> Path:
    """Return the file of a study's film, links resolved.

    Raises:
        ImageMissing: no such view, no image root, no such file, or a path that leaves the root.
    """
    relative = study.frontal_path if view == "frontal" else study.lateral_path
    if relative is None:
        raise ImageMissing(f"study {study.study_id!r} has no {view} film")
    if image_root is None:
        raise ImageMissing("the service was started without an image root; start it with --images")
    with suppress(PlaceError):
        path = below(image_root, relative)
        if path.is_file():
            return path
    raise ImageMissing(f"the {view} film of study {study.study_id!r} is not in the image root")


def film_response(path: Path, view: str, *, whole: bool = False) -> Response:
    """Return a film as the encoder reads it, as a PNG of 8 bits: what is beside the pixels may name a patient.

    Args:
        whole: give the values that are stored instead, with how they are shown, in numbers alone.

    Raises:
        ImageError: a file that is no film. Busy: too many pictures are being made.
    """
    return picture_response(film_png(read_film(path, view), view, whole=whole), "image/png")


def film_png(film: bytes, view: str, *, whole: bool) -> bytes:
    """Return a film as a PNG, of its own values where it is to be `whole`. Raises ImageError, Busy."""
    with decoding().picture():
        if whole:
            return view_film(film, name=view, ignored_parts=decoding().ignored_parts).as_png()
        return as_png(read_image(film, name=view, ignored_parts=decoding().ignored_parts))


def read_film(path: Path, view: str) -> bytes:
    """Return the bytes of a stored film. Raises ImageError where they are more than a film has."""
    with path.open("rb") as file:
        film = file.read(MAX_FILE_BYTES + 1)
    if len(film) > MAX_FILE_BYTES:
        raise ImageError(f"{view!r}: expected at most {MAX_FILE_BYTES} bytes, got more")
    return film


def thumbnail_response(path: Path, view: str) -> Response:
    """Return a film as a small grey JPEG. Raises ImageError, Busy."""
    return picture_response(small_picture(path, view), "image/jpeg")


def small_picture(path: Path, view: str, side: int = SMALL_SIDE) -> bytes:
    """Return a film as a grey JPEG whose long side has so many pixels at most. Raises ImageError, Busy."""
    kept, key = _small_pictures(), (side, _key_of(path))
    if (picture := kept.get(key)) is None:
        picture = small_jpeg(read_film(path, view), view, side)
        kept.keep(key, picture)
    return picture


def redrawn(jpeg: str) -> str | None:
    """Return a picture that another server sent, drawn anew, as a JPEG in base64 like it; None where it is none."""
    try:
        with decoding().picture():
            film = read_image(base64.b64decode(jpeg, validate=True), name="picture")
            return base64.b64encode(_as_jpeg(_within(film, SMALL_SIDE))).decode()
    except (ImageError, ValueError):
        return None


def small_jpeg(film: bytes, view: str, side: int = SMALL_SIDE) -> bytes:
    """Return a film as a grey JPEG whose long side has so many pixels at most. Raises ImageError, Busy."""
    with decoding().picture():
        return _as_jpeg(_within(_read(film, view, side), side))


def picture_response(picture: bytes, mimetype: str) -> Response:
    """Return the answer that holds a picture, which is health data: no cache keeps it, and no header tells its file."""
    response = make_response(picture)
    response.mimetype = mimetype
    response.cache_control.no_store = True
    return response


def as_png(image: npt.NDArray[Any]) -> bytes:
    """Return an (H, W) image in [0, 1] as an 8-bit PNG."""
    _, encoded = cv2.imencode(".png", np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    return encoded.tobytes()


def drawn_film() -> bytes:
    """Return a film of two dark fields in a bright body: enough for a reader that refuses constant images."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    lungs = np.exp(-((np.abs(x) - 0.45) ** 2) / 0.06 - y**2 / 0.4)
    return as_png(0.85 * np.exp(-(x**4)) * (1 - 0.8 * lungs))


def _small_pictures() -> SmallPictures:
    pictures: SmallPictures = running.small_pictures
    return pictures


def _read(film: bytes, view: str, least_side: int) -> npt.NDArray[np.float32]:
    return read_image(film, name=view, least_side=least_side, ignored_parts=decoding().ignored_parts)


def _key_of(path: Path) -> Hashable:
    """Return what is another once the file is."""
    status = path.stat()
    return path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _within(image: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """Return the (H, W) image made smaller where its long side is over `side` pixels."""
    scale = side / max(image.shape)
    if scale >= 1:
        return image
    height, width = (max(1, round(length * scale)) for length in image.shape)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _as_jpeg(image: npt.NDArray[np.float32]) -> bytes:
    grey = np.rint(image * 255).astype(np.uint8)
    return cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
