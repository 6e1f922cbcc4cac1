"""The films of a training run, read once and kept small in memory, handed out a batch at a time."""

import dataclasses
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.errors import EncoderError
from encoder.films.image import read_image
from encoder.films.preprocess import Preprocessing

Planes = npt.NDArray[np.uint8]


class FilmStore:
    """Films by number, preprocessed up to normalisation, 8 bits a pixel; read at first use, kept while they fit."""

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        *,
        cache_gb: float = 8.0,
        threads: int = 2,
        ignored_parts: Container[str] = (),
    ) -> None:
        """Take films below a size in memory; `ignored_parts` as `encoder.films.image.read_image` has them."""
        self._ignored_parts = ignored_parts
        self.paths = list(paths)
        self.size = preprocessing.size
        # One plane in [0, 1]: the channels are copies of it, and augmentation comes before normalisation.
        self._plane = dataclasses.replace(preprocessing, mean=(0.0,), std=(1.0,))
        self._threads = threads
        fits = len(self.paths) * self.size**2 <= cache_gb * 1e9
        self._cache = np.zeros((len(self.paths) if fits else 0, self.size, self.size), dtype=np.uint8)
        self._held = np.zeros(len(self.paths), dtype=bool)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> Planes:
        """Return one film, (S, S) uint8. Raises ImageError, naming the file."""
        if self._held[row]:
            plane: Planes = self._cache[row]
            return plane
        path = self.paths[row]
        plane = np.rint(
            self._plane(read_image(path, name=str(path), ignored_parts=self._ignored_parts))[0] * 255
        ).astype(np.uint8)
        if len(self._cache):
            self._cache[row] = plane
            self._held[row] = True
        return plane

    def fill(self, on_film: Callable[[int], None] | None = None) -> None:
        """Read every film ahead, where all fit into the cache, so that a bad one is met before the first step."""
        rows = np.flatnonzero(~self._held) if len(self._cache) else np.empty(0, np.int64)
        with ThreadPoolExecutor(self._threads) as pool:
            for done, _ in enumerate(pool.map(self.read, rows.tolist()), start=1):
                if on_film is not None:
                    on_film(done)

    def batch(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return films (M, 1, S, S) float32 in [0, 1]."""
        if len(self._cache) and self._held[rows].all():
            planes = self._cache[rows]
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                planes = np.stack(list(pool.map(self.read, rows.tolist())))
        return torch.from_numpy(planes)[:, None].float() / 255


class Normalizer:
    """Turns planes (M, 1, S, S) in [0, 1] into a network's input (M, C, S, S), as `Preprocessing` does."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._mean, self._std = (
            torch.tensor(values, device=device)[None, :, None, None]
            for values in (preprocessing.mean, preprocessing.std)
        )

    def __call__(self, planes: Tensor) -> Tensor:
        """Return the planes, a copy for each channel, normalised, channels last in memory."""
        return ((planes - self._mean) / self._std).contiguous(memory_format=torch.channels_last)


@dataclasses.dataclass(frozen=True)
class TrainingStudies:
    """What a run learns from: studies that point into films, their targets and their patients, as plain arrays."""

    frontal_rows: npt.NDArray[np.int64]
    """(N,) rows of the film store; -1 where the view is missing."""
    lateral_rows: npt.NDArray[np.int64]
    targets: npt.NDArray[np.float32]
    """(N, C) in [0, 1]; NaN is not used."""
    target_names: tuple[str, ...]
    patients: npt.NDArray[np.int64]
    """(N,) a number a patient."""
    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    exclusive: bool = False
    """Whether the targets are classes of which a study has one."""
    positions: npt.NDArray[np.int64] | None = None
    """(films,) code of each film's view position, as `position_code` gives it; None knows none."""

    def __post_init__(self) -> None:
        shared = np.intersect1d(self.patients[self.train], self.patients[self.valid])
        if len(shared):
            raise EncoderError(f"expected no patient in both train and valid, got {len(shared)}; split by patient")
        known = ~np.isnan(self.targets)
        for name, rows in (("train", self.train), ("valid", self.valid)):
            if not known[rows].any():
                raise EncoderError(f"expected known labels in {name}, got none; check the recipe's [targets]")
        positives = np.nansum(self.targets[self.train], axis=0)
        if not positives.any():
            raise EncoderError(
                "expected a positive label among the training studies, got none; there is nothing to learn"
            )

    def views(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the film rows (B,) of both views; the present view stands in for a missing one."""
        frontal, lateral = self.frontal_rows[rows], self.lateral_rows[rows]
        return np.where(frontal < 0, lateral, frontal), np.where(lateral < 0, frontal, lateral)
