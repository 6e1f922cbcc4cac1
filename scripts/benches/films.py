"""Films to measure with: noise of a film's coarseness and grain, written as the files that a collection has."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from index.table.studies import studies_schema

Pixels = npt.NDArray[Any]
_SEED = 0
_DISTINCT = 8
"""Films drawn of a kind; further names lead to the same files, as drawing takes longer than what is measured."""
_JPEG_QUALITY = 90


class Kind(NamedTuple):
    """One kind of file: what a table calls it, the size of its film (H, W), its greatest value, how it is written."""

    title: str
    suffix: str
    shape: tuple[int, int]
    highest: int
    encode: Callable[[Pixels], bytes]


def draw(shape: tuple[int, int], highest: int, rng: np.random.Generator) -> Pixels:
    """Return a picture (H, W) of soft patches under grain, 0 to `highest`, that a JPEG packs as it packs a film."""
    height, width = shape
    coarse = rng.normal(size=(24, 20)).astype(np.float32)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    grain = rng.normal(0.0, 0.008, shape).astype(np.float32)
    return np.rint(np.clip(soft * 0.9 + 0.05 + grain, 0, 1) * highest).astype(np.uint8 if highest < 256 else np.uint16)


def as_jpeg(pixels: Pixels) -> bytes:
    """Return the picture as a grey JPEG."""
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])


def as_dicom(pixels: Pixels) -> bytes:
    """Return the picture as an uncompressed DICOM of 12 bits."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, UID("1.2.3")
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    film = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    film.Modality, film.BodyPartExamined, film.PhotometricInterpretation = "DX", "CHEST", "MONOCHROME2"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.add_new("PixelData", "OW", pixels.tobytes())
    file = io.BytesIO()
    film.save_as(file, enforce_file_format=True)
    return file.getvalue()


KINDS = {
    "small": Kind("JPEG 320 x 390", ".jpg", (390, 320), 255, as_jpeg),
    "full": Kind("JPEG 2320 x 2828", ".jpg", (2828, 2320), 255, as_jpeg),
    "dicom": Kind("DICOM 2320 x 2828, 12 bits", ".dcm", (2828, 2320), 4095, as_dicom),
}
"""CheXpert-small's JPEG, CheXpert's own, and a detector's DICOM."""

kinds_option = click.option(
    "--kind",
    "kinds",
    type=click.Choice(list(KINDS)),
    multiple=True,
    default=list(KINDS),
    show_default=True,
    help="Kind of the films. Repeatable.",
)
films_option = click.option(
    "--films",
    type=click.IntRange(4),
    default=256,
    show_default=True,
    help="Number of films.",
)


def write_collection(folder: Path, kind: str, studies: int) -> pa.Table:
    """Write films of a kind, a frontal and a lateral a study, and return their table of studies."""
    made, rng = KINDS[kind], np.random.default_rng(_SEED)
    files: list[Path] = []
    rows = []
    for number in range(studies):
        names = [f"study{number}_{view}{made.suffix}" for view in ("frontal", "lateral")]
        for file in (folder / name for name in names):
            if len(files) < _DISTINCT:
                file.write_bytes(made.encode(draw(made.shape, made.highest, rng)))
            else:
                file.hardlink_to(files[-_DISTINCT])
            files.append(file)
        study = f"patient{number:05d}/study1"
        rows.append({"study_id": study, "patient_id": study[:12], "frontal_path": names[0], "lateral_path": names[1]})
    return pa.Table.from_pylist(rows, studies_schema([]))
