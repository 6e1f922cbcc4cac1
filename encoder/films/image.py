"""Reading a radiograph: a file, its bytes or its pixels become one grey plane with bright bone, or a reason why not.

What a DICOM header means is in `encoder.films.dicom`.
"""

import io
import os
import stat
import struct
import zlib
from collections.abc import Callable, Container
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngImageFile

from encoder.errors import ImageError, NotAnImage
from encoder.films.dicom import read_dicom, view_dicom
from encoder.films.dicom_elements import is_dicom
from encoder.films.grey import as_grey
from encoder.films.jpeg import decode_jpeg
from encoder.films.picture_header import (
    J2K_SIGNATURE,
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    PictureHeader,
    parse_jpeg,
    parse_png,
)
from encoder.films.plane import Image, Plane, as_deep_plane, as_image, stretched
from encoder.films.viewing import ViewedFilm, picture

Pixels = npt.NDArray[Any] | Pillow.Image
Source = str | os.PathLike[str] | bytes | Pixels

READING = 3
"""Version of how films are read, raised when some begin to give other pictures: an export goes on under its own alone.
2 does not turn dark to bright as 1 did (a negative RescaleSlope before a window), clips the few pixels that alone widen
the range of a DICOM without a window, makes oblong pixels square, and turns pictures by their EXIF; other films give
the same. 3 keeps 8 and 16 bits where 2 had fractions, and changes sizes with OpenCV: all films differ a little."""
MAX_PIXELS = 40_000_000  # the largest detectors in use give about 17 million, a CR plate 20; reading takes 0.4 GB
MAX_FILE_BYTES = 100_000_000  # MAX_PIXELS of 16 bits uncompressed, and room for a header
MIN_SIDE = 32
MAX_ASPECT = 8
_PASSES = 6  # passes of a many-scan JPEG over max_pixels; keeps its decoding near a second
_BYTES_A_PIXEL = 10  # while a film is read: the decoder's values, 16-bit ones, float32
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""How a film is opened: without waiting, as a pipe would be waited for."""
_COPIES = 2  # of a file's bytes meanwhile
ADMISSION: ContextVar[Callable[[int], None]] = ContextVar("ADMISSION", default=lambda _size: None)
"""Called with the bytes that a film will take before it is decoded, in the reader's thread; may wait, or raise."""
_KINDS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    J2K_SIGNATURE: "JPEG 2000",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
}
_PACKED = ("ZIP", "gzip")
_ORIENTATION = 0x0112  # the EXIF tag
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


def read_plane(
    source: Source,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    least_side: int | None = None,
    ignored_parts: Container[str] = (),
) -> Plane:
    """Return the film as (H, W) uint8 or uint16, black 0 and white the greatest number of that type, bone bright.

    JPEG and PNG of 8 bits are as they are stored. A PNG of 16 bits, whose true depth is not recorded, and a DICOM
    are stretched from their least to their greatest value, in 16 bits. A picture is turned as its EXIF says, upright.

    Args:
        source: path of a file, its bytes, a Pillow image, or an array with bone bright: (H, W) of whole numbers, read
            as those of a PNG, or of floats in [0, 1], rounded to 16 bits; or (H, W, 3) uint8 of a grey film in RGB.
        name: what to call the film in an error; default is the path, or "upload" for bytes.
        max_pixels: refused from the header when larger, before anything is decoded.
        least_side: decode a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 of its size whose short side is no less than
            this, which takes a third of the time, and give a DICOM at a half; None gives them whole. Means over squares
            of pixels, so a film that is shrunk well below this afterwards hardly differs.
        ignored_parts: what a DICOM header may state of the body part, in capitals, as if it stated none.

    Raises:
        ImageError: the film cannot be used; NotAnImage where the bytes are no JPEG, PNG or DICOM.
    """
    try:
        if isinstance(source, np.ndarray):
            return _read_array(source, max_pixels)
        if isinstance(source, Pillow.Image):
            return _read_picture(source, max_pixels)
        data = source if isinstance(source, bytes) else _read_bytes(source)
        return _read(data, max_pixels, least_side, ignored_parts)
    except ImageError as error:
        raise type(error)(f"{name or _label_of(source)!r}: {error}") from error


def read_image(source: Source, **options: Any) -> Image:
    """Return the film as (H, W) float32 in [0, 1], bone bright: what `read_plane` gives, with its arguments."""
    return as_image(read_plane(source, **options))


def view_film(data: bytes, *, name: str, ignored_parts: Container[str] = ()) -> ViewedFilm:
    """Return a film as a viewer has it: its pixels at their own depth, as they are stored, and how they are shown.

    Args:
        data, name, ignored_parts: as `read_plane` has them, and refused as there.

    Raises:
        ImageError: the film cannot be used; NotAnImage where the bytes are no JPEG, PNG or DICOM.
    """
    try:
        if data.startswith(PNG_SIGNATURE) and len(data) <= MAX_FILE_BYTES:
            codes, orientation = _png_pixels(data, MAX_PIXELS)
            _require_contrast(codes.min(), codes.max())
            return picture(_turned(codes, orientation).astype(np.uint8 if codes.dtype == np.uint8 else np.uint16))
        if is_dicom(data) and not data.startswith(JPEG_SIGNATURE) and len(data) <= MAX_FILE_BYTES:
            return view_dicom(data, _admission(data, MAX_PIXELS), ignored_parts)
        return picture(_read(data, MAX_PIXELS, None, ignored_parts))
    except ImageError as error:
        raise type(error)(f"{name!r}: {error}") from error


