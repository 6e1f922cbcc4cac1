"""Why a probe names a finding, and why two studies are alike: maps over the films of a study.

Nothing is left on the encoder: gradients are taken of feature maps that each call makes for itself, so that other
threads may use the same encoder meanwhile.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.image import Source, read_plane
from encoder.films.plane import Image, as_image
from encoder.films.study import StudyFilms
from encoder.findings.probe import LinearProbe
from encoder.maps.attribution import METHODS as PIXEL_METHODS
from encoder.maps.attribution import pixel_attribution
from encoder.maps.cam import CAMS, Heat, cam_of, feature_map
from encoder.maps.trust import ChangedFilm, Trust, trust_of

VIEWS = ("frontal", "lateral")
METHODS = (*CAMS, *PIXEL_METHODS)
DEFAULT_METHOD = "gradcam++"
"""Of the CAMs the one that points at small findings most often (`precedent pointing`) and is least often blank."""


@dataclass(frozen=True)
class OpenStudy:
    """One study as it was read: its films on their own pixels, and as the network takes them."""

    images: dict[str, Image]
    """By view, (H, W) in [0, 1], bone bright."""
    films: StudyFilms

    @classmethod
    def read(
        cls, embedder: Embedder, frontal: Source | None, lateral: Source | None, projection: str | None = None
    ) -> Self:
        """Return a study read from paths or bytes. Raises ImageError; EncoderError where both are missing."""
        sources = {"frontal": frontal, "lateral": lateral}
        planes = {
            view: read_plane(
                source,
                name=view if isinstance(source, bytes) else str(source),
                ignored_parts=embedder.ignored_parts,
            )
            for view, source in sources.items()
            if source is not None
        }
        films = {view: embedder.preprocessing(plane) for view, plane in planes.items()}
        images = {view: as_image(plane) for view, plane in planes.items()}
        return cls(images, StudyFilms(films.get("frontal"), films.get("lateral"), projection))


@dataclass(frozen=True)
class Aim:
    """What is explained, as one number of an embedding: weight . embedding + bias."""

    weight: npt.NDArray[np.float32]
    """(D,)"""
    bias: float = 0.0
    calibration: tuple[float, float] | None = None
    """(slope, offset) that make a probability of a logit; None for a cosine."""

    @classmethod
    def of_finding(cls, probe: LinearProbe, finding: str) -> Self:
        """Return the logit of a finding. Raises EncoderError: the probe has not learnt it."""
        if finding not in probe.findings:
            raise EncoderError(f"expected a finding of the probe ({', '.join(probe.findings)}), got {finding!r}")
        column = probe.findings.index(finding)
        calibration = float(probe.slope[column]), float(probe.offset[column])
        return cls(probe.weight[:, column], float(probe.bias[column]), calibration)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return the numbers (B,) of embeddings (B, D)."""
        weight = torch.as_tensor(self.weight, dtype=embeddings.dtype, device=embeddings.device)
        return embeddings @ weight + self.bias

    def reading(self, embeddings: Tensor) -> Tensor:
        """Return what is shown of embeddings (B, D): probabilities (B,) of a finding, or cosines (B,)."""
        values = self(embeddings)
        if self.calibration is None:
            return values
        slope, offset = self.calibration
        return torch.sigmoid(slope * values + offset)


@dataclass(frozen=True)
class Explanation:
    """The maps of one study's films."""

    value: float
    """The logit, or the cosine between query and hit."""
    maps: dict[str, Heat]
    """By view, (H, W) in [0, 1] on the film's own pixels; all 0 where nothing speaks for the value."""
    trust: dict[str, Trust] = field(default_factory=dict)
    """By view; empty where it was not asked for."""


class Explainer:
    """Explains studies with one embedder's encoder. Safe under threads."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def why_finding(
        self,
        study: OpenStudy,
        probe: LinearProbe,
        finding: str,
        *,
        method: str = DEFAULT_METHOD,
        stage: int | None = None,
        trust: bool = False,
    ) -> Explanation:
        """Return where a study's films speak for a finding: the gradient of the probe's logit.

        Args:
            method: one of METHODS.
            stage: for CAM methods, which of the network's resolutions from 0 (1/2) on; None takes its last maps.

        Raises:
            EncoderError: another encoder's probe, an unknown finding, method or stage, or captum is not installed.
        """
        probe.require_fingerprint(self.embedder.fingerprint)
        return self._explain(study, Aim.of_finding(probe, finding), method, stage, trust)

    def why_similar(
        self,
        query: OpenStudy,
        hit: OpenStudy,
        *,
        method: str = DEFAULT_METHOD,
        stage: int | None = None,
        trust: bool = False,
    ) -> tuple[Explanation, Explanation]:
        """Return what of the query's films, and what of the hit's, makes the two alike.

        Each side's maps are gradients of the cosine between both embeddings with the other side held as it is.
        """
        first, second = self.embedder.embed([query.films, hit.films])
        return (
            self._explain(query, Aim(second), method, stage, trust),
            self._explain(hit, Aim(first), method, stage, trust),
        )

    def cell(self, shape: tuple[int, ...], stage: int | None = None) -> tuple[float, float]:
        """Return height and width of a cell of a stage's feature map (None: the last), in pixels of a film (H, W)."""
        preprocessing, encoder = self.embedder.preprocessing, self.embedder.encoder
        blank = torch.zeros(1, preprocessing.channels, preprocessing.size, preprocessing.size)
        with torch.inference_mode():
            rows, columns = feature_map(encoder, blank.to(self.embedder.device), 0, stage)[1].shape[2:]
        height, width = preprocessing.square_on_film(shape)
        return height / rows, width / columns

    def _explain(self, study: OpenStudy, aim: Aim, method: str, stage: int | None, trust: bool) -> Explanation:
        if method not in METHODS:
            raise EncoderError(f"expected a method of {', '.join(METHODS)}, got {method!r}")
        encoder, preprocessing = self.embedder.encoder, self.embedder.preprocessing
        given = {view: film for view in VIEWS if (film := getattr(study.films, view)) is not None}
        films = {view: preprocessing.normalized(film) for view, film in given.items()}
        stacks = {view: torch.from_numpy(film)[None].to(self.embedder.device) for view, film in films.items()}
        with torch.enable_grad():
            if method in CAMS:
                squares = cam_of(encoder, stacks, aim, method, stage, study.films.positions)
            else:
                squares = pixel_attribution(encoder, stacks, self._black(), aim, method, study.films.positions)
        maps = {view: preprocessing.undo(square, study.images[view].shape) for view, square in squares.items()}
        return Explanation(
            float(self.embedder.embed([study.films])[0] @ aim.weight + aim.bias),
            {view: _peaked(heat) for view, heat in maps.items()},
            {
                view: trust_of(
                    films[view], square, ChangedFilm(encoder, stacks, view, aim.reading, study.films.positions)
                )
                for view, square in squares.items()
                if trust
            },
        )

    def _black(self) -> Tensor:
        """Return a black film's pixel as the network takes it, (1, C, 1, 1)."""
        preprocessing = self.embedder.preprocessing
        pixel = -np.array(preprocessing.mean, np.float32) / np.array(preprocessing.std, np.float32)
        return torch.from_numpy(pixel)[None, :, None, None].to(self.embedder.device)


def _peaked(heat: Heat) -> Heat:
    """Return the map with its peak at 1; a peak in the network's borders is not on the film."""
    peak = float(heat.max())
    return np.asarray(heat / peak if peak > 0 else heat, dtype=np.float32)
