"""Pictures of films in the sizes that the page wants, as the encoder reads them.

It knows one film at a time, and must not know of studies or of their order.
"""

import base64
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from flask import Response, make_response, request

from encoder.image import read_image
from service.films import as_png

SMALL_SIDE = 640
"""Long side in pixels: sharp in a card on a 4K screen, some tens of kilobytes."""
LARGE_SIDE = 2048
"""Of an uploaded film on its way back: enough to read it at the height of a 4K screen."""
_QUALITY = 88


def thumbnail_response(path: Path, view: str) -> Response:
    """Return a film as a small grey JPEG. Raises ImageError."""
    stat = path.stat()
    etag = f"small-{SMALL_SIDE}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
    if request.if_none_match.contains_weak(etag):
        response = Response(status=304)
    else:
        response = make_response(_as_jpeg(_within(read_image(path.read_bytes(), name=view), SMALL_SIDE)))
        response.mimetype = "image/jpeg"
    response.set_etag(etag, weak=True)
    response.cache_control.no_cache = True
    return response


def data_url(film: bytes, view: str) -> str:
    """Return an uploaded film as the encoder reads it, as the data: URL of a PNG. Raises ImageError."""
    image = _within(read_image(film, name=view), LARGE_SIDE)
    return "data:image/png;base64," + base64.b64encode(as_png(image)).decode()


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
