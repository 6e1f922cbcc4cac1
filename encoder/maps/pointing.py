"""The pointing game: does a map peak where the finding is?"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in the film's own pixels, as the phantoms' boxes.csv has them."""


def peak_in_box(heat: npt.NDArray[np.float32], boxes: Iterable[Box], margin: tuple[float, float]) -> bool:
    """Return whether the hottest pixel lies in one of the boxes; False for a blank map (Zhang et al., IJCV 2018).

    Args:
        heat: (H, W) on the film's own pixels.
        margin: by how many pixels a box grows up and down, and left and right.
    """
    if not heat.any():
        return False
    row, column = np.unravel_index(int(np.argmax(heat)), heat.shape)
    return any(x0 <= column <= x1 and y0 <= row <= y1 for x0, y0, x1, y1 in (grown(box, margin) for box in boxes))


def grown(box: Box, margin: tuple[float, float]) -> Box:
    """Return a box with the margin (down, across) added on each side."""
    down, across = margin
    x0, y0, x1, y1 = box
    return x0 - across, y0 - down, x1 + across, y1 + down
