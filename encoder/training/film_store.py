"""The films of a training run, read once, kept as one 8-bit plane each, handed out a batch at a time."""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from encoder.errors import EncoderError
from encoder.files import open_regular, written_whole
from encoder.films.image import READING, read_plane
from encoder.films.plane import shallow
from encoder.films.preprocess import Preprocessing
from encoder.runtime.fixed_batches import moved

Planes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
_AHEAD = 2
"""Batches that each process of the loader prepares."""
_MOST_OF_DEVICE = 0.5
"""Share of a GPU's free memory that films may take; the rest is for what is computed of them."""


class FilmStore:
    """Films by number, preprocessed up to normalisation, 8 bits a pixel.

    They are read once: into memory where they fit, else into a file that is mapped into memory, made once and shared by
    all processes. 223,414 films of 320 pixels a side take 22.9 GB.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        *,
        cache_gb: float = 8.0,
        folder: Path | None = None,
        threads: int | None = None,
        ignored_parts: Collection[str] = (),
    ) -> None:
        """Take films; none is read yet.

        Args:
            cache_gb: films that take more go into a file.
            folder: where that file lies; None keeps films in memory, whatever they take.
            threads: that read films; None takes one a core.
            ignored_parts: as `encoder.films.image.read_plane` has them.
        """
        self._ignored_parts = ignored_parts
        self.paths = list(paths)
        # Normalisation comes after augmentation, and makes no other films of these.
        self._plane = dataclasses.replace(preprocessing, mean=(0.0,), std=(1.0,))
        self._shape = (len(self.paths), preprocessing.size, preprocessing.size)
        self._threads = threads or os.cpu_count() or 1
        in_file = folder is not None and self.nbytes > cache_gb * 1e9
        self.file = folder / f"films-{self._digest()[:16]}.npy" if folder is not None and in_file else None
        """Where the films lie that do not fit into memory; None where they do."""
        self._planes: Planes | None = None
        self._on_device: Tensor | None = None
        self._loader: DataLoader[Tensor] | None = None
        self._wanted: list[Rows] = []

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def nbytes(self) -> int:
        """What all films take, in bytes."""
        films, height, width = self._shape
        return films * height * width

    @property
    def planes(self) -> Planes:
        """All films, (N, S, S), read now if they have not been; of a file only what is looked at is in memory."""
        if self._planes is None:
            self.fill()
        assert self._planes is not None
        return self._planes

    def fill(self, on_film: Callable[[int], None] | None = None) -> None:
        """Read every film, so that a bad one is met before the first step; a file that was made before is taken.

        Raises:
            ImageError: naming the film that cannot be read. EncoderError: the disk has no room for the file.
        """
        if self._planes is not None:
            return
        if self.file is None:
            self._planes = self._read_into(np.empty(self._shape, np.uint8), on_film)
            return
        if not _is_whole(self.file, self._shape):
            self._make(self.file, on_film)
        self._planes = _mapped(self.file)

    def _make(self, file: Path, on_film: Callable[[int], None] | None) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(file.parent).free
        if free < self.nbytes:
            raise EncoderError(
                f"expected {self.nbytes / 1e9:,.1f} GB free at {str(file.parent)!r} for {len(self):,} prepared films, "
                f"found {free / 1e9:,.1f}; give --store on another disk, or a larger --cache-gb"
            )
        with written_whole(file) as partial:
            planes = np.lib.format.open_memmap(partial, "w+", np.uint8, self._shape)
            self._read_into(planes, on_film)
            planes.flush()

    def _read_into(self, planes: Planes, on_film: Callable[[int], None] | None) -> Planes:
        def read(row: int) -> None:
            path = self.paths[row]
            planes[row] = shallow(self._plane(read_plane(path, name=str(path), ignored_parts=self._ignored_parts)))

        with ThreadPoolExecutor(self._threads) as pool:
            for done, _ in enumerate(pool.map(read, range(len(self))), start=1):
                if on_film is not None:
                    on_film(done)
        return planes

    def _digest(self) -> str:
        """Return what tells these films, read and prepared like this, from others."""
        settings = [READING, self._plane.digest(), sorted(str(part) for part in self._ignored_parts)]
        of_files = hashlib.sha256(repr(settings).encode())
        for path in self.paths:
            status = (
                path.stat() if isinstance(path, Path) and path.exists() else None
            )  # an address is known by its name
            of_files.update(repr((str(path), status and (status.st_size, status.st_mtime_ns))).encode())
        return of_files.hexdigest()

    def place(self, device: torch.device) -> None:
        """Keep all films on a device from now on, where they fit."""
        fits = (
            self.nbytes <= _MOST_OF_DEVICE * torch.cuda.mem_get_info(device)[0]
            if device.type == "cuda"
            else self.file is None
        )
        if fits and self._on_device is None:
            self._on_device = torch.from_numpy(self.planes).to(device)

    def batches(self, wanted: Iterable[Rows], device: torch.device, workers: int = 0) -> Iterator[Tensor]:
        """Yield films (m, 1, S, S) uint8 on the device, for each array of film numbers; no batch is waited for twice.

        Args:
            workers: processes that read batches ahead, of films that lie in a file and not on the device.
        """
        if self._on_device is not None:
            for rows in wanted:
                yield self._on_device[moved(torch.from_numpy(rows), device)][:, None]
        elif self.file is not None and workers:
            self._wanted[:] = wanted
            self.fill()  # before another process looks for the file
            self._loader = self._loader or self._loader_of(self.file, device, workers)
            for films in self._loader:
                yield films.to(device, non_blocking=True)[:, None]
        else:
            for rows in wanted:
                yield moved(torch.from_numpy(self.planes[rows]), device)[:, None]

    def _loader_of(self, file: Path, device: torch.device, workers: int) -> "DataLoader[Tensor]":
        return DataLoader(
            _FilmsOfFile(file),
            batch_size=None,
            sampler=self._wanted,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            prefetch_factor=_AHEAD,
            persistent_workers=True,
            generator=torch.Generator(),  # or it would draw from the chance of dropout
            multiprocessing_context="forkserver",  # a fork of a process with threads and a GPU may hang
        )


class _FilmsOfFile(Dataset[Tensor]):
    """The films of a file for a process of its own, which maps it when it is first asked."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._planes: Planes | None = None

    def __getitem__(self, rows: Any) -> Tensor:
        if self._planes is None:
            self._planes = _mapped(self._file)
        return torch.from_numpy(self._planes[rows])


def _mapped(file: Path) -> Planes:
    return np.lib.format.open_memmap(file, "c")  # what would be written to it stays with this process


def _is_whole(file: Path, shape: tuple[int, ...]) -> bool:
    """Return whether a file holds films of that shape; one that is cut short, or none of ours, is made anew."""
    try:
        open_regular(file).close()
        planes = _mapped(file)
    except (EncoderError, OSError, ValueError):
        return False
    return planes.shape == shape and planes.dtype == np.uint8


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
