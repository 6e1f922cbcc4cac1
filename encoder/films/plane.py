"""A grey film as one plane of whole numbers of 8 or 16 bits, and its size changed."""

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Plane = npt.NDArray[np.unsignedinteger[Any]]
"""(H, W) of uint8 or uint16, bone bright: 0 is black, and the greatest number of its type, 255 or 65535, is white."""
Image = npt.NDArray[np.float32]
"""(H, W) in [0, 1], bone bright."""

WHOLE = (slice(None), slice(None))
_STRIP = 32  # rows at half the size, of which a strip of a film stays in a core's own cache
_LEAST_RATIO = 2.5
"""Pixels that are left of a new pixel's side after halving: OpenCV halves ten times as fast as it takes other means."""
_MOST_FLOATS = 1 << 20
"""Pixels that are brought to fractions to take means over areas, which takes 8 bytes for each."""
_LEAST_SHARE = 1e-3


def white(plane: Plane) -> int:
    """Return the number that stands for white."""
    return int(np.iinfo(plane.dtype).max)


def as_image(plane: Plane) -> Image:
    """Return the brightness of each pixel, (H, W) float32 in [0, 1]."""
    return np.divide(plane, np.float32(white(plane)), dtype=np.float32)


def as_deep_plane(image: npt.NDArray[np.floating]) -> npt.NDArray[np.uint16]:
    """Return brightness in [0, 1] as a plane of 16 bits, rounded."""
    return np.rint(image * image.dtype.type(65535)).astype(np.uint16)


def deep(plane: Plane) -> npt.NDArray[np.uint16]:
    """Return the plane in 16 bits, of the very same brightness."""
    return np.multiply(plane, np.uint16(1 if plane.dtype == np.uint16 else 257), dtype=np.uint16)


def shallow(plane: Plane) -> npt.NDArray[np.uint8]:
    """Return the plane in 8 bits, rounded."""
    return np.asarray(plane if plane.dtype == np.uint8 else cv2.convertScaleAbs(plane, alpha=1 / 257), np.uint8)


def stretched(pixels: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint16]:
    """Return whole numbers as a plane of 16 bits: `low` and what is below is black, `high` and above is white."""
    if pixels.dtype != np.uint16:
        return as_deep_plane(np.clip((pixels - low) / (high - low), 0, 1))
    return mapped(pixels, as_deep_plane(np.clip((np.arange(65536) - low) / (high - low), 0, 1)))


def mapped(pixels: npt.NDArray[np.uint16], table: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Return the entry (65536,) of each pixel."""
    return np.asarray(cv2.LUT(pixels, table), np.uint16)


def mapped_half(pixels: npt.NDArray[np.uint16], table: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Return what `mapped` does at half the size, (H // 2, W // 2), without ever holding the whole."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    half = np.empty((height, width), np.uint16)
    for top in range(0, height, _STRIP):
        part = half[top : top + _STRIP]
        strip = cv2.LUT(pixels[2 * top : 2 * (top + len(part)), : 2 * width], table)
        cv2.resize(strip, (width, len(part)), dst=part, interpolation=cv2.INTER_AREA)
    return half


def resized(plane: Plane, shape: tuple[int, int], part: tuple[slice, slice] = WHOLE) -> Plane:
    """Return the plane at another size (h, w), of the same type, or the part of it that is wanted.

    The mean over the area of the new pixel along an axis that shrinks, linear interpolation between pixel centres along
    one that grows. A plane that shrinks to a fifth or less is first halved, so often that 2.5 pixels are left to a new
    one.
    """
    while min(plane.shape[0] / shape[0], plane.shape[1] / shape[1]) >= 2 * _LEAST_RATIO:
        height, width = plane.shape[0] // 2, plane.shape[1] // 2
        whole = plane[: 2 * height, : 2 * width]
        plane = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), plane.dtype)
    shrinks = plane.shape[0] >= shape[0] and plane.shape[1] >= shape[1]
    whole_steps = plane.shape[0] % shape[0] == 0 and plane.shape[1] % shape[1] == 0  # OpenCV is quick at these
    if shrinks and not whole_steps and plane.size <= _MOST_FLOATS:
        return _means(plane, shape, part)
    shrunk = min(shape[0], plane.shape[0]), min(shape[1], plane.shape[1])
    for target, method in ((shrunk, cv2.INTER_AREA), (shape, cv2.INTER_LINEAR)):
        if target != plane.shape:
            plane = np.asarray(cv2.resize(plane, target[::-1], interpolation=method), plane.dtype)
    return plane[part]


def _means(plane: Plane, shape: tuple[int, int], part: tuple[slice, slice]) -> Plane:
    """Return means over areas to the bit as `cv2.resize` has them, in a third of its time: along rows, then columns."""
    rows, columns = (
        _weights(*sides, cut.start, cut.stop) for *sides, cut in zip(plane.shape, shape, part, strict=True)
    )
    across = cv2.transpose(columns @ cv2.transpose(plane).astype(np.float32))
    means = rows @ across
    return cv2.convertScaleAbs(means) if plane.dtype == np.uint8 else np.rint(means, out=means).astype(plane.dtype)


@lru_cache(maxsize=64)
def _weights(side: int, to: int, start: int | None, stop: int | None) -> csr_array:
    """Return how much of each of `side` pixels is in some of `to` new ones, (new, side) float32.

    In the order and with the limits of `computeResizeAreaTab` of OpenCV, where less than a thousandth of a pixel is
    none.
    """
    scale = side / to
    weights = np.zeros((to, side), np.float32)
    for new, row in enumerate(weights):
        begin, end = new * scale, new * scale + scale
        width = min(scale, side - begin)
        last = min(math.floor(end), side - 1)
        first = min(math.ceil(begin), last)
        row[first:last] = 1 / width
        if first - begin > _LEAST_SHARE:
            row[first - 1] = (first - begin) / width
        if end - last > _LEAST_SHARE:
            row[last] = min(end - last, 1, width) / width
    return csr_array(weights[start:stop])
