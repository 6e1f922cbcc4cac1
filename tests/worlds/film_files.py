"""Files of films for the tests of reading: made in memory, whole or mutated."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image as Pillow
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from encoder.errors import ImageError
from encoder.films.image import read_image

Pixels = npt.NDArray[Any]

RAMP: Pixels = np.tile(np.arange(64, dtype=np.uint16) * 60, (48, 1))  # (48, 64), 0..3780
ROUNDED = 0.51 / 65535
"""How far the brightness of a film of 16 bits may lie from what its file states."""


def picture(pixels: Pixels | Pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    film = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(pixels)
    film.save(file, kind, **options)
    return file.getvalue()


def dicom(pixels: Pixels = RAMP, **elements: Any) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    film = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    film.Modality, film.SamplesPerPixel, film.PhotometricInterpretation = "DX", 1, "MONOCHROME2"
    film.Rows, film.Columns = pixels.shape
    film.BitsAllocated = film.BitsStored = pixels.itemsize * 8
    film.HighBit, film.PixelRepresentation = film.BitsStored - 1, int(pixels.dtype.kind == "i")
    film.add_new("PixelData", "OW", pixels.tobytes())
    for keyword, value in elements.items():
        setattr(film, keyword, value) if value is not None else delattr(film, keyword)
    file = io.BytesIO()
    film.save_as(file, enforce_file_format=True)
    return file.getvalue()


def called_chest(film: Path) -> bytes:
    """Return a DICOM film whose header says chest, whatever it shows."""
    header = pydicom.dcmread(film)
    header.BodyPartExamined = "CHEST"
    file = io.BytesIO()
    header.save_as(file)
    return file.getvalue()


def mutated(data: bytes, source: random.Random) -> bytes:
    film = bytearray(data)
    for _ in range(source.choice([1, 2, 8])):
        place = source.randrange(source.choice([min(len(film), 700), len(film)]))
        if source.random() < 0.7:
            film[place] = source.choice([0, 255, source.randrange(256)])
        else:
            del film[place : place + source.randrange(1, 40)]
    return bytes(film)


def is_film_or_refused(data: bytes) -> bool:
    try:
        film = read_image(data)
    except ImageError:
        return True
    return film.ndim == 2 and film.dtype == np.float32 and 0 <= film.min() < film.max() <= 1


def mean_over_areas(image: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the mean over the area of each new pixel, as preprocessing of version 1 took it."""

    def weights(source: int, target: int) -> npt.NDArray[np.float64]:
        edges = np.arange(target + 1) * source / target
        below = np.arange(source)
        covered = np.minimum(below + 1, edges[1:, None]) - np.maximum(below, edges[:-1, None])
        return np.maximum(covered, 0) * target / source

    rows, columns = weights(image.shape[0], shape[0]), weights(image.shape[1], shape[1])
    return np.asarray(rows @ image @ columns.T)
