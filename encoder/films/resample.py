"""Resizing a film in whole numbers: means over areas when shrinking, straight lines when growing.

Integer sums do not depend on their order, so every machine gets the same bits; it knows films only as arrays.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Sums = npt.NDArray[np.float64]
"""Whole numbers; float64 holds them exactly below 2^53."""
Counts = npt.NDArray[np.int64]
Part = tuple[slice, slice]

_STEPS = 65535  # of a film's brightness; 257 a step of 8 bits, so films of 8 and of 16 bits are met exactly
_BLOCK_ROWS = 48  # of a film that are resized at a time; their sums then stay in a core's own cache
_MANY_TAPS = 5
_WHOLE = (slice(None), slice(None))


def resample(image: npt.NDArray[np.float32], shape: tuple[int, int], part: Part = _WHOLE) -> npt.NDArray[np.float32]:
    """Return the image at another size, (h, w) float32 in [0, 1], or the part of it that is wanted.

    Each axis is resized on its own: the mean over the area of the new pixel where the axis shrinks, linear
    interpolation between pixel centres where it grows. Exact below 2^53: sides up to 2^15 and 16 bits fit.

    Args:
        image: (H, W) float32 in [0, 1], rounded here to 16 bits.
        shape: (h, w), each at least 1.
        part: rows and columns of the result; the others are not computed.
    """
    rows, row_weight = _resize_rows(image, shape[0], part[0])  # (h, W)
    columns, column_weight = _resize_rows(rows.T, shape[1], part[1])  # (w, h)
    return np.ascontiguousarray((columns / np.float64(row_weight * column_weight * _STEPS)).T, dtype=np.float32)


def _resize_rows(values: npt.NDArray[Any], target: int, part: slice) -> tuple[Sums, int]:
    """Return a part of the values at `target` rows, and the factor by which they are too large."""
    source = len(values)
    if target == source:
        return _in_steps(values[part]), 1
    first, weights, total = (_areas if target < source else _lines)(source, target)
    first, shares = first[part], weights[:, part].astype(np.float64)
    sums: Sums = np.empty((len(first), values.shape[1]))
    step = max(1, _BLOCK_ROWS * target // source)
    for start in range(0, len(first), step):
        block = slice(start, start + step)
        top, bottom = first[block][0], first[block][-1] + len(shares)
        _sum_rows(_in_steps(values[top:bottom]), first[block] - top, shares[:, block], sums[block])
    return sums, total


def _in_steps(values: npt.NDArray[Any]) -> Sums:
    """Return the brightness (float32, in [0, 1]) in whole steps; what is in steps already (float64) as it is."""
    if values.dtype == np.float32:
        values = values * np.float32(_STEPS)
        np.rint(values, out=values)
    return np.ascontiguousarray(values, dtype=np.float64)


def _sum_rows(rows: Sums, first: Counts, weights: Sums, sums: Sums) -> None:
    """Put into `sums` (n, W) the weighted sums of the rows from `first` (n,) on, by `weights` (taps, n)."""
    taps = len(weights)
    if taps >= _MANY_TAPS:  # far fewer sums than rows: a sum at a time
        for number, top in enumerate(first):
            under = rows[top : top + taps]
            np.einsum("r,rw->w", weights[: len(under), number], under, out=sums[number])
        return
    sums[:] = 0
    for tap, weight in enumerate(weights):
        taken = np.take(rows, first + tap, axis=0, mode="clip")
        taken *= weight[:, None]
        sums += taken


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
