"""DICOM films that name their patient wherever a file can, and a search for that name in whatever comes of them.

The name is a marker that nothing else holds, so that one hit anywhere is a leak.
"""

import base64
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pydicom
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from pydicom.datadict import DicomDictionary, dictionary_VR
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEGBaseline8Bit

MARKER = "zqx7canary"
_TEXT = ("AE", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
_TELLING = {
    "Modality": "DX",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
    "PatientSex": "F",
    "PatientAge": "093Y",
    "PhotometricInterpretation": "MONOCHROME2",
    "SpecificCharacterSet": "ISO_IR 192",
    "BurnedInAnnotation": "NO",
}
"""What a film must say truly to be read at all: none of it names anybody."""
_LEFT_BLANK = ("VOILUTFunction", "PatientOrientation", "PixelPresentation")


def film_pixels(seed: int) -> np.ndarray:
    """Return (96, 80) uint8: smooth noise over the whole range."""
    noise = np.random.default_rng(seed).integers(0, 255, (96, 80), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3 + seed % 3), None, 0, 255, cv2.NORM_MINMAX)


def every_name() -> Dataset:
    """Return a dataset whose every text element of the standard is the marker, of sequences and private ones too."""
    named = Dataset()
    for tag, (vr, _, _, _, _) in DicomDictionary.items():
        if vr in _TEXT and 0x0008 <= tag >> 16 < 0x7FE0:
            named.add_new(tag, vr, MARKER)
    for keyword in _LEFT_BLANK:
        delattr(named, keyword)
    inner = Dataset()
    inner.PatientName = inner.PatientID = inner.AccessionNumber = inner.InstitutionName = MARKER
    for sequence in ("OtherPatientIDsSequence", "RequestAttributesSequence", "ReferencedStudySequence"):
        setattr(named, sequence, [inner])
    private = named.private_block(0x0009, MARKER, create=True)
    private.add_new(1, "LO", MARKER)
    private.add_new(2, "UN", MARKER.encode())
    named.add_new(0x60003000, "OW", (MARKER + MARKER).encode())
    named.add_new(0xFFFCFFFC, "OB", (MARKER * 2).encode())
    for keyword, value in _TELLING.items():
        setattr(named, keyword, value)
    return named


def named_film(names: Dataset, number: int, *, jpeg: bool = False, **elements: Any) -> bytes:
    """Return a film of patient number // 2 under all the names; as a JPEG with a comment where asked."""
    film = FileDataset("", {}, file_meta=_meta(jpeg), preamble=(MARKER * 13)[:128].encode())
    film.update(names)
    pixels = film_pixels(number)
    told = {
        "PatientID": f"{MARKER}{number // 2}",
        "StudyInstanceUID": f"{MARKER}.{number}",
        "SOPInstanceUID": f"{MARKER}.{number}.1",
        "InstanceNumber": number,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PixelRepresentation": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelData": encapsulate([commented_jpeg(pixels)]) if jpeg else pixels.tobytes(),
    }
    for keyword, value in (told | elements).items():
        # A new element each, for the others are those of `names`.
        film.add_new(keyword, "OB" if keyword == "PixelData" else dictionary_VR(keyword), value)
    file = io.BytesIO()
    film.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _meta(jpeg: bool) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = meta.ImplementationClassUID = MARKER
    meta.ImplementationVersionName = meta.SourceApplicationEntityTitle = MARKER
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = MARKER, MARKER.encode()
    return meta


def renamed(film: Path, names: Dataset) -> bytes:
    """Return a real film under all the names."""
    header = pydicom.dcmread(film)
    for element in names:
        if element.VR in _TEXT and element.keyword not in (*_TELLING, "PresentationLUTShape"):
            header[element.tag] = element
    header.BodyPartExamined, header.ViewPosition, header.Modality = "CHEST", "PA", "DX"
    file = io.BytesIO()
    header.save_as(file)
    return file.getvalue()


