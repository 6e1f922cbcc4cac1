"""Decoding the one compressed frame of a DICOM file, after its own header agreed with the DICOM header.

It knows codestreams and transfer syntaxes, and nothing of windows, polarity or files.
"""

import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from encoder.errors import ImageError
from encoder.header import JPEG_SIGNATURE, PictureHeader, parse_jpeg, parse_jpeg2000

_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
_JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
_JPEG_2000 = (JPEG2000, JPEG2000Lossless)
_SECONDS, _PIXELS_A_SECOND = 1, 4_000_000
"""Processor time for a JPEG-LS frame: of a start, and what the slowest machine decodes; a usual one is five times as
fast."""


def is_known_frame(syntax: UID) -> bool:
    """Return whether frames of this transfer syntax can be decoded here."""
    return syntax in _JPEG + _JPEG_LS + _JPEG_2000


def decode_frame(frame: bytes, syntax: UID, rows: int, columns: int) -> npt.NDArray[Any]:
    """Return the stored values, (rows, columns) of 8 or 16 bits.

    Raises:
        ImageError: the codestream is damaged, of another kind, or not of the size and depth that are due.
    """
    header = _frame_header(frame, syntax)
    found = (header.height, header.width, header.components)
    if found != (rows, columns, 1) or not 2 <= header.bits <= 16:
        raise ImageError(
            f"expected a grey frame of {columns} x {rows} as in the DICOM header, got {header.width} x "
            f"{header.height} with {header.components} components of {header.bits} bits"
        )
    pixels = _decode_apart(frame, rows * columns) if syntax in _JPEG_LS else _decode(frame, syntax)
    if pixels.shape != (rows, columns) or pixels.dtype.kind not in "iu" or pixels.itemsize > 2:
        raise ImageError(f"expected pixels of shape ({rows}, {columns}), got {pixels.shape} of {pixels.dtype}")
    return pixels


def _frame_header(frame: bytes, syntax: UID) -> PictureHeader:
    if syntax in _JPEG_2000:
        return parse_jpeg2000(frame)
    if not frame.startswith(JPEG_SIGNATURE):
        raise ImageError(f"expected a frame of {syntax.name!r}, got bytes that start with {frame[:4].hex(' ')}")
    header, _ = parse_jpeg(frame)
    if header.scans > 1 or header.progressive:
        raise ImageError(f"expected a frame of one scan, got {header.scans}")
    return header


def _decode(frame: bytes, syntax: UID) -> npt.NDArray[Any]:
    # Two native libraries that most callers, who read JPEG and PNG files, never need.
    import imagecodecs

    decode: Callable[[bytes], npt.NDArray[Any]]
    decode = imagecodecs.jpeg2k_decode if syntax in _JPEG_2000 else imagecodecs.jpeg8_decode
    return np.asarray(decode(frame))  # its errors are RuntimeError and ValueError


def _decode_apart(frame: bytes, pixels: int) -> npt.NDArray[Any]:
    """Return what a process of its own makes of a JPEG-LS frame: some damaged ones would keep this one for seconds."""
    seconds = _SECONDS + pixels // _PIXELS_A_SECOND
    program = [sys.executable, "-P", str(Path(__file__).with_name("jpegls_process.py"))]
    done = subprocess.run(program, input=struct.pack("<I", seconds) + frame, capture_output=True, check=False)
    if done.returncode == -signal.SIGXCPU:
        raise ImageError(f"expected a JPEG-LS frame that is decoded in {seconds} s, got one that is not; it is damaged")
    if done.returncode:
        raise ImageError(f"expected a whole JPEG-LS frame, got a damaged one ({done.stderr.decode(errors='replace')})")
    rows, columns, size = struct.unpack_from("<III", done.stdout)
    return np.frombuffer(done.stdout, f"u{size}", offset=12).reshape(rows, columns)
