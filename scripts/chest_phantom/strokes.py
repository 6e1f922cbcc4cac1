"""Thin parts drawn at a film's full resolution: tubes in space (ribs, vessels, tubes of plastic) and flat plates."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from scripts.chest_phantom.anatomy import F32
from scripts.chest_phantom.rays import View

_FINE = 4  # bits of sub-pixel position given to the line drawer
Points = npt.NDArray[np.float64]


@dataclass
class Sheet:
    """Layers of 8-bit strokes; strokes of one layer hide each other, layers add up in absorption."""

    view: View
    full: float  # absorption that level 255 stands for
    layers: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def total(self, blur: float = 0.6) -> F32:
        """Return the summed absorption of all layers, (H, W), with edges softened by `blur` pixels."""
        summed = np.zeros(self.view.shape, dtype=np.float32)
        for layer in self.layers.values():
            summed += layer
        return cv2.GaussianBlur(summed, (0, 0), blur) * np.float32(self.full / 255)

    def tube(self, points: Points, radius: float, density: float, *, layer: int = 0, bore: float = 0.0) -> None:
        """Draw a tube along `points`, (N, 3) standard cm; `bore` is the hollow share of its radius.

        Absorption is density times the chord of the beam through the tube: longer where it runs along the beam.
        """
        self.segments(points[:-1], points[1:], np.full(len(points) - 1, radius), density, layer=layer)
        if bore > 0:
            chord = 1 - 0.55 * bore
            self.segments(
                points[:-1],
                points[1:],
                np.full(len(points) - 1, radius * bore),
                density * chord / bore,
                layer=layer,
            )

    def segments(self, starts: Points, ends: Points, radii: Points, density: float, *, layer: int = 0) -> None:
        """Draw one straight tube from each start to its end, (N, 3) each; radii: (N,) cm."""
        canvas = self._layer(layer)
        view = self.view
        way = (ends - starts) * view.scale
        length = np.linalg.norm(way, axis=1) + 1e-6
        slant = np.sqrt(np.maximum(1 - (way[:, view.along] / length) ** 2, 0.25))
        size = view.magnification(starts[:, view.along]) / view.cm_per_pixel
        wide = 2 * radii * size
        level = density * 1.6 * radii / slant * np.minimum(wide, 1.0) / self.full * 255
        spots = np.rint(np.concatenate([view.pixels(starts), view.pixels(ends)], axis=1) * 2**_FINE).astype(int)
        widths = np.maximum(np.rint(wide), 1).astype(int)
        levels = np.clip(np.rint(level), 0, 255)
        for (x0, y0, x1, y1), w, value in zip(spots.tolist(), widths.tolist(), levels.tolist(), strict=True):
            cv2.line(canvas, (x0, y0), (x1, y1), value, w, cv2.LINE_AA, _FINE)

    def plate(self, corners: Points, absorption: float, *, rim: float = 0.0, layer: int = 0) -> None:
        """Fill the outline `corners`, (N, 3) standard cm, with one absorption and draw its rim with more."""
        canvas = self._layer(layer)
        spots = np.rint(self.view.pixels(corners) * 2**_FINE).astype(np.int32)
        cv2.fillPoly(canvas, [spots], self._level(absorption), cv2.LINE_AA, _FINE)
        if rim > 0:
            cv2.polylines(canvas, [spots], True, self._level(absorption + rim), 1, cv2.LINE_AA, _FINE)

    def _layer(self, layer: int) -> npt.NDArray[np.uint8]:
        if layer not in self.layers:
            self.layers[layer] = np.zeros(self.view.shape, dtype=np.uint8)
        return self.layers[layer]

    def _level(self, absorption: float) -> float:
        return float(min(255, round(absorption / self.full * 255)))


def smooth_path(knots: npt.ArrayLike, steps: int = 8) -> Points:
    """Return a Catmull-Rom curve through knots, (K, 3) -> (about K * steps, 3)."""
    k = np.asarray(knots, dtype=float)
    padded = np.vstack([2 * k[0] - k[1], k, 2 * k[-1] - k[-2]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for p0, p1, p2, p3 in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        slope, bend = p2 - p0, 2 * p0 - 5 * p1 + 4 * p2 - p3
        pieces.append(p1 + 0.5 * (slope * t + bend * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3))
    return np.vstack([*pieces, k[-1:]])
