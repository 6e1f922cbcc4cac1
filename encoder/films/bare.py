"""Films that are pixels and nothing else: no tag, overlay, comment, table or palette is kept."""

from collections.abc import Container

import cv2
import numpy as np

from encoder.films.image import Image, read_image
from encoder.films.picture_header import JPEG_SIGNATURE, PNG_SIGNATURE, parse_png


def untagged(film: bytes, name: str = "upload", ignored_parts: Container[str] = ()) -> tuple[bytes, str]:
    """Return the film written anew from its pixels, as a PNG that `read_image` reads alike, and the ending of its name.

    Nothing of the file is copied: text fits into every part of a picture that a decoder steps over, into unused
    tables and colours too. Of 8 bits where the film has them, to the bit; else of 16, in steps of 1/65535.

    Args:
        ignored_parts: as `read_image` has them.

    Raises:
        ImageError: the film cannot be used.
    """
    image = read_image(film, name=name, ignored_parts=ignored_parts)
    return (_as_png(image, 8) if _has_bytes(film) else deep_png(image)), ".png"


def _has_bytes(film: bytes) -> bool:
    """Return whether a film that was read is a picture of 8 bits a sample or less, which is not stretched."""
    if film.startswith(PNG_SIGNATURE):
        return parse_png(film)[0].bits <= 8
    return film.startswith(JPEG_SIGNATURE)


def deep_png(image: Image) -> bytes:
    """Return an (H, W) image in [0, 1], 0 and 1 among its values, as a grey PNG of 16 bits."""
    return _as_png(image, 16)


def _as_png(image: Image, bits: int) -> bytes:
    grey = np.rint(image * np.float32(2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    return cv2.imencode(".png", grey)[1].tobytes()
