"""Turning a film into a network's input: one frozen, versioned value."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import numpy.typing as npt

from encoder.errors import EncoderError, ImageError
from encoder.films.plane import Plane, resized, shallow, white
from encoder.films.study import Film, Normalized

Fit = Literal["crop", "letterbox", "squash"]
Contrast = Literal["none", "clahe", "equalize"]
Array = npt.NDArray[np.float32]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLAHE_CLIP = 2.0
CLAHE_TILES = (8, 8)
VERSION = 2
"""2 changes sizes with OpenCV, 1 did in sums of its own: the embeddings of a film by both have a cosine above 0.999. A
file that says 1 keeps its fingerprint, and its films are read as by 2; an index says by which its films were read
(`encoder.films.image.READING`)."""
MAX_SIZE = 1024
"""An EfficientNet-B0 takes 0.27 GB for a film of that side, and four times that for twice the side."""
_LATER = {"margin"}
"""Fields that older files lack: they are stated only where they change something, so that fingerprints stay."""


class Box(NamedTuple):
    """A rectangle in pixels; bottom and right are the first row and column outside it."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Return height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return what cuts the rectangle out of an array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Preprocessing:
    """How a film becomes a tensor; its digest belongs to the encoder's fingerprint.

    Sizes and contrast are as exact as OpenCV's, and a film keeps its 8 or 16 bits until it is normalised.
    """

    version: int = VERSION  # raised when the same fields begin to give other tensors
    size: int = 224  # side of the square input; what most ImageNet weights were trained at
    fit: Fit = (
        "crop"  # letterbox keeps the whole film, and spends input on borders; squash, and changes its proportions
    )
    contrast: Contrast = "none"
    mean: tuple[float, ...] = IMAGENET_MEAN  # one a channel, on [0, 1]
    std: tuple[float, ...] = IMAGENET_STD
    margin: int = 0  # crop only: pixels at the network's scale that are cut from each side of the centred square

    def __post_init__(self) -> None:
        """Refuse values no film can be prepared with."""
        _require(type(self.version) is int and 1 <= self.version <= VERSION, f"version 1 to {VERSION}", self.version)
        _require(type(self.size) is int and 16 <= self.size <= MAX_SIZE, f"size 16 to {MAX_SIZE}", self.size)
        _require(self.fit in get_args(Fit), f"fit in {get_args(Fit)}", self.fit)
        _require(self.contrast in get_args(Contrast), f"contrast in {get_args(Contrast)}", self.contrast)
        for key in ("mean", "std"):
            object.__setattr__(self, key, _as_numbers(getattr(self, key), key))
        _require(len(self.mean) == len(self.std) in (1, 3), "1 or 3 numbers in mean and in std", self.mean)
        _require(min(self.std) > 0, "std above 0", self.std)
        margin = self.margin
        _require(type(margin) is int and 0 <= margin <= self.size // 2, "a margin of 0 to half its size", margin)
        _require(self.fit == "crop" or not margin, "a margin of 0 unless fit is crop", margin)

    @property
    def channels(self) -> int:
        """Return the number of channels, each a copy of the grey film before normalisation."""
        return len(self.mean)

    def __call__(self, plane: Plane) -> Film:
        """Return the film as the network's square, (S, S) of the plane's own 8 or 16 bits.

        Args:
            plane: (H, W), as `encoder.films.image.read_plane` gives it.

        Raises:
            ImageError: another shape or type.
        """
        _check_film(plane)
        shape = self._film_shape(plane.shape)
        source, target = self._overlap(shape)
        if self.contrast == "none":
            film = resized(plane, shape, source.slices)
        else:  # a matter of the whole film
            film = _with_contrast(shallow(resized(plane, shape)), self.contrast)[source.slices]
        if source.shape == (self.size, self.size):
            return np.ascontiguousarray(film)
        square: Film = np.zeros((self.size, self.size), dtype=film.dtype)
        square[target.slices] = film
        return square

    def normalize(self, film: Film, out: Normalized) -> None:
        """Put a film (S, S) into `out` (C, S, S) float32: a copy for each channel, less its mean, over its std."""
        for channel, mean, std in zip(out, self.mean, self.std, strict=True):
            np.multiply(film, np.float32(1 / (std * white(film))), out=channel, dtype=np.float32)
            channel -= np.float32(mean / std)

    def normalized(self, film: Film) -> Normalized:
        """Return a film (S, S) as `normalize` puts it, (C, S, S)."""
        normalized = np.empty((self.channels, *film.shape), np.float32)
        self.normalize(film, normalized)
        return normalized

    def _film_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return height and width of the whole film at the network's scale."""
        height, width = shape
        if self.fit == "squash":
            return self.size, self.size
        base = min(shape) if self.fit == "crop" else max(shape)
        side = self.size + 2 * self.margin
        return max(1, _scaled(height, side, base)), max(1, _scaled(width, side, base))

    def square_on_film(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Return height and width of the network's square, in pixels of a film (H, W); borders count."""
        if self.fit == "squash":
            return float(shape[0]), float(shape[1])
        base = min(shape) if self.fit == "crop" else max(shape)
        return (base * self.size / (self.size + 2 * self.margin),) * 2

    def square_in(self, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1 of the network's square in shares of a film (H, W); with borders beyond 0 to 1."""
        (height, width), (square_height, square_width) = shape, self.square_on_film(shape)
        across, down = square_width / width / 2, square_height / height / 2
        return 0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down

    def _overlap(self, film: tuple[int, ...]) -> tuple[Box, Box]:
        """Return what the square and the scaled film share, as a box of the film and as one of the square."""
        offsets = [(side - self.size) // 2 for side in film]
        sides = [min(side, self.size) for side in film]
        (top, left), (down, right) = [max(0, o) for o in offsets], [max(0, -o) for o in offsets]
        source = Box(top, left, top + sides[0], left + sides[1])
        return source, Box(down, right, down + sides[0], right + sides[1])

    def film_box(self, shape: tuple[int, int]) -> Box:
        """Return the part of a film of this (H, W) that the network sees, in the film's own pixels."""
        scaled = self._film_shape(shape)
        source, _ = self._overlap(scaled)
        top, bottom = (_scaled(row, shape[0], scaled[0]) for row in (source.top, source.bottom))
        left, right = (_scaled(column, shape[1], scaled[1]) for column in (source.left, source.right))
        return Box(top, left, bottom, right)

    def undo(self, values: Array, shape: tuple[int, int]) -> Array:
        """Return a map of the network's square on the film's own pixels; 0 where the network saw nothing.

        Args:
            values: (S, S) float32.
            shape: (H, W) of the film.

        Returns:
            (H, W) float32.
        """
        if values.shape != (self.size, self.size):
            raise EncoderError(f"expected a map of shape ({self.size}, {self.size}), got {values.shape}")
        box = self.film_box(shape)
        _, target = self._overlap(self._film_shape(shape))
        seen = np.ascontiguousarray(values[target.slices], dtype=np.float32)
        film = np.zeros(shape, dtype=np.float32)
        film[box.slices] = cv2.resize(seen, box.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return film

    def to_json(self) -> str:
        """Return the canonical JSON: keys sorted, no spaces; fields of `_LATER` only where they are not 0."""
        stated = {key: value for key, value in asdict(self).items() if value or key not in _LATER}
        return json.dumps(stated, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Preprocessing":
        """Return the preprocessing that `to_json` wrote.

        Raises:
            EncoderError: no JSON object, a missing or unknown key, or a value of the wrong type or range.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EncoderError(f"expected the preprocessing as JSON, got other text ({error})") from error
        keys = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) | _LATER != keys:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise EncoderError(f"expected preprocessing with the keys {sorted(keys)}, got {got}")
        return cls(**values)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _require(holds: bool, wanted: str, got: object) -> None:
    if not holds:
        raise EncoderError(f"expected preprocessing with {wanted}, got {got!r}")


def _as_numbers(values: object, key: str) -> tuple[float, ...]:
    numbers = [v for v in values if type(v) in (int, float)] if isinstance(values, (tuple, list)) else []
    whole = isinstance(values, (tuple, list)) and len(numbers) == len(values)
    _require(whole and all(map(math.isfinite, numbers)), f"finite numbers in {key}", values)
    return tuple(float(number) for number in numbers)


def _scaled(side: int, to: int, base: int) -> int:
    """Return side * to / base, halves rounded up, in integers."""
    return (2 * side * to + base) // (2 * base)


def _check_film(plane: Plane) -> None:
    if plane.ndim != 2 or plane.size == 0 or plane.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"expected a film of shape (H, W) and uint8 or uint16, got {plane.shape} of {plane.dtype}")


def _with_contrast(film: npt.NDArray[np.uint8], contrast: Contrast) -> npt.NDArray[np.uint8]:
    clahe = cv2.createCLAHE(CLAHE_CLIP, CLAHE_TILES)
    return np.asarray(clahe.apply(film) if contrast == "clahe" else cv2.equalizeHist(film), np.uint8)
