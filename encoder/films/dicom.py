"""Reading one DICOM radiograph: header checks first, then modality, window and polarity make bone bright.

No name leaves it: what a header says of the patient is never read, and no value of free text is quoted.
"""

from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.uid import UID_dictionary

from encoder.errors import ImageError
from encoder.films.body_part import DESCRIPTIONS, is_elsewhere, part_elsewhere, stated_part
from encoder.films.dicom_display import (
    Ends,
    Stored,
    display_table,
    ends_of,
    palette,
    transform_notes,
    viewed_film,
)
from encoder.films.dicom_elements import (
    DEFLATED,
    EXPLICIT_BIG,
    MAX_HEADER_BYTES,
    NATIVE,
    PALETTE,
    DicomFile,
    Elements,
    joined_fragments,
    parse_dicom,
)
from encoder.films.dicom_frame import decode_frame, is_known_frame, is_lossy
from encoder.films.grey import as_grey
from encoder.films.plane import as_deep_plane, mapped, mapped_half, resized
from encoder.films.viewing import ViewedFilm

_KEYWORDS = (
    "Modality",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "CodeMeaning",
    *DESCRIPTIONS,
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "LUTDescriptor",
    "LUTData",
    "LUTExplanation",
    "WindowCenter",
    "WindowWidth",
    "WindowCenterWidthExplanation",
    "VOILUTFunction",
    "PresentationLUTShape",
    *PALETTE,
)
_SECTIONS = ("CT", "MR", "PT", "NM", "US", "IVUS", "OCT", "OPT", "OP", "ES", "GM", "SM", "XC")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_NAMED = (*_GREY, *_COLOUR, _PALETTE, "XYB", "ARGB", "HSV", "CMYK")
"""Names that a refusal may quote: any other may be a patient's."""
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
_SQUARE = 0.02  # how far from 1 a pixel's height over its width may be: spacings are rounded
_MAX_STRETCH = 8.0
_REGIONS = 8  # of a film's anatomy that are looked at; a film has one or two
_USUAL_HEADER = 1 << 18  # bytes
_RLE = "1.2.840.10008.1.2.5"
CheckSize = Callable[[int, int], None]


def read_dicom(
    data: bytes,
    check_size: CheckSize,
    notes: list[str] | None = None,
    ignored_parts: Container[str] = (),
    least_side: int | None = None,
) -> npt.NDArray[np.uint16]:
    """Return the film as (H, W) uint16, black 0 and white 65535, bone bright, of square pixels.

    In this order: modality table or rescale, first VOI table or window, stretch from the least to the
    greatest value that is not padding, inversion of MONOCHROME1 (PS3.3, C.7.6.3.1.2, C.11.1 and C.11.2), and
    another size where pixels are higher than wide or wider than high. Padding is black. Without a window half a
    percent of the pixels, at either end, is clipped where it alone would widen the range by more than a quarter.

    Args:
        data: a whole DICOM file, or its data set alone.
        check_size: called with width and height before the pixels are decoded, and with those that are to be given;
            raises to refuse them.
        notes: is given a sentence for each thing that is read otherwise than it is written.
        ignored_parts: parts of the body, in capitals, that count as not stated.
        least_side: give a film of square pixels at half its size where its short side then is no less than this; None
            gives it whole.

    Raises:
        ImageError: the file is damaged, is no single grey radiograph, is said to show another part of the body than
            the chest, or uses an encoding nobody here reads.
    """
    notes = [] if notes is None else notes
    film = _parsed(data)
    shape = _check_header(film, check_size, notes, ignored_parts)
    try:
        header, stored, ends = _values(film, notes)
        table = as_deep_plane(display_table(header, stored, ends, notes))
        if shape == stored.shape and least_side and min(shape) // 2 >= least_side:
            return mapped_half(stored, table)
        return np.asarray(resized(mapped(stored, table), shape), np.uint16)
    except MemoryError:
        raise ImageError("expected a film that fits the memory, got a larger one; reduce it first") from None


