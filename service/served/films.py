"""Films on their way to a browser: the file of a stored study, and pictures of what a browser cannot show.

No path outside the image root is ever opened, and no path leaves in a message.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from flask import Response, make_response

from encoder.errors import ImageError
from encoder.films.image import MAX_FILE_BYTES, read_image
from index.errors import PlaceError
from index.storage.places import below
from index.table.studies import Study
from service.errors import ImageMissing
from service.served.decoding import decoding


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


def film_response(path: Path, view: str) -> Response:
    """Return a film as the encoder reads it, as a PNG of 8 bits: what is beside the pixels may name a patient.

    Raises:
        ImageError: a file that is no film. Busy: too many pictures are being made.
    """
    with decoding().picture():
        picture = as_png(read_image(read_film(path, view), name=view, ignored_parts=decoding().ignored_parts))
    return picture_response(picture, "image/png")


def read_film(path: Path, view: str) -> bytes:
    """Return the bytes of a stored film. Raises ImageError where they are more than a film has."""
    with path.open("rb") as file:
        film = file.read(MAX_FILE_BYTES + 1)
    if len(film) > MAX_FILE_BYTES:
        raise ImageError(f"{view!r}: expected at most {MAX_FILE_BYTES} bytes, got more")
    return film


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
