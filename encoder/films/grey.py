"""Grey films that are stored in colour or with transparency, as one grey picture; what is coloured is refused."""

import math

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from encoder.errors import ImageError

MAX_SATURATION = 30.0  # mean HSV saturation on 0..255; a grey film stored as RGB stays far below
MAX_OFF_TINT = 6.0
"""How far, in root mean square of 0..255, colours may lie off one line from dark to bright: the tint of a film's base,
or the noise of dark borders. Of photographs it is above 20."""
MAX_OFF_GREY = 4.0
"""The same for the line of greys, along which there need be no spread: noise of a dark film is saturated in HSV."""
_LEAST_SPREAD = 10.0  # of brightness, as a standard deviation of 0..255
_EVENEST = 0.5  # least share that the weakest channel has of the strongest along that line
_STRIP = 1_000_000  # pixels of a colour picture that are made grey at a time


def as_grey(picture: Pillow.Image | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a picture with colour or alpha, or an array (H, W, 3) in RGB, as (H, W) uint8.

    Strip by strip: whole copies of it would take a gigabyte. What is transparent is laid on black.

    Raises:
        ImageError: it is a colour picture.
    """
    height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
    step = max(1, round(math.sqrt(width * height / 1_000_000)))  # of a sample of about a million pixels
    rows = max(step, _STRIP // width // step * step)
    grey = np.empty((height, width), np.uint8)
    saturations, moments = [], np.zeros((4, 4))
    for top in range(0, height, rows):
        strip = _strip(picture, top, min(top + rows, height))
        sample = strip.reduce(step)
        saturations.append(_saturation(sample) * strip.height)
        moments += _moments(sample)
        grey[top : top + rows] = np.asarray(strip.convert("L"))
    saturation = sum(saturations) / height
    if saturation > MAX_SATURATION and not _is_tinted(moments):
        raise ImageError(
            f"expected a grey radiograph, got a colour picture (mean saturation {saturation:.0f} of 255, "
            f"limit {MAX_SATURATION:.0f}); export it as grey"
        )
    return grey


def _strip(picture: Pillow.Image | npt.NDArray[np.uint8], top: int, bottom: int) -> Pillow.Image:
    """Return some rows in RGB, laid on black where they are not opaque."""
    if isinstance(picture, np.ndarray):
        return Pillow.fromarray(np.ascontiguousarray(picture[top:bottom]))
    strip = picture.crop((0, top, picture.width, bottom))
    if strip.mode.endswith("A") or "transparency" in strip.info:
        opaque = strip.convert("RGBA")
        black = Pillow.new("RGBA", opaque.size, (0, 0, 0, 255))
        strip = Pillow.alpha_composite(black, opaque)
    return strip.convert("RGB")


def _saturation(picture: Pillow.Image) -> float:
    """Return the mean HSV saturation of an RGB picture, 0 to 255."""
    return float(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2HSV)[..., 1].mean())


def _moments(picture: Pillow.Image) -> npt.NDArray[np.float64]:
    """Return (4, 4): the sums of the products of 1, red, green and blue over an RGB picture."""
    colours = np.asarray(picture, np.float64).reshape(-1, 3)
    extended = np.concatenate([np.ones((len(colours), 1)), colours], axis=1)
    return np.asarray(extended.T @ extended)


def _is_tinted(moments: npt.NDArray[np.float64]) -> bool:
    """Return whether every colour is a brightness of grey, or of one pale tint."""
    products = moments[1:, 1:] / moments[0, 0]
    if np.trace(products) - products.mean() * 3 <= MAX_OFF_GREY**2:  # what the mean of the channels does not tell
        return True
    mean = moments[0, 1:] / moments[0, 0]
    spreads, axes = np.linalg.eigh(products - np.outer(mean, mean))
    off, along = float(np.sqrt(max(spreads[:2].sum(), 0))), float(np.sqrt(max(spreads[2], 0)))
    line = axes[:, 2] * np.sign(axes[:, 2].sum())
    even = float(line.min()) >= _EVENEST * float(line.max())
    return off <= MAX_OFF_TINT and along >= _LEAST_SPREAD and even