def view_dicom(data: bytes, check_size: CheckSize, ignored_parts: Container[str] = ()) -> ViewedFilm:
    """Return the film that `read_dicom` reads as a viewer has it: its values as they are stored, and its presets.

    Raises:
        ImageError: as `read_dicom` does, but not for a window that shows one value everywhere.
    """
    film = _parsed(data)
    _check_header(film, check_size, [], ignored_parts)
    try:
        header, stored, _ = _values(film, [])
        viewed = viewed_film(header, stored, [])
    except MemoryError:
        raise ImageError("expected a film that fits the memory, got a larger one; reduce it first") from None
    return replace(viewed, aspect=_pixel_ratio(film.header)[0])


def _values(film: DicomFile, notes: list[str]) -> tuple[Elements, Stored, Ends]:
    """Return the header of how a film is shown, its grey values (H, W), and their ends."""
    header = film.header
    polarity = header.text("PhotometricInterpretation").upper()
    if polarity in _GREY:
        return header, *_stored_values(film, notes)
    colours = _colours(film, notes) if polarity in _COLOUR else palette(header)[_stored_values(film, notes)[0]]
    stored = _grey(colours)
    return Elements({}), stored, ends_of(stored)  # the values are those of a screen already


def film_notes(source: Path | bytes, ignored_parts: Container[str] = ()) -> list[str]:
    """Return what `read_dicom` will read otherwise than it is written, as far as the header tells.

    Nothing of a film that cannot be read, or is none.

    Args:
        source: the file, or what is in it. ignored_parts: as `read_dicom` has them.
    """
    try:
        film = _parsed_start(source)
        return [] if film is None else dicom_notes(film, ignored_parts)
    except (ImageError, OSError):
        return []


def reading_notices(films: Mapping[str, Path | bytes], ignored_parts: Container[str] = ()) -> list[str]:
    """Return what `film_notes` says of the films of a study, by view, each in a sentence."""
    return [
        f"The {view} film is read otherwise than it is written: {note}."
        for view, film in films.items()
        for note in film_notes(film, ignored_parts)
    ]


def _parsed_start(source: Path | bytes) -> DicomFile | None:
    """Return the header of a film, of which no more is read than that needs; None where it has no pixels."""
    for most in (_USUAL_HEADER, MAX_HEADER_BYTES):
        with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file, suppress(ImageError):
            film = _parsed(file.read(most))
            if film.pixels is not None:
                return film
    return None


def dicom_notes(film: DicomFile, ignored_parts: Container[str] = ()) -> list[str]:
    """Return the same of a header. Raises ImageError."""
    notes: list[str] = []
    _check_header(film, lambda width, height: None, notes, ignored_parts)
    transform_notes(film.header, notes)
    return notes


def _parsed(data: bytes) -> DicomFile:
    film = parse_dicom(data, _KEYWORDS)
    syntax = film.syntax
    if syntax not in (*NATIVE, DEFLATED, _RLE) and not is_known_frame(syntax):
        named = repr(UID_dictionary[syntax][0]) if syntax in UID_dictionary else "one that no standard names"
        raise ImageError(
            f"expected pixel data in a known encoding, got {named}; save the film as Explicit VR Little Endian"
        )
    return film


def _check_header(
    film: DicomFile, check_size: CheckSize, notes: list[str], ignored_parts: Container[str] = ()
) -> tuple[int, int]:
    """Return the height and width that the film has once its pixels are square."""
    header = film.header
    if film.pixels is None or film.pixels.length == 0:
        raise ImageError("expected PixelData, got a DICOM file without a picture, or one that is truncated before it")
    _check_kind(header, notes, ignored_parts)
    colour = header.text("PhotometricInterpretation").upper() in _COLOUR
    _expect(header, "SamplesPerPixel", (3,) if colour else (1,), default=3 if colour else 1)
    if header.integer("NumberOfFrames") == 0:
        notes.append("NumberOfFrames is 0; the one frame that is there is read")
    else:
        _expect(header, "NumberOfFrames", (1,), default=1)
    rows, columns = _expect(header, "Rows", range(1, 65536)), _expect(header, "Columns", range(1, 65536))
    allocated = _expect(header, "BitsAllocated", (8, 16))
    stored = _expect(header, "BitsStored", range(2, allocated + 1), default=allocated)
    _expect(header, "HighBit", range(stored - 1, allocated), default=stored - 1)
    _expect(header, "PixelRepresentation", (0, 1), default=0)
    check_size(columns, rows)
    shape = _square(header, rows, columns, notes)
    if shape != (rows, columns):
        check_size(*shape[::-1])
    return shape


