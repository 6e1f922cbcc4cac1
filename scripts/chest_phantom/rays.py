"""Rays through a chest: where a point of the body falls on a film, and how much each ray is absorbed."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from scripts.chest_phantom.anatomy import F32, Chest, Pose
from scripts.chest_phantom.grid import ORIGIN, STEP

ViewName = Literal["frontal", "lateral"]
_COARSE = 2  # slices are cast at half the film's resolution, which is still finer than the grid


@dataclass(frozen=True)
class View:
    """One film's geometry: a point source, a body before a flat detector, and the film laid over it.

    The body's slices at right angles to the beam are each magnified by their own distance from the detector and slid
    by the patient's rotation, which is cone-beam projection up to the obliquity of single rays.
    """

    name: ViewName
    shape: tuple[int, int]  # (H, W) of the film, pixels
    cm_per_pixel: float
    scale: tuple[float, float, float]  # the chest's stretch along x, y, z
    across: int  # axis that runs along the film's rows: 0 for x, 1 for y
    along: int  # axis of the beam
    sign: float  # +1 where the axis `across` points to the film's right
    turn: float  # radians
    source: float  # distance from source to detector, cm
    detector: float  # position of the detector on the beam axis, cm
    middle: tuple[float, float]  # body point (across, up) in the film's middle, cm

    def magnification(self, depth: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return how much larger than life a part at `depth` (standard cm on the beam axis) is drawn."""
        gap = np.abs(self.detector - np.asarray(depth, dtype=float) * self.scale[self.along])
        centre = self.source / (self.source - abs(self.detector))
        return self.source / (self.source - gap) / centre

    def pixels(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the (column, row) of each body point; points: (N, 3) standard cm -> (N, 2)."""
        p = np.asarray(points, dtype=float)
        body = p * self.scale
        size = self.magnification(p[:, self.along]) / self.cm_per_pixel
        across = self.sign * body[:, self.across] + np.tan(self.turn) * body[:, self.along] - self.middle[0]
        rows, columns = self.shape
        return np.stack([columns / 2 + across * size, rows / 2 - (body[:, 2] - self.middle[1]) * size], axis=1)

    def cast(self, volume: F32) -> F32:
        """Return the absorption on the way to each pixel; volume: (Z, Y, X) in 1/cm -> (H, W), unitless."""
        axis = 2 - self.along  # volumes are stored (Z, Y, X)
        slices = np.ascontiguousarray(np.moveaxis(volume, axis, 0))  # (depth, Z, across)
        rows, columns = self.shape[0] // _COARSE, self.shape[1] // _COARSE
        total = np.zeros((rows, columns), dtype=np.float32)
        for index, layer in enumerate(slices):
            if layer.any():
                depth = ORIGIN[self.along] + STEP * index
                total += cv2.warpAffine(layer, self._placing(depth), (columns, rows), borderMode=cv2.BORDER_REPLICATE)
        total *= STEP * self.scale[self.along]
        return np.asarray(cv2.resize(total, self.shape[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)

    def _placing(self, depth: float) -> npt.NDArray[np.float64]:
        """Return the 2x3 matrix from a slice's (column, row) of voxels to those of the coarse film."""
        corner = np.zeros((3, 3))
        corner[:, self.along] = depth
        corner[:, self.across] = ORIGIN[self.across]
        corner[:, 2] = ORIGIN[2]
        corner[1, self.across] += STEP
        corner[2, 2] += STEP
        spots = (self.pixels(corner) + 0.5) / _COARSE - 0.5
        return np.stack([spots[1] - spots[0], spots[2] - spots[0], spots[0]], axis=1)


def frontal_view(chest: Chest, pose: Pose) -> View:
    """Return the geometry of the frontal film, 390 wide and 320 high, the patient's left on its right."""
    bedside = pose.projection == "AP"
    return View(
        name="frontal",
        shape=(320, 390),
        cm_per_pixel=0.099 / pose.zoom,
        scale=chest.scale,
        across=0,
        along=1,
        sign=1.0,
        turn=pose.turn_frontal,
        source=110.0 if bedside else 180.0,
        detector=-14.0 if bedside else 14.0,  # behind the back, or before the breast
        middle=(pose.shift[0], pose.shift[1] - 0.4),
    )


def lateral_view(chest: Chest, pose: Pose) -> View:
    """Return the geometry of the left lateral film, 320 wide and 390 high, the breastbone on its left."""
    return View(
        name="lateral",
        shape=(390, 320),
        cm_per_pixel=0.092 / pose.zoom,
        scale=chest.scale,
        across=1,
        along=0,
        sign=-1.0,
        turn=pose.turn_lateral,
        source=180.0,
        detector=18.0,
        middle=(pose.shift[0] + 1.0, pose.shift[1] - 1.2),
    )
