"""Resizing a film in whole numbers: means over areas when shrinking, straight lines when growing.

Integer sums do not depend on their order, so every machine gets the same bits; it knows films only as arrays.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Sums = npt.NDArray[Any]
"""Whole numbers, as uint32 or float64."""
Counts = npt.NDArray[np.int64]
Part = tuple[slice, slice]

_STEPS = 65535  # of a film's brightness; 257 a step of 8 bits, so films of 8 and of 16 bits are met exactly
_STEPS_OF_8_BITS = 255
_APART = 16
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
    levels, steps, kind = _levels(image, shape)
    rows, row_weight = _resize_rows(levels, shape[0], part[0])  # (h, W)
    columns, column_weight = _resize_rows(rows.T.astype(kind, order="C"), shape[1], part[1])  # (w, h)
    return np.ascontiguousarray((columns / np.float64(row_weight * column_weight * steps)).T, dtype=np.float32)


def _levels(image: npt.NDArray[np.float32], shape: tuple[int, int]) -> tuple[Sums, int, type[np.uint32 | np.float64]]:
    """Return the brightness in whole steps, how many steps there are, and a type that holds the sums of both axes.

    A film of 8 bits is counted in 255 steps: the quotients are the same, and most films' sums then fit 32 bits, which
    takes half the time. Whole numbers below 2^53 are exact in float64.
    """
    rows, columns = (max(old, 2 * new) for old, new in zip(image.shape, shape, strict=True))
    # A few pixels first: most films of 16 bits are told by them, without a pass over all.
    if _has_8_bits(image[::_APART, ::_APART]) and _has_8_bits(image):
        coarse = np.rint(image * np.float32(_STEPS_OF_8_BITS))
        steps = _STEPS_OF_8_BITS
        return coarse.astype(_kind(steps * rows)), steps, _kind(steps * rows * columns)
    fine = image * np.float32(_STEPS)
    return np.rint(fine, out=fine).astype(_kind(_STEPS * rows)), _STEPS, np.float64


def _has_8_bits(image: npt.NDArray[np.float32]) -> bool:
    """Tell a film that is some whole numbers divided by 255, as `encoder.image` gives those of 8 bits."""
    steps = np.float32(_STEPS_OF_8_BITS)
    return np.array_equal(np.rint(image * steps) / steps, image)


def _kind(largest: int) -> type[np.uint32 | np.float64]:
    return np.uint32 if largest < 1 << 32 else np.float64


def _resize_rows(values: Sums, target: int, part: slice) -> tuple[Sums, int]:
    """Return a part of the values at `target` rows, and the factor by which they are too large."""
    source = len(values)
    if target == source:
        return values[part], 1
    first, weights, total = (_areas if target < source else _lines)(source, target)
    first, weights = first[part], weights[:, part].astype(values.dtype)
    sums: Sums = np.zeros((len(first), values.shape[1]), dtype=values.dtype)
    for tap, weight in enumerate(weights):
        taken = np.take(values, first + tap, axis=0, mode="clip")
        taken *= weight[:, None]
        sums += taken
    return sums, total


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
