"""Reading one DICOM radiograph: header checks first, then modality, window and polarity make bone bright.

It keeps no tag that names a person and must not know of files on disk, tensors or HTTP.
"""

import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from encoder.body_part import part_elsewhere, stated_part
from encoder.dicom_display import Stored, display_table, look_up
from encoder.dicom_frame import decode_frame, is_known_frame
from encoder.errors import ImageError

_KEYWORDS = [
    "Modality",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelData",
]
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_SECTIONS = ("CT", "MR", "PT", "NM", "US", "IVUS", "OCT", "OPT", "OP", "ES", "GM", "SM", "XC")
_MAX_META_ELEMENTS = 64
_MAX_REASON = 160  # characters of a parser's own words
# pydicom's readers and converters raise the errors of the Python functions they are made of.
_PARSER_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    struct.error,
    MemoryError,
)
_QUOTED = re.compile(r"""b?['"].*['"]""")
"""What a parser quotes of the header, which may be a name: from the first quotation mark to the last."""
_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB")
_quiet = threading.Lock()


def is_dicom(data: bytes) -> bool:
    """Return whether the bytes carry the preamble of a DICOM file (PS3.10, section 7.1)."""
    return data[128:132] == b"DICM"


def read_dicom(data: bytes, check_size: Callable[[int, int], None]) -> npt.NDArray[np.float32]:
    """Return the film as (H, W) float32 in [0, 1], bone bright.

    In this order: modality table or rescale, first VOI table or window, stretch from the least to the
    greatest value that is not padding, inversion of MONOCHROME1 (PS3.3, C.7.6.3.1.2, C.11.1 and C.11.2).
    Padding is black.

    Args:
        data: a whole DICOM Part 10 file.
        check_size: called with width and height before the pixels are decoded; raises to refuse them.

    Raises:
        ImageError: the file is damaged, is no single grey radiograph, is said to show another part of the body than
            the chest, or uses an encoding nobody here reads.
    """
    syntax = _transfer_syntax(data)
    if syntax not in _NATIVE and syntax != RLELossless and not is_known_frame(syntax):
        deflated = "; inflate it first" if syntax == DeflatedExplicitVRLittleEndian else ""
        named = repr(syntax.name) if syntax.name != syntax else "one that no standard names"
        raise ImageError(f"expected pixel data in a known encoding, got {named}{deflated}")
    try:
        header = _read_header(data)
        _check_header(header)
        check_size(int(header.Columns), int(header.Rows))
        stored = _stored_values(header, syntax)
        with _silence():
            table = display_table(header, stored)
        return look_up(stored, table)
    except _PARSER_ERRORS as error:
        if isinstance(error, ImageError):
            raise
        reason = _QUOTED.sub("...", " ".join(str(error).split())) or type(error).__name__
        raise ImageError(f"expected a whole DICOM radiograph, got a damaged or unusual one ({reason})") from error


def _transfer_syntax(data: bytes) -> UID:
    """Return the transfer syntax, found before pydicom opens and inflates a deflated file."""
    position = 132
    for _ in range(_MAX_META_ELEMENTS):
        if position + 12 > len(data):
            break
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        position += 8
        if vr in (b"OB", b"OW", b"UN", b"UT", b"SQ"):
            length = int.from_bytes(data[position : position + 4], "little")
            position += 4
        if group != 2:
            break
        if element == 0x0010:
            value = data[position : position + min(length, 64)].rstrip(b"\x00 ")
            return UID(value.decode("ascii", "replace"), validation_mode=pydicom.config.IGNORE)
        position += length
    raise ImageError("expected a DICOM file that states its transfer syntax, got none; write it as DICOM Part 10")


def _read_header(data: bytes) -> pydicom.Dataset:
    """Return the elements that decide the picture, each already converted."""
    with _silence():
        header = pydicom.dcmread(io.BytesIO(data), specific_tags=list(_KEYWORDS))
        for _ in header.iterall():
            pass
    return header


