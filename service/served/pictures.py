"""Pictures of films in the sizes that the page wants, as the encoder reads them.

It knows one film at a time, and must not know of studies or of their order.
"""

import base64
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from cachetools import LRUCache
from flask import Response, current_app

from encoder.films.image import read_image
from service.served.decoding import decoding
from service.served.films import as_png, picture_response, read_film

SMALL_SIDE = 640
"""Long side in pixels: sharp in a card on a 4K screen, some tens of kilobytes."""
LARGE_SIDE = 2048
"""Of an uploaded film on its way back: enough to read it at the height of a 4K screen."""
_QUALITY = 88
KEPT_BYTES = 1 << 26
"""Of small pictures, in memory: about a thousand."""
EXTENSION = "precedent_small_pictures"


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


def thumbnail_response(path: Path, view: str) -> Response:
    """Return a film as a small grey JPEG. Raises ImageError, Busy."""
    kept, key = cast(SmallPictures, current_app.extensions[EXTENSION]), _key_of(path)
    if (picture := kept.get(key)) is None:
        with decoding().picture():
            film = _read(read_film(path, view), view, SMALL_SIDE)
            picture = _as_jpeg(_within(film, SMALL_SIDE))
        kept.keep(key, picture)
    return picture_response(picture, "image/jpeg")


def data_url(film: bytes, view: str) -> str:
    """Return an uploaded film as the encoder reads it, as the data: URL of a PNG. Raises ImageError, Busy."""
    with decoding().picture():
        picture = as_png(_within(_read(film, view, LARGE_SIDE), LARGE_SIDE))
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def _read(film: bytes, view: str, least_side: int) -> npt.NDArray[np.float32]:
    return read_image(film, name=view, least_side=least_side, ignored_parts=decoding().ignored_parts)


def _key_of(path: Path) -> Hashable:
    """Return what is another once the file is."""
    found = path.stat()
    return path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
