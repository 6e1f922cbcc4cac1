"""Films of every kind that is read, and endless damaged ones made of them, each by its number."""

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from film_files import dicom, picture
from PIL import Image as Pillow
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

Grey = npt.NDArray[np.uint8]
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def whole_films(grey: Grey) -> dict[str, bytes]:
    """Return the film (H, W) as a file of every kind that is read, by name."""
    shown = Pillow.fromarray(grey)
    veiled = shown.convert("RGBA")
    veiled.putalpha(200)
    return {
        "jpeg": picture(shown, "JPEG"),
        "jpeg rgb": picture(shown.convert("RGB"), "JPEG", subsampling=0),
        "jpeg restarts": picture(shown, "JPEG", restart_marker_rows=2, optimize=True),
        "jpeg progressive": picture(shown, "JPEG", progressive=True),
        "jpeg rgb progressive": picture(shown.convert("RGB"), "JPEG", progressive=True),
        "png": picture(shown),
        "png rgb": picture(shown.convert("RGB")),
        "png palette": picture(shown.convert("P"), transparency=3),
        "png alpha": picture(veiled),
        "png 16": picture(grey.astype(np.uint16) * 200),
        **dict(dicom_films(grey)),
    }


def dicom_films(grey: Grey) -> Iterator[tuple[str, bytes]]:
    """Yield the film (H, W) as DICOM in each encoding that is read, and deflated, which is not."""
    deep = grey.astype(np.uint16) * 16
    yield "dicom", dicom(deep, BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=3000)
    yield "dicom signed", dicom(deep.view(np.int16), RescaleSlope=2, RescaleIntercept=-10, PixelPaddingValue=0)
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        yield f"dicom {syntax.name}", _written(pydicom.dcmread(io.BytesIO(dicom(deep))), syntax)
    film = pydicom.dcmread(io.BytesIO(dicom(deep)))
    film.compress(RLELossless)
    yield "dicom rle", _written(film, RLELossless)
    for syntax, pixels, frame in compressed_frames(grey):
        yield f"dicom {syntax.name}", encapsulated(pixels, frame, syntax)


def compressed_frames(grey: Grey) -> Iterator[tuple[UID, npt.NDArray[Any], bytes]]:
    """Yield each encoding of one frame, the pixels that were encoded, and the codestream."""
    deep = grey.astype(np.uint16) * 16
    frames: list[tuple[UID, Callable[..., bytes], Any, dict[str, Any]]] = [
        (JPEG2000Lossless, imagecodecs.jpeg2k_encode, deep, {"codecformat": "j2k", "reversible": True, "level": 0}),
        (JPEG2000, imagecodecs.jpeg2k_encode, deep, {"codecformat": "j2k", "level": 40}),
        (JPEGLSLossless, imagecodecs.jpegls_encode, deep, {}),
        (JPEGLSNearLossless, imagecodecs.jpegls_encode, deep, {"level": 2}),
        (JPEGLosslessSV1, imagecodecs.jpeg8_encode, deep, {"lossless": True, "bitspersample": 12}),
        (JPEGExtended12Bit, imagecodecs.jpeg8_encode, deep, {"bitspersample": 12}),
        (JPEGBaseline8Bit, imagecodecs.jpeg8_encode, grey, {}),
    ]
    for syntax, encode, pixels, options in frames:
        yield syntax, pixels, encode(pixels, **options)


def ending_early(grey: Grey, share: float) -> Iterator[tuple[str, bytes]]:
    """Yield films of which a share of the codestream is left: as it is, and with an end marker as a repair puts there."""
    shown = Pillow.fromarray(grey)
    for kind, film in {
        "jpeg": picture(shown, "JPEG"),
        "jpeg rgb": picture(shown.convert("RGB"), "JPEG"),
        "jpeg restarts": picture(shown, "JPEG", restart_marker_rows=2),
        "jpeg progressive": picture(shown, "JPEG", progressive=True),
    }.items():
        left = film[: int(len(film) * share)]
        yield from ((kind, left), (f"{kind} repaired", left + b"\xff\xd9"))
    for syntax, pixels, frame in compressed_frames(grey):
        left = frame[: int(len(frame) * share)]
        yield syntax.name, encapsulated(pixels, left, syntax)
        yield f"{syntax.name} repaired", encapsulated(pixels, left + b"\xff\xd9", syntax)


