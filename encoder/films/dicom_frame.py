"""Decoding the one compressed frame of a DICOM file, after its own header agreed with the DICOM header.

A frame that is not whole is refused, whatever a decoder would make of it.
"""

import struct
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from encoder.errors import ImageError
from encoder.films.jpeg import decode_jpeg
from encoder.films.jpegls import decode_jpegls
from encoder.films.picture_header import JPEG_SIGNATURE, PictureHeader, codestream, parse_jpeg, parse_jpeg2000

_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
_JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
_JPEG_2000 = (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)
Decode = Callable[[bytes], npt.NDArray[Any]]
_TAIL = 4
"""Bytes at the end of a scan that are exchanged to see what they decide."""
_MORE = b"\x5a\xa5\x33" * 64
_KNOWN = bytes((number + 11) ** 3 * 29 % 251 for number in range(512))
"""Bits that are nowhere alike; as much as 128 pixels can have."""
_STEPS, _LEAST_KINDS = 128, 24
"""Pixels that are compared, and how many different steps from pixel to pixel must be among them."""


def is_known_frame(syntax: str) -> bool:
    """Return whether frames of this transfer syntax can be decoded here."""
    return syntax in (*_JPEG, *_JPEG_LS, *_JPEG_2000, RLELossless)


def is_lossy(syntax: str) -> bool:
    """Return whether this transfer syntax can be lossy, so that values may exceed their stored bits."""
    return syntax in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)


def decode_frame(frame: bytes, syntax: str, shape: tuple[int, ...], size: int) -> npt.NDArray[Any]:
    """Return the stored values, of 8 or 16 bits.

    Args:
        shape: (rows, columns), or (rows, columns, 3) of a colour picture.
        size: bytes a sample in the DICOM header.

    Raises:
        ImageError: the codestream is damaged, ends early, is of another kind, or not of the size and depth that are
            due.
    """
    if syntax == RLELossless:
        return _decode_rle(frame, shape, size)
    frame = codestream(frame) if syntax in _JPEG_2000 else frame
    header, essence = _frame_header(frame, syntax)
    samples = shape[2] if len(shape) == 3 else 1
    if (header.height, header.width, header.components) != (*shape[:2], samples) or not 2 <= header.bits <= 16:
        raise ImageError(
            f"expected a frame of {shape[1]} x {shape[0]} with {samples} components as in the DICOM header, got "
            f"{header.width} x {header.height} with {header.components} components of {header.bits} bits"
        )
    try:
        pixels = _decode(essence, syntax, header)
    except (RuntimeError, ValueError) as error:  # a decoder's own
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"expected a whole compressed frame, got a damaged one ({error})") from error
    if pixels.shape != shape or pixels.dtype.kind not in "iu" or pixels.itemsize > 2:
        raise ImageError(f"expected pixels of shape {shape}, got {pixels.shape} of {pixels.dtype}")
    return pixels


def _frame_header(frame: bytes, syntax: str) -> tuple[PictureHeader, bytes]:
    """Return the frame's own header, and the frame without segments that do not belong to the picture."""
    if syntax in _JPEG_2000:
        return parse_jpeg2000(frame), frame
    if not frame.startswith(JPEG_SIGNATURE):
        raise ImageError(f"expected a frame of JPEG, got bytes that start with {frame[:4].hex(' ')}")
    header, essence = parse_jpeg(frame)
    if header.progressive or header.scans > header.components:
        raise ImageError(f"expected a frame of one scan, got {header.scans}")
    return header, essence


def _decode(frame: bytes, syntax: str, header: PictureHeader) -> npt.NDArray[Any]:
    if syntax in _JPEG_LS:
        return decode_jpegls(frame, header.pixels)
    # Native libraries that most callers, who read JPEG and PNG files, never need.
    import imagecodecs

    if syntax in _JPEG_2000:
        return np.asarray(imagecodecs.jpeg2k_decode(frame))
    if header.bits == 8 and not header.lossless:
        return decode_jpeg(frame)
    pixels = _decoded_with_another_row(frame, header, imagecodecs.jpeg8_decode)
    if pixels is not None:
        return pixels
    pixels = np.asarray(imagecodecs.jpeg8_decode(frame))
    if header.scans == 1:
        _check_scan(frame, pixels, imagecodecs.jpeg8_decode, lossless=header.lossless)
    return pixels


def _decoded_with_another_row(frame: bytes, header: PictureHeader, decode: Decode) -> npt.NDArray[Any] | None:
    """Return the pixels of a frame of JPEG Lossless, SV1, whose scan is seen to be whole; None where that is not seen.

    The frame is decoded once, as if it had one more row, and with known bits behind its scan. Where the last row
    begins with what these bits decode to, the scan ends with the last pixel, but for the ones that fill up a byte.
    """
    places = _places_of_sv1(frame, header)
    if places is None:
        return None
    height, scan = places
    body = frame[height + 2 : -2].rstrip(b"\xff")
    rows = decode(frame[:height] + struct.pack(">H", header.height + 1) + body + _known_bits(0) + frame[-2:])
    alone = frame[:height] + struct.pack(">H", 1) + frame[height + 2 : scan]
    steps = np.diff(rows[-1], prepend=rows[-2, 0])[:_STEPS]
    for ones in range(8):
        if body[-1] & (1 << ones) - 1 != (1 << ones) - 1:
            break
        first = decode(alone + _known_bits(ones) + frame[-2:])[0]
        known = np.diff(first, prepend=first.dtype.type(1 << header.bits - 1))[:_STEPS]
        if len(np.unique(known)) >= _LEAST_KINDS and np.array_equal(steps, known):
            return np.asarray(rows[:-1])
    return None


