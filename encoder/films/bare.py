"""Films that are pixels and nothing else: no tag, overlay, comment, table or palette is kept."""

from collections.abc import Container

import cv2

from encoder.films.image import read_plane
from encoder.films.plane import Plane


def untagged(film: bytes, name: str = "upload", ignored_parts: Container[str] = ()) -> tuple[bytes, str]:
    """Return the film written anew from its pixels, as a PNG that `read_plane` reads alike, and the ending of its name.

    Nothing of the file is copied: text fits into every part of a picture that a decoder steps over, into unused
    tables and colours too. Of 8 bits where the film has them, else of 16, to the bit.

    Args:
        ignored_parts: as `read_plane` has them.

    Raises:
        ImageError: the film cannot be used.
    """
    return as_png(read_plane(film, name=name, ignored_parts=ignored_parts)), ".png"


def as_png(plane: Plane) -> bytes:
    """Return a plane as a grey PNG of its own 8 or 16 bits."""
    return cv2.imencode(".png", plane)[1].tobytes()