def commented_jpeg(pixels: np.ndarray) -> bytes:
    """Return a JPEG that has the marker in a comment, in EXIF, after its end, and in parts that a decoder needs.

    Those are a thumbnail (JFXX), what follows Adobe's transform, and tables that nothing uses.
    """
    picture = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x010E] = MARKER
    Pillow.fromarray(pixels).save(picture, "JPEG", quality=95, exif=exif, comment=MARKER)
    name = MARKER.encode()
    hidden = {
        0xE0: b"JFXX\0\x13" + name,
        0xEE: b"Adobe\0\x64\0\0\0\0\0" + name,
        0xDB: b"\3" + (name * 7)[:64],
        0xC4: b"\x13" + bytes([0, 0, 0, 0, 0, 0, 0, len(name), *bytes(8)]) + name,
    }
    parts = b"".join(b"\xff" + bytes([marker, 0, len(told) + 2]) + told for marker, told in hidden.items())
    whole = picture.getvalue()
    return whole[:2] + whole[2:20] + parts + whole[20:] + name


def hidden_png(pixels: np.ndarray) -> bytes:
    """Return a PNG of a palette that has the marker in colours that nothing uses, in a text and after its end."""
    colours = Pillow.fromarray(pixels // 2).convert("P")
    grey = [level for value in range(128) for level in [2 * value] * 3]
    colours.putpalette(grey + list((MARKER.encode() * 39)[:384]))
    text = PngInfo()
    text.add_text("Patient", MARKER, zip=True)
    picture = io.BytesIO()
    colours.save(picture, "PNG", pnginfo=text)
    return picture.getvalue() + MARKER.encode()


def write_archive(folder: Path, names: Dataset, studies: int) -> None:
    """Write so many studies under names of their own, and a file for each reason that leaves one out."""
    shown = {f"{number}.dcm": named_film(names, number, jpeg=number == 3) for number in range(studies)}
    left_out = {
        "burned": named_film(names, 90, BurnedInAnnotation="YES"),
        "ct": named_film(names, 91, Modality="CT"),
        "hand": named_film(names, 92, BodyPartExamined="HAND"),
        "nobody": named_film(names, 93, PatientID=""),
        "again": shown["0.dcm"],
        "no-picture": named_film(names, 94, PixelData=b"\0" * 10),
        "many-pictures": named_film(names, 95, NumberOfFrames=2),
        "colour": named_film(names, 96, PhotometricInterpretation=MARKER.upper()),
        "ageless": named_film(names, 97, PatientAge="99Z"),
        "viewless": named_film(names, 98, ViewPosition=MARKER.upper(), PatientAge=None),
        "torn": shown["1.dcm"][:900],
        "text": MARKER.encode(),
    }
    for name, content in (shown | left_out).items():
        path = folder / f"{MARKER}^JANE" / f"{MARKER}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def leaks(files: Iterable[Path], words: Iterable[str]) -> list[str]:
    """Return each file, of those below the folders too, that holds one of the words in its bytes, or in its name."""
    found = []
    for top in files:
        for path in [top, *top.rglob("*")] if top.is_dir() else [top]:
            told = path.relative_to(top.parent).as_posix().encode() + (_told(path) if path.is_file() else b"")
            found += [f"{path}: {word}" for word in words if holds(told, word)]
    return found


def holds(told: bytes, word: str) -> bool:
    """Return whether bytes hold a word: plainly, as UTF-16, in hex, or below the base64 of a JSON answer."""
    spelled = [word.encode(), word.encode("utf-16-le"), word.encode().hex().encode()]
    inside = [base64.b64decode(text[: len(text) & ~3]) for text in re.findall(rb"[A-Za-z0-9+/]{64,}", told)]
    return any(form.lower() in one.lower() for form in spelled for one in (told, *inside, *map(_unpacked, inside)))


def _told(path: Path) -> bytes:
    """A file's bytes, and what a compressed one holds."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        unlisted = table.drop_columns([name for name in ("embedding", "layouts") if name in table.column_names])
        return content + str(unlisted.to_pylist()).encode() + str(table.schema).encode()
    return content + _unpacked(content)


def _unpacked(content: bytes) -> bytes:
    """What a picture says beside its pixels."""
    if not content.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return b""
    with Pillow.open(io.BytesIO(content)) as picture:
        picture.load()
        return json.dumps({str(name): str(value) for name, value in picture.info.items()}).encode()
