"""A heat map over its film as a secondary capture, with what it is and what it is not for burned in."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from encoder.films.plane import Image
from encoder.maps.cam import Heat
from encoder.maps.overlay import overlay
from scripts.pacs.results import NOTICE, VERSION, SourceFilm, completed, equipment, plain_text, uid_of, uids_of

SERIES = 9602
SIDES = (512, 1024)
"""Pixels that the longer side of a picture has at least and at most."""
_WORKSTATION = "WSD"
_PROCESSED = CodedConcept("121322", "DCM", "Source of Image Processing Operation")
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class HeatMap:
    """The map of a finding on one film, and what is written below it."""

    image: Image
    """The film, (H, W) in [0, 1]."""
    heat: Heat
    """(H, W) in [0, 1]."""
    finding: str
    probability: float
    method: str
    fingerprint: str


def secondary_capture(films: Sequence[SourceFilm], number: int, heat: HeatMap) -> Dataset:
    """Return the map of a study's film as a picture of its own.

    Args:
        films: the study's. number: which of them.
    """
    film = films[number]
    inputs = (uids_of(films), film.uid, heat.fingerprint, heat.finding, heat.method, f"{heat.probability:.3f}", VERSION)
    result = SCImage.from_ref_dataset(
        film.reference,
        pixel_array=picture_of(heat),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        series_instance_uid=uid_of("sc series", film.study_uid, heat.fingerprint),
        series_number=SERIES,
        sop_instance_uid=uid_of("sc", *inputs),
        instance_number=number + 1,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **equipment(heat.fingerprint, "Heat map"),
    )
    result.PatientOrientation = film.reference.get("PatientOrientation", "")  # empty where it is not known
    result.BodyPartExamined = "CHEST"  # and no Laterality, which only the half of a pair has
    result.ConversionType = _WORKSTATION
    result.DerivationDescription = f"What speaks for {heat.finding} ({heat.method}). {NOTICE}"[:1024]
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = film.reference.SOPClassUID, film.uid
    source.PurposeOfReferenceCodeSequence = [_PROCESSED]
    result.SourceImageSequence = [source]
    for name in ("BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio"):
        if name in film.reference:
            result[name] = film.reference[name]
    return completed(result, film)


def picture_of(heat: HeatMap) -> Picture:
    """Return the film (H, W, 3) RGB with the map over it, a line above and two below that are no part of it."""
    least, most = SIDES
    laid = overlay(heat.image, heat.heat)
    scale = min(max(1.0, least / max(laid.shape[:2])), most / max(laid.shape[:2]))
    wide, high = max(1, round(laid.shape[1] * scale)), max(1, round(laid.shape[0] * scale))
    film = cv2.resize(laid, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    above = _line(NOTICE.upper(), wide, "black", "#ffd54a")
    below = [
        _line(f"{plain_text(heat.finding)} {heat.probability:.2f} ({heat.method})", wide, "white", "black"),
        _line(f"Precedent {VERSION}, encoder {heat.fingerprint[:12]}", wide, "white", "black"),
    ]
    return np.concatenate([above, film, *below])


def _line(text: str, wide: int, ink: str, ground: str) -> Picture:
    """Return a line of text (h, W, 3) that is as wide as the picture, its letters as large as fit."""
    size = max(wide // 26, 9)
    font = ImageFont.load_default(size)
    while size > 6 and font.getlength(text) > wide - size:
        size -= 1
        font = ImageFont.load_default(size)
    line = Pillow.new("RGB", (wide, max(wide // 18, 12)), ground)
    ImageDraw.Draw(line).text((wide / 2, line.height / 2), text, ink, font, anchor="mm")
    return np.asarray(line)
