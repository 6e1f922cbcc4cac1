"""Resizing a film in whole numbers: means over areas when shrinking, straight lines when growing.

Integer sums do not depend on their order, so every machine gets the same bits; it knows films only as arrays.
"""

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int64]

_STEPS = 65535  # of a film's brightness; 257 a step of 8 bits, so films of 8 and of 16 bits are met exactly


def resample(image: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the image at another size, (h, w) float32 in [0, 1].

    Each axis is resized on its own: the mean over the area of the new pixel where the axis shrinks, linear
    interpolation between pixel centres where it grows. Exact below 2^63: sides up to 2^15 and 16 bits fit.

    Args:
        image: (H, W) float32 in [0, 1], rounded here to 16 bits.
        shape: (h, w), each at least 1.
    """
    height, width = shape
    levels: Levels = np.rint(image * np.float32(_STEPS)).astype(np.uint16)
    rows, row_weight = _resize_rows(levels, height)  # (h, W)
    columns, column_weight = _resize_rows(np.ascontiguousarray(rows.T), width)  # (w, h)
    scale = row_weight * column_weight * _STEPS
    return np.ascontiguousarray((columns.T / np.float64(scale)).astype(np.float32))


def _resize_rows(values: Levels | Counts, target: int) -> tuple[Counts, int]:
    """Return the values with `target` rows, and the factor by which they are too large."""
    source = len(values)
    if target == source:
        return values.astype(np.int64), 1
    first, weights, total = (_areas if target < source else _lines)(source, target)
    # 16-bit levels under weights that sum to less than 2^16 fit 32 bits, and that halves the time.
    kind = np.uint32 if values.dtype == np.uint16 and total < 1 << 16 else np.int64
    sums = np.zeros((target, values.shape[1]), dtype=kind)
    for tap, weight in enumerate(weights.astype(kind)):
        sums += values[np.minimum(first + tap, source - 1)] * weight[:, None]
    return sums.astype(np.int64, copy=False), total


def _areas(source: int, target: int) -> tuple[Counts, Counts, int]:
    """Return the first old row under each new row, how much of it and the next it covers, and the sum."""
    start = np.arange(target) * source  # new rows are `source` long where old rows are `target` long
    first = start // target
    taps = np.arange(-(-source // target) + 1)[:, None]
    old = (first + taps) * target
    covered = np.minimum(old + target, start + source) - np.maximum(old, start)  # (taps, target)
    return first, np.maximum(covered, 0), source


def _lines(source: int, target: int) -> tuple[Counts, Counts, int]:
    """Return the old row above each new row's centre, the weights of it and of the next, and their sum."""
    whole = 2 * target  # the centre (2j + 1) source / 2 target - 1/2, over this denominator
    centre = np.clip((2 * np.arange(target) + 1) * source - target, 0, whole * (source - 1))
    first, part = np.divmod(centre, whole)
    return first, np.stack([whole - part, part]), whole
