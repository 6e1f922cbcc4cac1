"""One simulated chest as numbers: how large each organ is, where it lies, and how the patient stood for a film.

Lengths are centimetres of a standard chest: x to the patient's left, y to the front, z upwards.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Projection = Literal["AP", "PA"]

_LEVELS = np.arange(-24.0, 24.01, 0.25)


def _profile(knots: dict[float, float]) -> npt.NDArray[np.float64]:
    """Return a smooth curve through (z, value) knots, one value for each of `_LEVELS`."""
    line = np.interp(_LEVELS, list(knots), list(knots.values()))
    kernel = np.hanning(15) / np.hanning(15).sum()
    return np.convolve(np.pad(line, 7, mode="edge"), kernel, mode="valid")


CAVITY_WIDTH = _profile({-16: 13.4, -10: 13.7, -4: 13.2, 2: 12.2, 7: 10.6, 10: 9.0, 13: 6.8, 16: 5.0})
CAVITY_FRONT = _profile({-16: 9.6, -8: 9.3, 0: 8.2, 5: 6.3, 9: 4.2, 13: 1.6})
CAVITY_BACK = _profile({-18: -7.6, -8: -9.0, 0: -9.7, 5: -9.3, 9: -7.9, 13: -5.6, 18: -4.0})
BODY_WIDTH = _profile({-20: 15.8, -8: 15.7, 0: 16.2, 6: 17.4, 10: 19.2, 12: 17.4, 14: 11.8, 16: 7.2, 20: 6.0})
BODY_FRONT = _profile({-20: 11.0, -8: 10.9, 0: 10.4, 5: 8.8, 9: 6.7, 12: 4.6, 15: 3.4, 20: 4.0})
BODY_BACK = _profile({-20: -10.6, -8: -12.2, 0: -12.8, 6: -12.3, 10: -11.2, 14: -9.3, 20: -7.6})


def at(profile: npt.NDArray[np.float64], z: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the profile's values at heights `z`, any shape, in centimetres."""
    return np.interp(np.asarray(z, dtype=np.float64), _LEVELS, profile)


@dataclass(frozen=True)
class Chest:
    """What stays the same of a patient from one study to the next."""

    sex: Literal["Female", "Male"]
    age: int
    width: float  # factors by which the standard chest is stretched along x, y and z
    depth: float
    height: float
    wall: float  # extra soft tissue around the rib cage, cm
    breast: float  # thickness of the breasts, cm; 0 for none
    apex: float  # height of the lungs' tops
    dome_right: float  # height of each half of the diaphragm at a middling breath
    dome_left: float
    heart: float  # size factor of a heart that is not enlarged
    heart_shift: float  # of its middle towards the patient's left, cm
    heart_tilt: float  # rise of its long axis, radians; tall chests have upright hearts
    aorta: float  # size factor of arch and descending aorta; grows with age
    scoliosis: float  # largest sideways shift of the spine, cm
    bubble: float  # radius of the gas in the stomach, cm
    bone: float  # mineral density factor; falls with age
    lung: float  # absorption of aerated lung, 1/cm
    tree_seed: int  # draws the vessel tree

    @property
    def scale(self) -> tuple[float, float, float]:
        """The stretch along x, y, z."""
        return (self.width, self.depth, self.height)

    def bend(self, z: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return how far the midline is pushed to the left at heights `z`, cm."""
        return self.scoliosis * np.sin((np.asarray(z, dtype=float) + 2.0) * 0.22)


@dataclass(frozen=True)
class Pose:
    """How the patient stood, breathed and was aimed at for one study."""

    projection: Projection
    breath: float  # rise of the diaphragm against a middling breath, cm
    turn_frontal: float  # rotation about the long axis, radians
    turn_lateral: float
    zoom: float
    shift: tuple[float, float]  # of the film's middle, cm (across, up)


def draw_chest(rng: np.random.Generator) -> Chest:
    """Return one random adult: sex and age first, then a body that is plausible for them."""
    sex: Literal["Female", "Male"] = "Female" if rng.random() < 0.46 else "Male"
    age = int(np.clip(rng.normal(58, 18), 18, 90))
    size = rng.normal(0.94 if sex == "Female" else 1.01, 0.035)
    old = (age - 55) / 35
    habitus = float(np.clip(rng.normal(0, 1), -1.8, 2.2))  # lean to stout
    dome = rng.normal(-8.1 + 0.45 * habitus, 0.6)
    return Chest(
        sex=sex,
        age=age,
        width=float(size * (1 + 0.03 * habitus + rng.normal(0, 0.015))),
        depth=float(size * (1 + 0.05 * habitus + 0.04 * old + rng.normal(0, 0.02))),
        height=float(size * (1 - 0.025 * habitus - 0.01 * old + rng.normal(0, 0.02))),
        wall=float(max(0.0, 0.9 + 0.8 * habitus)),
        breast=float(rng.uniform(1.0, 3.2)) if sex == "Female" else 0.0,
        apex=float(rng.normal(13.2, 0.35)),
        dome_right=float(dome + rng.normal(0.6, 0.3)),
        dome_left=float(dome + rng.normal(-0.6, 0.3)),
        heart=float(np.clip(rng.normal(0.95, 0.035), 0.87, 1.02)),
        heart_shift=float(rng.normal(0.0, 0.35)),
        heart_tilt=float(np.clip(rng.normal(0.62 - 0.1 * habitus, 0.1), 0.35, 0.9)),
        aorta=float(np.clip(1.0 + 0.12 * old + rng.normal(0, 0.07), 0.8, 1.35)),
        scoliosis=float(np.clip(rng.normal(0, 0.35), -1.0, 1.0)),
        bubble=float(rng.uniform(0.6, 2.4)),
        bone=float(np.clip(1.05 - 0.15 * old + rng.normal(0, 0.08), 0.7, 1.3)),
        lung=float(rng.uniform(0.048, 0.062)),
        tree_seed=int(rng.integers(2**32)),
    )


def draw_pose(rng: np.random.Generator) -> Pose:
    """Return how one study was taken; bedside (AP) films are breathed less deeply and aimed less well."""
    bedside = rng.random() < 0.4
    loose = 1.5 if bedside else 1.0
    return Pose(
        projection="AP" if bedside else "PA",
        breath=float(np.clip(rng.normal(0.8 if bedside else 0.0, 0.55), -1.2, 2.4)),
        turn_frontal=float(rng.normal(0, 0.035 * loose)),
        turn_lateral=float(rng.normal(0.02, 0.045)),
        zoom=float(rng.normal(1.0, 0.025 * loose)),
        shift=(float(rng.normal(0, 0.5 * loose)), float(rng.normal(0, 0.5 * loose))),
    )