@contextmanager
def _silence() -> Iterator[None]:
    """Keep pydicom's warnings, which quote the odd values they meet, out of the process's output.

    Warning filters belong to the process, so the lock keeps two readers from restoring each other's.
    """
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_header(header: pydicom.Dataset) -> None:
    polarity = str(header.get("PhotometricInterpretation", "")).strip()
    if polarity not in ("MONOCHROME1", "MONOCHROME2"):
        told = repr(polarity) if polarity in ("", *_COLOURS) else "of another name"
        raise ImageError(f"PhotometricInterpretation {told} is not a radiograph; expected MONOCHROME1 or MONOCHROME2")
    modality = str(header.get("Modality", "")).strip()
    if modality in _SECTIONS:
        raise ImageError(f"Modality {modality!r} is not a radiograph; expected CR, DX or a like projection")
    if part := part_elsewhere(stated_part(header)):
        raise ImageError(f"body part {part!r} is not the chest; expected a chest film; correct a header that is wrong")
    _expect(header, "SamplesPerPixel", (1,), default=1)
    _expect(header, "NumberOfFrames", (1,), default=1)
    _expect(header, "BitsAllocated", (8, 16))
    _expect(header, "PixelRepresentation", (0, 1), default=0)
    _expect(header, "Rows", range(1, 65536))
    _expect(header, "Columns", range(1, 65536))
    stored = _expect(header, "BitsStored", range(2, int(header.BitsAllocated) + 1))
    _expect(header, "HighBit", (stored - 1,), default=stored - 1)
    if not header.get("PixelData"):
        raise ImageError("expected PixelData, got a DICOM file without a picture")


def _expect(header: pydicom.Dataset, keyword: str, allowed: tuple[int, ...] | range, default: int | None = None) -> int:
    value = header.get(keyword)
    value = default if value is None else value
    if not isinstance(value, int) or value not in allowed:
        wanted = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
        raise ImageError(f"expected {keyword} {wanted}, got {value if isinstance(value, int) else 'no whole number'}")
    return int(value)


def _stored_values(header: pydicom.Dataset, syntax: UID) -> Stored:
    """Return (H, W) uint16, signed values as their two's complement of 16 bits."""
    rows, columns, bits = int(header.Rows), int(header.Columns), int(header.BitsStored)
    if syntax in _NATIVE:
        pixels = _native_pixels(header, syntax, rows, columns)
    elif syntax == RLELossless:
        with _silence():
            pixels = pixel_array(header, raw=True)
    else:
        pixels = decode_frame(_only_frame(header), syntax, rows, columns)
    if header.get("PixelRepresentation") == 1:
        spare = 16 - bits
        return (((pixels.astype(np.int16, copy=False)) << spare) >> spare).view(np.uint16)
    if syntax in _NATIVE and pixels.itemsize * 8 > bits:
        pixels = pixels & pixels.dtype.type((1 << bits) - 1)  # the bits above may hold an overlay
    return pixels.astype(np.uint16, copy=False)


def _only_frame(header: pydicom.Dataset) -> bytes:
    with _silence():
        return get_frame(header.PixelData, 0, number_of_frames=1)


def _native_pixels(header: pydicom.Dataset, syntax: UID, rows: int, columns: int) -> npt.NDArray[Any]:
    size = int(header.BitsAllocated) // 8
    expected = rows * columns * size
    if len(header.PixelData) not in (expected, expected + 1):
        raise ImageError(
            f"expected {expected} bytes of pixels for {columns} x {rows}, got {len(header.PixelData)}; "
            "the file is truncated or its header is wrong"
        )
    kind = np.dtype(f"{'>' if syntax == ExplicitVRBigEndian else '<'}u{size}")
    pixels = np.frombuffer(header.PixelData, kind, rows * columns).reshape(rows, columns)
    return pixels.astype(kind.newbyteorder("="), copy=False)
