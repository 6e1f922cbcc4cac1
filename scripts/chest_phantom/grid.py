"""The coarse grid of voxels that soft parts are painted on, and the soft-edged shapes painted there.

Centimetres in, occupancy in [0, 1] out; edges are about one voxel wide, so that films show no steps.
"""

from dataclasses import dataclass

import numpy as np

from scripts.chest_phantom.anatomy import F32

STEP = 0.36  # cm; edges are soft, so a film shows them to a fraction of this
ORIGIN = (-21.24, -14.04, -19.08)  # x, y, z of the first voxel, standard cm
COUNTS = (119, 79, 107)
X = (ORIGIN[0] + STEP * np.arange(COUNTS[0], dtype=np.float32))[None, None, :]
Y = (ORIGIN[1] + STEP * np.arange(COUNTS[1], dtype=np.float32))[None, :, None]
Z = (ORIGIN[2] + STEP * np.arange(COUNTS[2], dtype=np.float32))[:, None, None]

Block = tuple[slice, slice, slice]


def soft(depth: F32) -> F32:
    """Return occupancy in [0, 1] from depth below a surface in cm, in place; half a voxel either side is blended."""
    depth *= np.float32(1 / STEP)
    depth += np.float32(0.5)
    return np.clip(depth, 0, 1, out=depth)


def block_around(centre: tuple[float, float, float], reach: tuple[float, float, float]) -> Block:
    """Return the part of the grid within `reach` of `centre`, as slices of a (Z, Y, X) volume."""
    slices = []
    for axis in (2, 1, 0):
        low = int(np.floor((centre[axis] - reach[axis] - ORIGIN[axis]) / STEP))
        high = int(np.ceil((centre[axis] + reach[axis] - ORIGIN[axis]) / STEP)) + 1
        slices.append(slice(min(max(low, 0), COUNTS[axis]), min(max(high, 0), COUNTS[axis])))
    return (slices[0], slices[1], slices[2])


def within(block: Block) -> tuple[F32, F32, F32]:
    """Return the coordinates x, y, z of a block's voxels, each broadcastable to its shape."""
    return X[:, :, block[2]], Y[:, block[1], :], Z[block[0], :, :]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid whose first axis may point anywhere; the other two complete it."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    axis: tuple[float, float, float] = (1.0, 0.0, 0.0)

    def block(self) -> Block:
        """Return the part of the grid that it may touch."""
        first, second, third = self._frame()
        reach = np.sqrt(sum((r * a) ** 2 for r, a in zip(self.radii, (first, second, third), strict=True)))
        x, y, z = (float(r) + STEP for r in reach)
        return block_around(self.centre, (x, y, z))

    def depth(self, block: Block) -> F32:
        """Return how far below its surface each voxel of `block` lies, cm, roughly, negative outside."""
        x, y, z = (c - o for c, o in zip(within(block), self.centre, strict=True))
        square: F32 = np.zeros((), dtype=np.float32)
        for radius, axis in zip(self.radii, self._frame(), strict=True):
            a = (axis / radius).astype(np.float32)
            square = square + np.square(a[0] * x + a[1] * y + a[2] * z)
        return (1 - np.sqrt(square)) * np.float32(min(self.radii))

    def _frame(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first = np.asarray(self.axis) / np.linalg.norm(self.axis)
        second = np.cross((0.0, 0.0, 1.0), first)
        second /= np.linalg.norm(second)
        return first, second, np.cross(first, second)


def blend(volume: F32, block: Block, occupancy: F32, value: float) -> None:
    """Pull `volume` towards `value` inside `block`, in place, by occupancy in [0, 1]."""
    part = volume[block]
    part += occupancy * (np.float32(value) - part)
