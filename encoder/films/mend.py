"""Films that were scanned turned, or as negatives: the other ways that a film could be meant, and the film mended."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from encoder.films.layout import Layout, layout_of
from encoder.films.plane import Plane, white

MENDS: Mapping[str, tuple[int, bool]] = MappingProxyType(
    {
        "turn90": (1, False),
        "turn180": (2, False),
        "turn270": (3, False),
        "invert": (0, True),
        "invert-turn90": (1, True),
        "invert-turn180": (2, True),
        "invert-turn270": (3, True),
    }
)
"""By name: quarter turns clockwise, and whether black and white change places. To mirror a film is none of them: its
layout does not tell which side the heart is on."""


def mended(plane: Plane, mend: str) -> Plane:
    """Return a film (H, W) as a mend of that name leaves it, of its own type."""
    turns, inverted = MENDS[mend]
    turned = np.rot90(plane, -turns)
    return np.ascontiguousarray(white(plane) - turned if inverted else turned)


def mended_layouts(film: Plane) -> dict[str, Layout]:
    """Return the layout that a film (S, S) would have after each mend; black bars beside a film stay black."""
    filled = film > 0
    bars = ~(filled.any(axis=1, keepdims=True) & filled.any(axis=0, keepdims=True))
    layouts = {}
    for mend, (turns, _) in MENDS.items():
        square = mended(film, mend)
        square[np.rot90(bars, -turns)] = 0
        layouts[mend] = layout_of(square)
    return layouts