def is_unnamed(source: Source) -> bool:
    """Return whether a film is given as what is in it, by no path or address that could name it in an error."""
    return isinstance(source, bytes | np.ndarray | Pillow.Image)


def _label_of(source: Source) -> str:
    if is_unnamed(source):
        return {np.ndarray: "array", bytes: "upload"}.get(type(source), "picture")
    return str(source)


def _read_array(pixels: npt.NDArray[Any], max_pixels: int) -> Plane:
    colour = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    if not (colour or (pixels.ndim == 2 and pixels.dtype.kind in "iuf")):
        raise ImageError(
            f"expected an array (H, W) of numbers or (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}; give one film"
        )
    height, width = pixels.shape[:2]
    check_size(width, height, max_pixels)
    _admit(width * height, b"")
    if pixels.dtype.kind != "f":
        return _upright(as_grey(pixels) if colour else pixels, 1)
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("expected finite pixel values, got NaN or infinity")
    _require_contrast(low, high)
    if low < 0 or high > 1:
        raise ImageError(
            f"expected floats in [0, 1], bone bright, got {low:g} to {high:g}; divide by the greatest value that the "
            "film can have"
        )
    return as_deep_plane(pixels.astype(np.float32))


def _read_picture(picture: Pillow.Image, max_pixels: int) -> Plane:
    check_size(*picture.size, max_pixels)
    _admit(picture.width * picture.height, b"")
    try:
        return _upright(_stored(picture), picture.getexif().get(_ORIENTATION, 1))
    except _DECODER_ERRORS as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"expected a whole picture, got a damaged one ({error or type(error).__name__})") from error


def _read_bytes(source: str | os.PathLike[str]) -> bytes:
    """Return a file's bytes; what is no path of this machine but opens as one, such as an object's address, is read."""
    try:
        if isinstance(source, str | os.PathLike):
            return _local_bytes(source)
        with source.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last of a path with a NUL
        path = Path(source) if isinstance(source, str | os.PathLike) else source
        got = "a folder" if path.is_dir() else "nothing"
        raise ImageError(f"expected a JPEG, PNG or DICOM file, got {got} at this path") from None
    except OSError as error:
        raise ImageError(f"expected a readable file, got {error.strerror}") from error