def _check_kind(header: Elements, notes: list[str], ignored_parts: Container[str]) -> None:
    """Refuse what is no radiograph of a chest, by the words of its header."""
    polarity = header.text("PhotometricInterpretation").upper()
    if polarity not in (*_GREY, *_COLOUR, _PALETTE):
        stated = repr(polarity) if polarity in ("", *_NAMED) else "of another name"
        raise ImageError(
            f"PhotometricInterpretation {stated} is not a radiograph; expected MONOCHROME1 or MONOCHROME2; "
            "export the film as grey"
        )
    shape = header.text("PresentationLUTShape").upper()
    if (polarity, shape) in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):
        notes.append(f"PresentationLUTShape {shape} contradicts PhotometricInterpretation {polarity}, which counts")
    modality = header.text("Modality").upper()
    if modality in _SECTIONS:
        raise ImageError(f"Modality {modality!r} is not a radiograph; expected CR, DX or a similar projection")
    regions = [item.text("CodeMeaning") for item in header.items("AnatomicRegionSequence")[:_REGIONS]]
    stated = stated_part(header.text("BodyPartExamined"), regions)
    part = part_elsewhere(stated)
    if is_elsewhere(stated, [header.text(keyword) for keyword in DESCRIPTIONS], ignored_parts):
        raise ImageError(f"body part {part!r} is not the chest; expected a chest film; correct a header that is wrong")
    if part and stated.upper() not in ignored_parts:
        notes.append(f"the header names the body part {part}, but its descriptions name a chest; it is read as one")


def _expect(header: Elements, keyword: str, allowed: tuple[int, ...] | range, default: int | None = None) -> int:
    """Return a whole number of the header; the default where it is missing or empty."""
    value = header.integer(keyword)
    if value is None and keyword not in header:
        value = default
    if value is None or value not in allowed:
        wanted = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
        got = "no whole number" if value is None else value
        raise ImageError(f"expected {keyword} {wanted}, got {got}; export the film again, as one grey picture")
    return value


def _square(header: Elements, rows: int, columns: int, notes: list[str]) -> tuple[int, int]:
    """Return the height and width of a film whose pixels are made square, the finer side kept (C.7.6.3.1.7)."""
    ratio, keyword = _pixel_ratio(header)
    if ratio == 1:
        return rows, columns
    if not 1 / _MAX_STRETCH <= ratio <= _MAX_STRETCH:
        raise ImageError(f"expected pixels about as high as wide, got {ratio:g} to 1 in {keyword}; correct it")
    notes.append(f"pixels are not square ({keyword}); the film is made of square ones")
    return (round(rows * ratio), columns) if ratio > 1 else (rows, round(columns / ratio))


def _pixel_ratio(header: Elements) -> tuple[float, str]:
    """Return a pixel's height over its width, 1 where they are about alike, and the keyword that says so."""
    for keyword in _SPACINGS:
        down, across = [*header.numbers(keyword), None, None][:2]
        if down is not None and across is not None and min(down, across) > 0:
            ratio = down / across
            return (1.0 if abs(ratio - 1) <= _SQUARE else ratio), keyword
    return 1.0, ""


def _stored_values(film: DicomFile, notes: list[str]) -> tuple[Stored, Ends]:
    """Return (H, W) uint16, signed values as their two's complement of 16 bits, and the least and greatest value."""
    header = film.header
    pixels = _decoded(film, notes)
    bits = header.integer("BitsStored") or pixels.itemsize * 8
    above = (header.integer("HighBit") or bits - 1) - bits + 1  # bits below the value, in the manner of ACR-NEMA
    signed = header.integer("PixelRepresentation") == 1
    if is_lossy(film.syntax) and signed == (pixels.dtype.kind == "i"):  # what it makes of the ends may lie beyond them
        pixels = np.clip(pixels, -(1 << bits - 1) if signed else 0, (1 << bits - signed) - 1)
    values = pixels.astype(np.uint16, copy=False) if pixels.dtype.kind == "u" else pixels.astype(np.int16).view("u2")
    if above and film.syntax in (*NATIVE, _RLE):
        notes.append("HighBit lies above the bits that are stored; the values are shifted down to them")
        values = values >> np.uint16(above)
    spare = 16 - bits
    if signed:
        shown = (values.view(np.int16) << spare) >> spare
        return shown.view(np.uint16), ends_of(shown)
    ends = ends_of(values)
    if ends[1] >> bits:  # an overlay in the bits above
        values = values & np.uint16((1 << bits) - 1)
        ends = ends_of(values)
    return values, ends


