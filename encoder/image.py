"""Reading a radiograph: a path or bytes become one grey picture with bright bone, or a reason why not.

It must not know of networks, tensors or HTTP; what a DICOM header means is in `encoder.dicom`.
"""

import io
import math
import os
import struct
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from encoder.dicom import is_dicom, read_dicom
from encoder.errors import ImageError, NotAnImage
from encoder.header import JPEG_SIGNATURE, PNG_SIGNATURE, PictureHeader, parse_jpeg, parse_png

Source = str | os.PathLike[str] | bytes
Image = npt.NDArray[np.float32]

MAX_PIXELS = 40_000_000  # the largest detectors in use give about 17 million, a CR plate 20; reading takes 0.4 GB
MAX_FILE_BYTES = 100_000_000  # MAX_PIXELS of 16 bits uncompressed, and room for a header
MIN_SIDE = 32
MAX_ASPECT = 8
MAX_SATURATION = 30.0  # mean HSV saturation on 0..255; a grey film stored as RGB stays far below
_STRIP = 1_000_000  # pixels of a colour picture that are made grey at a time
_PASSES = 6  # passes of a many-scan JPEG over max_pixels; keeps its decoding near a second
_BYTES_A_PIXEL = 10  # while a film is read: the decoder's values, 16-bit ones, float32
_COPIES = 2  # of a file's bytes meanwhile
ADMISSION: ContextVar[Callable[[int], None]] = ContextVar("ADMISSION", default=lambda _size: None)
"""Called with the bytes that a film will take before it is decoded, in the reader's thread; may wait, or raise."""
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
    MemoryError,
)


def read_image(
    source: Source, *, name: str | None = None, max_pixels: int = MAX_PIXELS, least_side: int | None = None
) -> Image:
    """Return the film as (H, W) float32 in [0, 1], bone bright.

    JPEG and PNG of 8 bits are divided by 255. A PNG of 16 bits, whose true depth is not recorded, and a DICOM
    are stretched from their least to their greatest value. The orientation tag of EXIF is ignored: a film has
    one orientation, the one it is stored in.

    Args:
        source: path of a file, or its bytes.
        name: what to call the film in an error; default is the path, or "upload" for bytes.
        max_pixels: refused from the header when larger, before anything is decoded.
        least_side: decode a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 of its size whose short side is no less than
            this, which takes a third of the time; None decodes it whole. Means over squares of pixels, so a film
            that is shrunk well below this afterwards hardly differs.

    Raises:
        ImageError: the film cannot be used; NotAnImage where the bytes are no JPEG, PNG or DICOM.
    """
    label = name or ("upload" if isinstance(source, bytes) else str(source))
    try:
        image = _read(source if isinstance(source, bytes) else _read_bytes(source), max_pixels, least_side)
        return _as_film(image)
    except ImageError as error:
        raise type(error)(f"{label!r}: {error}") from error


def _read_bytes(source: str | os.PathLike[str]) -> bytes:
    """Return a file's bytes; what is no path of this machine but opens as one, such as an object's address, is read."""
    path = Path(source) if isinstance(source, str | os.PathLike) else source
    try:
        if isinstance(path, Path) and not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        found = "a folder" if path.is_dir() else "nothing"
        raise ImageError(f"expected a JPEG, PNG or DICOM file, got {found} at this path") from None
    except OSError as error:
        raise ImageError(f"expected a readable file, got {error.strerror}") from error