def _places_of_sv1(frame: bytes, header: PictureHeader) -> tuple[int, int] | None:
    """Return where a frame of one component has its height, and where its scan begins, of pixels told by their left.

    None for any other frame, such as one with restart intervals.
    """
    if not header.lossless or header.components != 1 or header.scans != 1 or header.height == 0xFFFF:
        return None
    position, height = 2, 0
    while position + 4 <= len(frame):
        marker, length = struct.unpack_from(">xBH", frame, position)
        if marker == 0xDA:
            plain = frame[position + length - 1 : position + length + 2] == b"\x01\0\0"  # left, and no bits left out
            return (height, position + 2 + length) if height and plain else None
        if marker == 0xDD or (height and marker == 0xC3):
            return None
        if marker == 0xC3:
            height = position + 5
        position += 2 + length
    return None


@cache
def _known_bits(ones: int) -> bytes:
    """Return so many ones and the bits of `_KNOWN` behind them as bytes of a scan."""
    bits = ((1 << ones) - 1) << 8 * len(_KNOWN) | int.from_bytes(_KNOWN, "big")
    size = -(-(ones + 8 * len(_KNOWN)) // 8)
    return (bits << 8 * size - ones - 8 * len(_KNOWN)).to_bytes(size, "big").replace(b"\xff", b"\xff\0")


def _check_scan(frame: bytes, pixels: npt.NDArray[Any], decode: Decode, *, lossless: bool) -> None:
    """Refuse a scan that is not decoded to its end.

    libjpeg makes up what a scan lacks, leaves what it has too much, and says so in warnings that are not passed on.
    But the last bytes of a sound scan decide its last pixels and no others, and what comes after it none.
    """
    body, marker = frame[:-2].rstrip(b"\xff"), frame[-2:]
    differ = np.flatnonzero(pixels != decode(_with_another_tail(body) + _MORE + marker))
    if not differ.size:
        raise ImageError("expected a whole JPEG frame, got one with bytes that belong to no pixel; it is damaged")
    if lossless:
        samples = pixels.shape[2] if pixels.ndim == 3 else 1
        whole = pixels.size - differ[0] <= 8 * _TAIL * samples  # no code has less than a bit
    else:  # a block may lack many bits, which only more of them show
        whole = np.array_equal(pixels, decode(body + _MORE + marker))
    if not whole:
        raise ImageError("expected a whole JPEG frame, got one whose scan ends early; the file is truncated")


def _with_another_tail(body: bytes) -> bytes:
    """Return the bytes of a JPEG up to its end marker, the last few exchanged."""
    restarts = [body.rfind(bytes([0xFF, marker])) for marker in range(0xD0, 0xD8)]
    start = max(len(body) - _TAIL, max(restarts) + 2)
    while body[start - 1] == 0xFF and start < len(body):
        start += 1  # what follows 0xFF has to stay
    tail = _MORE[: len(body) - start]
    return body[:start] + (tail if tail != body[start:] else tail[::-1])


def _decode_rle(frame: bytes, shape: tuple[int, ...], size: int) -> npt.NDArray[Any]:
    """Return the stored values of an RLE frame: a segment for each byte of a sample, high bytes first (PS3.5, G)."""
    import imagecodecs

    samples, count = (shape[2] if len(shape) == 3 else 1), shape[0] * shape[1]
    header = struct.unpack("<16I", frame[:64]) if len(frame) >= 64 else (0,)
    offsets = [*header[1 : header[0] + 1], len(frame)] if header[0] == samples * size else []
    if not offsets or offsets[0] < 64 or sorted(set(offsets)) != offsets:
        raise ImageError(f"expected an RLE frame of {samples * size} segments in order, got a damaged one")
    planes = np.empty((samples, size, count), np.uint8)
    for number, (start, end) in enumerate(pairwise(offsets)):
        plane = planes[number // size, size - 1 - number % size]
        plane[:] = _unpacked(imagecodecs.packbits_decode, frame[start:end], count)
    pixels = np.ascontiguousarray(np.moveaxis(planes, 1, 2)).view(f"<u{size}").reshape(samples, *shape[:2])
    return pixels[0] if samples == 1 else np.moveaxis(pixels, 0, -1)


def _unpacked(decode: Callable[..., bytes | bytearray], segment: bytes, count: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of one segment of RLE, which PackBits are."""
    try:
        plane = np.frombuffer(decode(segment, out=count + 2), np.uint8)
    except (RuntimeError, ValueError):
        raise ImageError("expected whole RLE segments, got a damaged one") from None
    if len(plane) < count:
        raise ImageError(f"expected an RLE segment of {count} bytes, got {len(plane)}; the file is truncated")
    return plane[:count]
