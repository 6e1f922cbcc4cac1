"""The pointing game: does a map peak where the finding is?

Knows maps and boxes; it must not know how either was made.
"""

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
    down, across = margin
    return any(x0 - across <= column <= x1 + across and y0 - down <= row <= y1 + down for x0, y0, x1, y1 in boxes)
