"""Films on their way to a browser: the file of a stored study, and pictures of what a browser cannot show.

No path outside the image root is ever opened, and no path leaves in a message.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from flask import Response, make_response, request

from encoder.header import JPEG_SIGNATURE, PNG_SIGNATURE, parse_jpeg, parse_png
from encoder.image import read_image
from index.errors import PlaceError
from index.places import below
from index.studies import Study
from service.errors import ImageMissing


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
    """Return a film as a browser shows it: JPEG and 8-bit PNG as stored less what is no pixel, else as 8-bit PNG."""
    stat = path.stat()
    etag = f"film-{stat.st_mtime_ns:x}-{stat.st_size:x}"
    if request.if_none_match.contains_weak(etag):
        return _tagged(Response(status=304), etag)
    film = path.read_bytes()
    mimetype, picture = _bare(film) or ("image/png", as_png(read_image(film, name=view)))
    response = make_response(picture)  # never by its file: that would put the file's name into a header
    response.mimetype = mimetype
    return _tagged(response, etag)


def as_png(image: npt.NDArray[Any]) -> bytes:
    """Return an (H, W) image in [0, 1] as an 8-bit PNG."""
    _, encoded = cv2.imencode(".png", np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    return encoded.tobytes()


def _bare(film: bytes) -> tuple[str, bytes] | None:
    """The type and the bytes of a picture that browsers show, without its comments and EXIF, which may name a patient.

    A 16-bit PNG is left out: most hold 12 bits, which a browser shows as black. A JPEG of several scans may have
    comments between them.
    """
    if film.startswith(JPEG_SIGNATURE):
        header, bare = parse_jpeg(film)
        return ("image/jpeg", bare) if header.scans == 1 else None
    if film.startswith(PNG_SIGNATURE):
        header, bare = parse_png(film)
        return ("image/png", bare) if header.bits <= 8 else None
    return None


def _tagged(response: Response, etag: str) -> Response:
    response.set_etag(etag, weak=True)
    response.cache_control.no_cache = True
    return response