def encapsulated(pixels: npt.NDArray[Any], frame: bytes, syntax: UID) -> bytes:
    """Return a DICOM film around one compressed frame of these pixels."""
    bits = 8 if pixels.dtype == np.uint8 else 12
    film = pydicom.dcmread(io.BytesIO(dicom(pixels, BitsStored=bits, HighBit=bits - 1)))
    film.PixelData = encapsulate([frame])
    film["PixelData"].VR = "OB"
    film["PixelData"].is_undefined_length = True
    return _written(film, syntax)


def _written(film: pydicom.Dataset, syntax: UID) -> bytes:
    assert isinstance(film, pydicom.FileDataset)
    little, implicit = syntax.is_little_endian, syntax.is_implicit_VR
    if not little:
        film.PixelData = np.frombuffer(film.PixelData, "<u2").byteswap().tobytes()
    film.file_meta.TransferSyntaxUID = syntax
    plain = pydicom.Dataset({one.tag: one for one in film})
    plain.file_meta, plain.preamble = film.file_meta, bytes(128)
    file = io.BytesIO()
    pydicom.dcmwrite(file, plain, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return file.getvalue()


def damaged(films: list[bytes], number: int) -> bytes:
    """Return the damaged film of that number: the same for the same number, on every machine."""
    source = random.Random(number)
    film = bytearray(films[number % len(films)])
    for _ in range(source.choice([1, 1, 2, 4, 16])):
        place = source.randrange(source.choice([min(len(film), 1024), len(film)]))
        source.choice(DAMAGES)(film, place, source)
        if not film:
            break
    return bytes(film)


def _flip(film: bytearray, place: int, source: random.Random) -> None:
    film[place] ^= 1 << source.randrange(8)


def _set(film: bytearray, place: int, source: random.Random) -> None:
    film[place] = source.choice([0, 255, source.randrange(256)])


def _extreme(film: bytearray, place: int, source: random.Random) -> None:
    size = source.choice([2, 4])
    value = source.choice(EXTREMES) & (256**size - 1)
    film[place : place + size] = value.to_bytes(size, source.choice(["big", "little"]))


def _delete(film: bytearray, place: int, source: random.Random) -> None:
    del film[place : place + source.randrange(1, 60)]


def _repeat(film: bytearray, place: int, source: random.Random) -> None:
    film[place:place] = film[place : place + source.randrange(1, 60)] * source.choice([1, 1, 20])


def _cut(film: bytearray, place: int, source: random.Random) -> None:
    del film[source.randrange(place, len(film)) :]


DAMAGES = [_flip, _flip, _set, _set, _extreme, _extreme, _delete, _repeat, _cut]


def real_films(folder: Path, most_bytes: int) -> dict[str, bytes]:
    """Return the real films of a folder that are no larger than that, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".dcm", ".jpg"))
    small = [path for path in paths if path.stat().st_size <= most_bytes]
    kept = [path for path in small if path.suffix == ".dcm"] + [path for path in small if path.suffix == ".jpg"][::400]
    return {path.name: path.read_bytes() for path in kept}


def emptied(frame: bytes, share: float) -> bytes:
    """Return a codestream in whose middle a share of the bytes is 0, as in a file whose blocks were lost."""
    start = len(frame) // 2
    count = int(len(frame) * share)
    return frame[:start] + bytes(count) + frame[start + count :]


def one_scan_a_component(grey: Grey) -> bytes:
    """Return the film as a baseline JPEG in colour whose components stand in a scan each, all alike."""
    film = picture(Pillow.fromarray(grey), "JPEG")
    film = film[:2] + film[20:]  # without JFIF, which says YCbCr
    frame, scan = film.index(b"\xff\xc0"), film.index(b"\xff\xda")
    header = film[frame : frame + 9] + b"\x03" + b"".join(bytes([number, 0x11, 0]) for number in b"RGB")
    coded = film[scan + 6 : -2]
    scans = b"".join(b"\xff\xda\0\x08\x01" + bytes([number]) + coded for number in b"RGB")
    return film[:frame] + header[:3] + b"\x11" + header[4:] + film[frame + 13 : scan] + scans + b"\xff\xd9"
