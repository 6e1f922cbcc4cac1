"""How a DICOM film is shown: one brightness for each of the 65,536 values a pixel can have.

It knows tables, windows, padding and polarity, and nothing of files or codestreams.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from encoder.errors import ImageError

Stored = npt.NDArray[np.uint16]
Table = npt.NDArray[np.float64]

_BLOCK = 1 << 16
_MAY_BE_EMPTY = ("RescaleSlope", "RescaleIntercept", "VOILUTFunction")


def display_table(header: pydicom.Dataset, stored: Stored) -> Table:
    """Return (65536,) float64 in [0, 1]: how bright each stored value is shown.

    Raises:
        ImageError: all pixels that are not padding look alike.
    """
    for keyword in _MAY_BE_EMPTY:
        if keyword in header and header[keyword].is_empty:  # as anonymisers leave them: as good as not there
            del header[keyword]
    codes = np.arange(65536, dtype=np.uint16)
    values = codes.view(np.int16) if header.get("PixelRepresentation") == 1 else codes
    table = np.asarray(apply_voi_lut(apply_modality_lut(values, header), header), dtype=np.float64)
    padding = _padding(header, values)
    shown = _shown(stored.view(values.dtype), table, padding)
    if shown.size == 0 or not np.isfinite(shown).all() or shown.min() == shown.max():
        raise ImageError("expected a film with contrast, got one value everywhere inside its window")
    table = np.asarray(np.clip((table - shown.min()) / (shown.max() - shown.min()), 0, 1))
    if header.PhotometricInterpretation == "MONOCHROME1":
        table = 1 - table
    table[padding] = 0
    return table


def _shown(stored: npt.NDArray[Any], table: Table, padding: npt.NDArray[np.bool_]) -> Table:
    """Return among others the least and the greatest brightness of the film's pixels that are not padding."""
    between = np.arange(int(stored.min()), int(stored.max()) + 1).astype(np.uint16)
    ends = between[[0, -1]]
    steps = np.diff(table[between])
    if not padding[ends].any() and ((steps >= 0).all() or (steps <= 0).all()):  # most films: both ends tell all
        return table[ends]
    present = np.zeros(65536, dtype=bool)
    for block in _blocks(stored.view(np.uint16)):
        present[block] = True
    return table[present & ~padding]


def _padding(header: pydicom.Dataset, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return (65536,) bool: the stored values that fill what no detector saw (PS3.3, C.7.5.1.1.2)."""
    first = header.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(values.shape, dtype=bool)
    limit = header.get("PixelPaddingRangeLimit")
    last = limit if isinstance(limit, int) else first
    return np.asarray((values >= min(first, last)) & (values <= max(first, last)))


def look_up(stored: Stored, table: Table) -> npt.NDArray[np.float32]:
    """Return the film, (H, W) float32 in [0, 1]."""
    image = np.empty(stored.shape, dtype=np.float32)
    brightness = table.astype(np.float32)
    for source, target in zip(_blocks(stored), _blocks(image), strict=True):
        np.take(brightness, source, out=target, mode="clip")  # no value is outside; not looking takes half the time
    return image


def _blocks(array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Return flat views of a few pixels each: NumPy makes eight bytes of every index, which then stay in the cache."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return [flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK)]