def _local_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return a file's bytes, at most one more than MAX_FILE_BYTES, by four calls of the system: threads meet at each.

    Raises:
        OSError: there is no file; FileNotFoundError where there is something else, such as a pipe.
    """
    file = os.open(path, _FLAGS)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError
        # No more than there is: Python would take the memory of all that is asked for.
        wanted = min(status.st_size, MAX_FILE_BYTES) + 1
        data = os.read(file, wanted)
        while 0 < len(data) < status.st_size and (more := os.read(file, wanted - len(data))):
            data += more
        return data
    finally:
        os.close(file)


def _read(data: bytes, max_pixels: int, least_side: int | None, ignored_parts: Container[str]) -> Plane:
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"expected at most {MAX_FILE_BYTES} bytes, got more")
    if not data:
        raise NotAnImage("expected a JPEG, PNG or DICOM file, got 0 bytes")
    if data.startswith(JPEG_SIGNATURE):
        return _read_jpeg(data, max_pixels, least_side)
    if data.startswith(PNG_SIGNATURE):
        return _read_png(data, max_pixels)
    if is_dicom(data):
        admit = _admission(data, max_pixels)
        return read_dicom(data, admit, ignored_parts=ignored_parts, least_side=least_side)
    raise NotAnImage(f"expected a JPEG, PNG or DICOM file, got {_kind(data)}")


def _admission(data: bytes, max_pixels: int) -> Callable[[int, int], None]:
    """Return what is called with the width and height of a film before it is decoded."""

    def admit(width: int, height: int) -> None:
        check_size(width, height, max_pixels)
        _admit(width * height, data)

    return admit


def _kind(data: bytes) -> str:
    """Return what an unsupported file is, and how to convert it."""
    named = next((name for begin, name in _KINDS.items() if data.startswith(begin)), "")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        named = "WebP"
    if data[4:8] == b"ftyp":
        named = "HEIF or AVIF"
    if not named:
        return f"bytes that start with {data[:4].hex(' ')}"
    return f"a {named} file; {'unpack it' if named in _PACKED else 'save the film as PNG'} first"


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
    """Wait until ADMISSION lets so many pixels of a file be decoded."""
    ADMISSION.get()(_BYTES_A_PIXEL * pixels + _COPIES * len(data))


def _read_jpeg(data: bytes, max_pixels: int, least_side: int | None) -> Plane:
    header, essence = parse_jpeg(data)
    check_size(header.width, header.height, max_pixels)
    _check_scans(header, max_pixels)
    if header.lossless or header.bits != 8:
        raise ImageError(
            f"expected a JPEG of 8 bits, got one of {header.bits}{' without loss' if header.lossless else ''}; save it "
            "as a PNG of 16 bits"
        )
    scale = _scale(header, least_side)
    _admit(header.pixels // (1 if header.progressive else scale**2), data)
    shape = None if scale == 1 else (-(-header.height // scale), -(-header.width // scale))
    pixels = decode_jpeg(essence, shape)
    return _upright(pixels if pixels.ndim == 2 else as_grey(pixels), header.orientation)


def _scale(header: PictureHeader, least_side: int | None) -> int:
    """Return the greatest of 1, 2, 4 and 8 by which both sides can be divided and stay at least so long."""
    short = min(header.width, header.height)
    return next(scale for scale in (8, 4, 2, 1) if scale == 1 or (least_side and short // scale >= least_side))


def _read_png(data: bytes, max_pixels: int) -> Plane:
    return _upright(*_png_pixels(data, max_pixels))


def _png_pixels(data: bytes, max_pixels: int) -> tuple[npt.NDArray[Any], int]:
    """Return the grey pixels of a PNG as they are stored, and how it is turned."""
    header, essence = parse_png(data)
    check_size(header.width, header.height, max_pixels)
    _admit(header.pixels, data)
    try:
        pixels = _decoded_grey(essence) if _is_plain_grey(header, essence) else _opened(essence)
    except _DECODER_ERRORS as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"expected a whole picture, got a damaged one ({error or type(error).__name__})") from error
    return pixels, header.orientation


def _is_plain_grey(header: PictureHeader, essence: bytes) -> bool:
    """Return whether a PNG is grey of 8 or 16 bits and its pixels follow its header, without a transparent value."""
    return header.bits >= 8 and essence[25] == 0 and essence[37:41] == b"IDAT"


def _decoded_grey(essence: bytes) -> npt.NDArray[Any]:
    """Return the pixels of a plain grey PNG by libpng, which lets other threads run."""
    import imagecodecs

    try:
        return np.asarray(imagecodecs.png_decode(essence))
    except imagecodecs.PngError as error:
        raise ImageError(f"expected a whole picture, got a damaged one ({error})") from error


def _opened(essence: bytes) -> npt.NDArray[Any]:
    # The format's own class: Pillow's open() adds a pixel limit and warnings that belong to the process.
    with PngImageFile(io.BytesIO(essence)) as picture:
        picture.load()
        return _stored(picture)


def _upright(pixels: npt.NDArray[Any], orientation: int) -> Plane:
    """Return pixels as stored, turned as EXIF says; those of more than 8 bits stretched to 16."""
    pixels = _turned(pixels, orientation)
    shallow = pixels.dtype == np.uint8
    if shallow and (pixels[len(pixels) // 2] != pixels[0, 0]).any():  # one row of a film tells its contrast
        return np.ascontiguousarray(pixels)
    low, high = pixels.min(), pixels.max()
    _require_contrast(*((low / 255, high / 255) if shallow else (low, high)))
    if not shallow and (pixels.dtype != np.uint16 or (low, high) != (0, 65535)):
        pixels = stretched(pixels, float(low), float(high))
    return np.ascontiguousarray(pixels)


def _turned(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return pixels turned as EXIF says (Exif 2.32, 4.6.4 A)."""
    if orientation in (2, 3, 6, 7):  # the first column is at the right, or at the top of a right side
        pixels = pixels[:, ::-1] if orientation in (2, 3) else pixels[::-1]
    if orientation in (3, 4):
        pixels = pixels[::-1]
    if orientation in (7, 8):
        pixels = pixels[:, ::-1]
    return pixels.T if orientation >= 5 else pixels


def _require_contrast(low: float, high: float) -> None:
    if high <= low:
        raise ImageError(f"expected a film with contrast, got one value everywhere ({low:g})")


def _check_scans(header: PictureHeader, max_pixels: int) -> None:
    """Refuse a JPEG of so many scans, each a pass over all pixels, that it costs far more than its size."""
    if not header.progressive and header.scans <= 1:
        return
    if header.scans * header.pixels > _PASSES * max_pixels or 2 * header.pixels > max_pixels or header.scans > 256:
        raise ImageError(
            f"expected a JPEG of few scans, got {header.scans} over {header.width} x {header.height}; "
            "save it again as a baseline JPEG"
        )


def _stored(picture: Pillow.Image) -> npt.NDArray[Any]:
    """Return (H, W) as stored: uint8, or a wider whole number where the picture has 16 bits."""
    if picture.mode in ("I;16", "I;16B", "I"):
        return np.array(picture)
    if picture.mode not in ("L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError(f"expected a grey or RGB picture, got mode {picture.mode!r}; export it as 8-bit grey")
    if picture.mode == "L" and "transparency" not in picture.info:
        return np.array(picture)
    return as_grey(picture)