def _colours(film: DicomFile, notes: list[str]) -> npt.NDArray[Any]:
    """Return (H, W, 3) in RGB of 8 or 16 bits, from whichever colour space."""
    pixels = _decoded(film, notes)
    space = film.header.text("PhotometricInterpretation").upper()
    if space == "YBR_FULL" and film.syntax in (*NATIVE, _RLE) and pixels.itemsize == 1:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB))
    return pixels


def _grey(colours: npt.NDArray[Any]) -> Stored:
    """Return a grey film that is stored in colour as (H, W) uint16. Raises ImageError where it is coloured."""
    if (colours[..., :1] == colours).all():
        return colours[..., 0].astype(np.uint16)
    return as_grey((colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)).astype(np.uint16)


def _decoded(film: DicomFile, notes: list[str]) -> npt.NDArray[Any]:
    """Return the pixels as the file holds them, (H, W) or (H, W, 3), of 8 or 16 bits."""
    header, pixels = film.header, film.pixels
    assert pixels is not None
    rows, columns = header.integer("Rows") or 0, header.integer("Columns") or 0
    shape = (rows, columns, 3) if header.integer("SamplesPerPixel") == 3 else (rows, columns)
    size = (header.integer("BitsAllocated") or 16) // 8
    if pixels.length is None:
        if film.syntax in NATIVE:
            raise ImageError(
                "expected pixels as the header states them, got compressed ones; correct TransferSyntaxUID"
            )
        return decode_frame(joined_fragments(film.data, pixels.start), film.syntax, shape, size)
    if film.syntax not in NATIVE:
        raise ImageError("expected compressed pixels as the header states, got plain ones; correct TransferSyntaxUID")
    return _native(film, shape, size, notes)


def _native(film: DicomFile, shape: tuple[int, ...], size: int, notes: list[str]) -> npt.NDArray[Any]:
    """Return pixels that are not compressed."""
    pixels, count = film.pixels, int(np.prod(shape))
    assert pixels is not None
    assert pixels.length is not None
    due, row = count * size, count * size // shape[0]
    if film.header.text("PhotometricInterpretation").upper() in ("YBR_FULL_422", "YBR_PARTIAL_420"):
        raise ImageError("expected pixels with all their samples, got colours that are subsampled; export it as grey")
    data = film.pixel_bytes(min(pixels.length, 2 * due))
    surplus = data[due:]
    # Of bytes that are not empty a row or more tells of a wrong size, and a frame or more of another frame.
    wrong = len(surplus) >= due or (len(surplus) >= row and np.frombuffer(surplus, np.uint8).any())
    if len(data) < min(pixels.length, 2 * due) or pixels.length < due or wrong:
        raise ImageError(
            f"expected {due} bytes of pixels for {shape[1]} x {shape[0]}, got {min(pixels.length, len(data))}; "
            "the file is truncated or its header is wrong"
        )
    if len(surplus) > 1:
        notes.append("bytes behind the pixels belong to none; they are left out")
    if film.syntax == EXPLICIT_BIG and (size == 2 or pixels.vr == "OW"):
        words = np.frombuffer(bytes(data[:due]) + bytes(due % 2), ">u2").astype("<u2")
    else:
        words = np.frombuffer(data, "<u2" if size == 2 else np.uint8, count)
    raw = words.view(f"<u{size}")[:count]
    if len(shape) == 3 and film.header.integer("PlanarConfiguration") == 1:
        return np.moveaxis(raw.reshape(3, *shape[:2]), 0, -1)
    return raw.reshape(shape)
