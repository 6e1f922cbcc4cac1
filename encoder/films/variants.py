"""Films as they could also have been taken: turned a little, or exposed a little differently."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from encoder.errors import EncoderError
from encoder.films.preprocess import Preprocessing
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


def varied_study(films: StudyFilms, name: str, preprocessing: Preprocessing) -> StudyFilms:
    """Return the films of a study, each changed as the variant of that name says."""
    if name == PLAIN:
        return films
    views = (films.frontal, films.lateral)
    frontal, lateral = (None if film is None else varied_film(film, VARIANTS[name], preprocessing) for film in views)
    return replace(films, frontal=frontal, lateral=lateral)


def varied_film(film: Film, variant: Variant, preprocessing: Preprocessing) -> Film:
    """Return the film (C, S, S) changed at the network's own scale, as training changes films.

    Args:
        film: (C, S, S), as `preprocessing` gives it: every channel the same grey film, normalised.
    """
    pair = (preprocessing.mean, preprocessing.std)
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in pair)
    grey = film[0] * std[0] + mean[0]  # (S, S) in [0, 1]
    if variant.mirrored:
        grey = grey[:, ::-1]
    if variant.degrees:
        grey = _turned(grey, variant.degrees)
    grey = np.clip(grey + np.float32(variant.brightness), 0, 1)
    changed: Film = ((grey[None] - mean) / std).astype(np.float32)
    return changed


def _turned(grey: npt.NDArray[np.float32], degrees: float) -> npt.NDArray[np.float32]:
    middle = (grey.shape[0] - 1) / 2
    turn = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    return np.asarray(cv2.warpAffine(grey, turn, grey.shape, flags=cv2.INTER_LINEAR), dtype=np.float32)
