"""Films as they could also have been taken: turned a little, or exposed a little differently."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import cv2
import numpy as np

from encoder.errors import EncoderError
from encoder.films.plane import Image, as_deep_plane, as_image
from encoder.films.study import Film, StudyFilms


@dataclass(frozen=True)
class Variant:
    """One other way to take a film."""

    degrees: float = 0.0
    """Turn about the film's middle, counterclockwise; what comes in from outside is black."""
    brightness: float = 0.0
    """Added to the film, in units of [0, 1]."""
    mirrored: bool = False


PLAIN = "plain"
VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        PLAIN: Variant(),
        "turned left": Variant(degrees=5),
        "turned right": Variant(degrees=-5),
        "brighter": Variant(brightness=0.1),
        "darker": Variant(brightness=-0.1),
        "mirrored": Variant(mirrored=True),
    }
)
TEST_TIME = (PLAIN, "turned left", "turned right", "brighter", "darker")
"""What test-time augmentation looks at. Mirrored is not among them: it puts the heart on the right, which is a
finding of its own (situs inversus)."""


def require_variants(names: tuple[str, ...]) -> None:
    """Raise EncoderError unless there is a name, each is known, and none comes twice."""
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names or len(set(names)) < len(names):
        raise EncoderError(f"expected different variants of {', '.join(VARIANTS)}, got {', '.join(names) or 'none'}")


def varied_study(films: StudyFilms, name: str) -> StudyFilms:
    """Return the films of a study, each changed as the variant of that name says."""
    if name == PLAIN:
        return films
    views = (films.frontal, films.lateral)
    frontal, lateral = (None if film is None else varied_film(film, VARIANTS[name]) for film in views)
    return replace(films, frontal=frontal, lateral=lateral)


def varied_film(film: Film, variant: Variant) -> Film:
    """Return the film (S, S) changed at the network's own scale, as training changes films; of 16 bits."""
    grey = as_image(film)
    if variant.mirrored:
        grey = grey[:, ::-1]
    if variant.degrees:
        grey = _turned(grey, variant.degrees)
    return as_deep_plane(np.clip(grey + np.float32(variant.brightness), 0, 1))


def _turned(grey: Image, degrees: float) -> Image:
    middle = (grey.shape[0] - 1) / 2
    turn = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    return np.asarray(cv2.warpAffine(grey, turn, grey.shape, flags=cv2.INTER_LINEAR), dtype=np.float32)
