"""Films that are pixels and nothing else: no tag, no overlay, no comment or EXIF comes along.

It must not know of files on disk, nor whose film it is.
"""

import cv2
import numpy as np

from encoder.header import JPEG_SIGNATURE, PNG_SIGNATURE, parse_jpeg, parse_png
from encoder.image import Image, read_image


def untagged(film: bytes, name: str = "upload") -> tuple[bytes, str]:
    """Return the film as a file that `read_image` reads alike, and the ending its name should have.

    A JPEG and a PNG keep their own pixels, to the bit; a JPEG of several scans, between which comments may stand, and
    a DICOM become a PNG, the latter in steps of 1/65535.

    Raises:
        ImageError: the film cannot be used.
    """
    if film.startswith(JPEG_SIGNATURE):
        header, bare = parse_jpeg(film)
        return (bare, ".jpg") if header.scans == 1 else (_as_png(read_image(film, name=name), 8), ".png")
    if film.startswith(PNG_SIGNATURE):
        return parse_png(film)[1], ".png"
    return deep_png(read_image(film, name=name)), ".png"


def deep_png(image: Image) -> bytes:
    """Return an (H, W) image in [0, 1], 0 and 1 among its values, as a grey PNG of 16 bits."""
    return _as_png(image, 16)


def _as_png(image: Image, bits: int) -> bytes:
    grey = np.rint(image * np.float32(2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    return cv2.imencode(".png", grey)[1].tobytes()