def _read(data: bytes, max_pixels: int, least_side: int | None) -> Image:
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"expected at most {MAX_FILE_BYTES} bytes, got more")
    if not data:
        raise NotAnImage("expected a JPEG, PNG or DICOM file, got 0 bytes")
    if data.startswith(JPEG_SIGNATURE):
        return _read_picture(data, parse_jpeg, JpegImageFile, max_pixels, least_side)
    if data.startswith(PNG_SIGNATURE):
        return _read_picture(data, parse_png, PngImageFile, max_pixels)
    if is_dicom(data):

        def admit(width: int, height: int) -> None:
            check_size(width, height, max_pixels)
            _admit(width * height, data)

        return read_dicom(data, admit)
    raise NotAnImage(f"expected a JPEG, PNG or DICOM (Part 10) file, got bytes that start with {data[:4].hex(' ')}")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Return nothing where a film of this size may be decoded.

    Raises:
        ImageError: too many pixels, too small, or too long and thin to be a film.
    """
    if width * height > max_pixels:
        raise ImageError(f"expected at most {max_pixels} pixels, got {width} x {height}; reduce the film first")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"expected both sides of at least {MIN_SIDE} pixels, got {width} x {height}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"expected sides within {MAX_ASPECT} to 1, got {width} x {height}; crop the film first")


def _admit(pixels: int, data: bytes) -> None:
    """Return once so many pixels of a file may be decoded."""
    ADMISSION.get()(_BYTES_A_PIXEL * pixels + _COPIES * len(data))


def _read_picture(
    data: bytes,
    parse: Callable[[bytes], tuple[PictureHeader, bytes]],
    decoder: type[JpegImageFile] | type[PngImageFile],
    max_pixels: int,
    least_side: int | None = None,
) -> Image:
    header, essence = parse(data)
    check_size(header.width, header.height, max_pixels)
    _check_scans(header, max_pixels)
    scale = _scale(header.width, header.height, least_side) if least_side and not header.progressive else 1
    _admit(header.pixels // scale**2, data)
    try:
        grey = _decode(decoder, essence, least_side)
    except _DECODER_ERRORS as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"expected a whole picture, got a damaged one ({error or type(error).__name__})") from error
    image: Image = np.divide(grey, np.float32(255 if grey.dtype == np.uint8 else 1), dtype=np.float32)
    return image


def _decode(
    decoder: type[JpegImageFile] | type[PngImageFile], essence: bytes, least_side: int | None
) -> npt.NDArray[Any]:
    """Return (H, W) as stored; what the decoder held, four bytes a pixel of a colour picture, is free afterwards."""
    # The format's own class: Pillow's open() adds a pixel limit and warnings that belong to the process.
    with decoder(io.BytesIO(essence)) as picture:
        if least_side:
            _draft(picture, least_side)
        picture.load()
        return _as_grey(picture)


def _draft(picture: JpegImageFile | PngImageFile, least_side: int) -> None:
    """Let a JPEG be decoded smaller, by the part of its DCT that is needed; other pictures stay as they are."""
    width, height = picture.size
    if (scale := _scale(width, height, least_side)) > 1:
        picture.draft(None, (width // scale, height // scale))


def _scale(width: int, height: int, least_side: int) -> int:
    """Return the greatest of 1, 2, 4 and 8 by which both sides can be divided and stay at least so long."""
    return next(scale for scale in (8, 4, 2, 1) if scale == 1 or min(width, height) // scale >= least_side)


def _check_scans(header: PictureHeader, max_pixels: int) -> None:
    """Refuse a JPEG of so many scans, each a pass over all pixels, that it costs far more than its size."""
    if not header.progressive and header.scans <= 1:
        return
    if header.scans * header.pixels > _PASSES * max_pixels or 2 * header.pixels > max_pixels or header.scans > 256:
        raise ImageError(
            f"expected a JPEG of few scans, got {header.scans} over {header.width} x {header.height}; "
            "save it again as a baseline JPEG"
        )


def _as_grey(picture: Pillow.Image) -> npt.NDArray[Any]:
    """Return (H, W) as stored: uint8, or a wider whole number where the picture has 16 bits."""
    if picture.mode in ("I;16", "I;16B", "I"):
        return np.array(picture)
    if picture.mode not in ("L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError(f"expected a grey or RGB picture, got mode {picture.mode!r}; export it as 8-bit grey")
    if picture.mode == "L" and "transparency" not in picture.info:
        return np.array(picture)
    return _greyed(picture)


def _greyed(picture: Pillow.Image) -> npt.NDArray[np.uint8]:
    """Return a picture with colour or alpha as (H, W), strip by strip: whole copies of it would take a gigabyte."""
    width, height = picture.size
    step = max(1, round(math.sqrt(width * height / 1_000_000)))  # of a sample of about a million pixels
    rows = max(step, _STRIP // width // step * step)
    grey = np.empty((height, width), np.uint8)
    saturations = []
    for top in range(0, height, rows):
        strip = _without_alpha(picture.crop((0, top, width, min(top + rows, height))))
        saturations.append(_saturation(strip.reduce(step)) * strip.height)
        grey[top : top + rows] = np.asarray(strip.convert("L"))
    _check_saturation(sum(saturations) / height)
    return grey


def _without_alpha(picture: Pillow.Image) -> Pillow.Image:
    """Return the picture in RGB, laid on black where it is not opaque."""
    if picture.mode.endswith("A") or "transparency" in picture.info:
        opaque = picture.convert("RGBA")
        black = Pillow.new("RGBA", opaque.size, (0, 0, 0, 255))
        picture = Pillow.alpha_composite(black, opaque)
    return picture.convert("RGB")


def _saturation(picture: Pillow.Image) -> float:
    """Return the mean HSV saturation of an RGB picture, 0 to 255."""
    return float(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2HSV)[..., 1].mean())


def _check_saturation(saturation: float) -> None:
    if saturation > MAX_SATURATION:
        raise ImageError(
            f"expected a grey radiograph, got a colour picture (mean saturation {saturation:.0f} of 255, "
            f"limit {MAX_SATURATION:.0f})"
        )


def _as_film(image: Image) -> Image:
    """Return the image in [0, 1], refusing one without content."""
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("expected finite pixel values, got NaN or infinity")
    if high <= low:
        raise ImageError(f"expected a film with contrast, got one value everywhere ({low:g})")
    if high > 1:
        image -= np.float32(low)
        image /= np.float32(high - low)
    return image
