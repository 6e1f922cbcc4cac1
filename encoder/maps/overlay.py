"""Maps as pictures: a grey PNG, or laid over their film in colour."""

import cv2
import numpy as np
import numpy.typing as npt

from encoder.errors import EncoderError
from encoder.films.plane import Image
from encoder.maps.cam import Heat

COLOURS: dict[str, int] = {
    "inferno": cv2.COLORMAP_INFERNO,  # even steps of heat look even, also in grey and to the colour-blind
    "viridis": cv2.COLORMAP_VIRIDIS,
    "jet": cv2.COLORMAP_JET,  # the seed designs' own; it shows edges where there are none
}
Picture = npt.NDArray[np.uint8]


def overlay(image: Image, heat: Heat, *, alpha: float = 0.4, colours: str = "inferno") -> Picture:
    """Return the film (H, W, 3) uint8 RGB with the map over it; where the map is 0 the film is untouched.

    Args:
        image: (H, W) in [0, 1]. heat: (H, W) in [0, 1].
        alpha: how much of the hottest pixel is colour, 0 to 1.

    Raises:
        EncoderError: shapes that differ, an alpha outside 0 to 1, or unknown colours.
    """
    if image.shape != heat.shape:
        raise EncoderError(f"expected a map of the film's shape {image.shape}, got {heat.shape}")
    if not 0 <= alpha <= 1:
        raise EncoderError(f"expected alpha from 0 to 1, got {alpha}")
    if colours not in COLOURS:
        raise EncoderError(f"expected colours {', '.join(COLOURS)}, got {colours!r}")
    grey = np.repeat(_as_bytes(image)[..., None], 3, axis=2).astype(np.float32)
    hot = cv2.cvtColor(cv2.applyColorMap(_as_bytes(heat), COLOURS[colours]), cv2.COLOR_BGR2RGB)
    share = (alpha * heat)[..., None]
    return np.rint(grey * (1 - share) + hot * share).astype(np.uint8)


def as_png(picture: Heat | Picture) -> bytes:
    """Return a map (H, W) in [0, 1], or a picture (H, W, 3) uint8 RGB, as PNG of 8 bits."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else _as_bytes(picture)
    return cv2.imencode(".png", pixels)[1].tobytes()


def _as_bytes(values: npt.NDArray[np.floating] | Picture) -> Picture:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
