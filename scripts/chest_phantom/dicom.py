"""A simulated film as a DICOM file with the whole header of a Digital X-Ray Image (PS3.3, A.26), as a device sends it.

Nothing in it is drawn or dated: the same seed, study and view give the same bytes.
"""

import io
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

_FIRST_DAY = date(2024, 1, 1)
_BETWEEN = 90  # days from one study of a patient to the next
_VIEWS = {
    "AP": ("L\\F", codes.cid4010.AnteroPosterior),
    "PA": ("L\\F", codes.cid4010.PosteroAnterior),
    "LL": ("P\\F", codes.cid4010.LeftLateral),
}
"""By ViewPosition: where rows and columns lead, and the view's code."""


@dataclass(frozen=True)
class Header:
    """What the header of one film says that is not the same for all."""

    seed: int
    study_id: str
    """As `patient00001/study1`."""
    number: int
    """Of the film in its study, from 1."""
    position: str
    """AP, PA or LL."""
    sex: str
    age: int
    """Years."""
    spacing: float
    """Millimetres of the detector a pixel."""


def encode_dicom(film: npt.NDArray[np.uint8], header: Header) -> bytes:
    """Return the film, (H, W) uint8, as a DICOM file in Explicit VR Little Endian."""
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    _say_whose(result, header)
    _say_how(result, header)
    result.Rows, result.Columns = film.shape
    result.SamplesPerPixel, result.PhotometricInterpretation, result.PresentationLUTShape = 1, "MONOCHROME2", "IDENTITY"
    result.BitsAllocated, result.BitsStored, result.HighBit, result.PixelRepresentation = 8, 8, 7, 0
    result.PixelIntensityRelationship, result.PixelIntensityRelationshipSign = "LOG", -1  # bone is bright
    result.RescaleIntercept, result.RescaleSlope, result.RescaleType = 0, 1, "US"
    result.WindowCenter, result.WindowWidth = 128, 256
    result.BurnedInAnnotation, result.LossyImageCompression = "NO", "00"
    result.add_new("PixelData", "OB", film.tobytes() + bytes(film.size % 2))
    file = io.BytesIO()
    result.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _say_whose(result: Dataset, header: Header) -> None:
    patient, _, study = header.study_id.partition("/study")
    number = int(patient.removeprefix("patient"))
    taken = _FIRST_DAY + timedelta(days=number % 365 + _BETWEEN * int(study))
    result.SpecificCharacterSet = "ISO_IR 192"
    result.PatientID, result.PatientName = patient, f"Phantom^{number:05d}"
    result.PatientBirthDate, result.PatientAge = f"{taken.year - header.age}0101", f"{header.age:03d}Y"
    result.PatientSex = header.sex[0]
    result.StudyDate = result.SeriesDate = result.AcquisitionDate = result.ContentDate = f"{taken:%Y%m%d}"
    result.StudyTime = result.SeriesTime = result.AcquisitionTime = result.ContentTime = f"0800{header.number:02d}"
    result.AccessionNumber, result.StudyID, result.StudyDescription = f"{number:05d}{study}", study, "Chest, simulated"
    result.ReferringPhysicianName = ""
    result.StudyInstanceUID = _uid(header.seed, header.study_id)
    result.SeriesInstanceUID = _uid(header.seed, header.study_id, "series", header.number)
    result.SOPInstanceUID = _uid(header.seed, header.study_id, "film", header.number)
    result.SOPClassUID = DigitalXRayImageStorageForPresentation
    result.SeriesNumber = result.AcquisitionNumber = header.number
    result.InstanceNumber = 1


def _say_how(result: Dataset, header: Header) -> None:
    rows, view = _VIEWS[header.position]
    result.Modality, result.PresentationIntentType = "DX", "FOR PRESENTATION"
    result.Manufacturer, result.ManufacturerModelName = "Simulated", "Chest phantom"  # no results of ours: films
    result.ImageType = ["ORIGINAL", "PRIMARY"]
    result.BodyPartExamined, result.ViewPosition, result.PatientOrientation = "CHEST", header.position, rows
    result.ImageLaterality, result.PositionerType = "U", "NONE"
    result.AnatomicRegionSequence = [_item(codes.cid4009.Chest)]
    result.ViewCodeSequence = [_item(view)]
    result.ViewCodeSequence[0].ViewModifierCodeSequence = []
    result.AcquisitionContextSequence = []
    result.ImagerPixelSpacing = [round(header.spacing, 4)] * 2
    result.DetectorType, result.DetectorID, result.DetectorConfiguration = "DIRECT", "", "AREA"


def _item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _uid(*inputs: object) -> str:
    return str(generate_uid(entropy_srcs=["chest phantom", *map(str, inputs)]))
