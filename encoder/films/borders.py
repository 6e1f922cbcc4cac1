"""How much of a film is border: flat strips along its edges, as collimation, printing and open beam leave them."""

import cv2
import numpy as np
import numpy.typing as npt

_SIDE = 256
"""Longest side that is looked at: a border narrower than 1 in 256 is none."""
_FLAT = 0.03
"""Most by which the brightness of a line of border varies, a fiftieth of its pixels at either end left out."""


def border_share(film: npt.NDArray[np.float32]) -> float:
    """Return the share of a film (H, W), of brightness in [0, 1], that lies in flat strips along its edges; 0 to 1."""
    scale = min(_SIDE / max(film.shape), 1.0)
    small = cv2.resize(film, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    kept = 1.0
    for axis in (0, 1):
        low, high = np.percentile(small, (2, 98), axis=1 - axis)
        seen = np.flatnonzero(high - low > _FLAT)
        kept *= (seen[-1] - seen[0] + 1) / small.shape[axis] if len(seen) else 0.0
    return 1.0 - kept
