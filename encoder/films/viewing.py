"""A film for a viewer: its pixels at their own depth, and what its header says of showing and measuring them.

Numbers alone: no text of a header is kept but the few words that name a preset.
"""

import base64
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from encoder.films.plane import Plane

CHUNK = b"viEw"
"""Of a PNG: ancillary, private, not to be copied once the pixels were changed (PNG, section 5.4)."""
_IHDR_END = 33  # bytes of the signature and of the first chunk
_RUNS = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
"""Of films of 12 bits the smallest and among the quickest: their noise leaves nothing but runs to be found."""


@dataclass(frozen=True)
class Window:
    """One window of a film in its own values, with its function (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""

    name: str
    center: float
    width: float
    function: str = "LINEAR"

    def brightness(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the brightness of each value in [0, 1]; it grows with the value."""
        if self.function == "SIGMOID":
            steepness = np.clip(-4 * (values - self.center) / self.width, -700, 700)
            return np.asarray(1 / (1 + np.exp(steepness)))
        exact = self.function == "LINEAR_EXACT"
        center, width = (self.center, self.width) if exact else (self.center - 0.5, self.width - 1)
        if width == 0:
            return np.asarray(values > center, np.float64)
        return np.asarray(np.clip((values - center) / width + 0.5, 0, 1))

    def described(self) -> dict[str, Any]:
        """Return the window as JSON has it."""
        return {"name": self.name, "center": self.center, "width": self.width, "function": self.function}


@dataclass(frozen=True)
class Curve:
    """One VOI LUT of a film: how bright each code from `first` on is shown, 65535 being white."""

    name: str
    first: int
    entries: npt.NDArray[np.uint16]

    def described(self) -> dict[str, Any]:
        """Return the curve as JSON has it, its entries as base64 of 16 bits each, little endian."""
        entries = base64.b64encode(self.entries.astype("<u2").tobytes()).decode()
        return {"name": self.name, "first": self.first, "entries": entries}


@dataclass(frozen=True)
class Spacing:
    """Millimetres from pixel to pixel, and where these millimetres are."""

    down: float
    across: float
    place: str
    """"detector", in front of which the patient is smaller; "patient", for which the header was calibrated; "film" that
    was scanned; or "stated", where the header does not tell which."""

    def described(self) -> dict[str, Any]:
        """Return the spacing as JSON has it."""
        return {"down": self.down, "across": self.across, "place": self.place}


@dataclass(frozen=True)
class ViewedFilm:
    """A film's codes as they are stored, without loss, and how they are shown."""

    codes: Plane
    """(H, W) uint8 or uint16. A pixel's value is `slope` times its code and `intercept`."""
    bits: int
    presets: Sequence[Window | Curve]
    """What the header asks for, the first of which is to be shown, and last the whole range."""
    slope: float = 1.0
    intercept: float = 0.0
    inverted: bool = False
    """Whether the least value is the brightest, as MONOCHROME1 says."""
    padding: tuple[int, int] | None = None
    """The first and the last code of what no detector saw, to be shown black."""
    spacing: Spacing | None = None
    aspect: float = 1.0
    """Height of a pixel over its width."""
    ends: tuple[int, int] = field(default=(0, 255))
    """The least and the greatest code that is no padding."""

    def described(self) -> dict[str, Any]:
        """Return all of it but the codes as JSON has it."""
        height, width = self.codes.shape
        return {
            "width": width,
            "height": height,
            "bits": self.bits,
            "slope": self.slope,
            "intercept": self.intercept,
            "inverted": self.inverted,
            "padding": self.padding,
            "ends": self.ends,
            "aspect": self.aspect,
            "spacing": None if self.spacing is None else self.spacing.described(),
            "presets": [preset.described() for preset in self.presets],
        }

    def as_png(self) -> bytes:
        """Return the codes as a grey PNG of their own 8 or 16 bits, which says the rest as JSON in a chunk `viEw`."""
        _, encoded = cv2.imencode(".png", self.codes, _RUNS)
        picture = encoded.tobytes()
        said = zlib.compress(json.dumps(self.described(), allow_nan=False).encode())
        chunk = struct.pack(">I", len(said)) + CHUNK + said + struct.pack(">I", zlib.crc32(CHUNK + said))
        return picture[:_IHDR_END] + chunk + picture[_IHDR_END:]


def whole_range(low: float, high: float) -> Window:
    """Return the window that shows the least value black and the greatest white."""
    return Window("Whole range", (low + high) / 2, high - low, "LINEAR_EXACT")


def picture(codes: Plane) -> ViewedFilm:
    """Return a film that has no header: of 8 bits as they are, of 16 from its least to its greatest code."""
    shallow = codes.dtype == np.uint8
    ends = (0, 255) if shallow else (int(codes.min()), int(codes.max()))
    return ViewedFilm(codes, 8 if shallow else 16, (whole_range(*ends),), ends=ends)
