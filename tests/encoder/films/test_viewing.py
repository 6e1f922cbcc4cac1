"""A film for a viewer: its stored values to the bit, and what its header says of showing and measuring, in numbers."""

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from film_files import RAMP, dicom, picture
from pydicom.dataset import Dataset

from encoder.errors import ImageError
from encoder.films.image import read_image, view_film
from encoder.films.viewing import CHUNK, ViewedFilm

DEEP: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}


def viewed(film: bytes) -> ViewedFilm:
    return view_film(film, name="film")


def values(film: ViewedFilm) -> Any:
    """Return the values of a film's pixels, as its rescale has them."""
    return film.codes.astype(np.float64) * film.slope + film.intercept


def said(png: bytes) -> dict[str, Any]:
    """Return what a PNG says beside its pixels, its checksum looked at."""
    at = png.index(CHUNK)
    size = struct.unpack(">I", png[at - 4 : at])[0]
    assert zlib.crc32(png[at : at + 4 + size]) == struct.unpack(">I", png[at + 4 + size : at + 8 + size])[0]
    described: dict[str, Any] = json.loads(zlib.decompress(png[at + 4 : at + 4 + size]))
    return described


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_stored_values_come_back_to_the_bit(kind: type, polarity: str) -> None:
    stored = (RAMP.astype(np.int64) - (2000 if kind is np.int16 else 0)).astype(kind)
    film = viewed(dicom(stored, PhotometricInterpretation=polarity, RescaleSlope="2", RescaleIntercept="-7", **DEEP))
    pixels = cv2.imdecode(np.frombuffer(film.as_png(), np.uint8), cv2.IMREAD_UNCHANGED)

    np.testing.assert_array_equal(pixels, film.codes)
    np.testing.assert_array_equal(values(film), 2.0 * stored - 7)
    assert (film.bits, film.inverted) == (12, polarity == "MONOCHROME1")


def test_windows_are_presets_and_the_whole_range_comes_last() -> None:
    header = {"WindowCenter": [2000, 900, 5], "WindowWidth": [3000, 400, 0], **DEEP}
    film = viewed(dicom(WindowCenterWidthExplanation=["NORMAL", "DOE^JOHN", "BONE"], **header))
    names = [preset.name for preset in film.presets]

    assert names == ["Window 1: normal", "Window 2", "Whole range"]  # the third has no width, and no name is quoted
    described = said(film.as_png())
    assert described["presets"][0] == {
        "name": "Window 1: normal", "center": 2000.0, "width": 3000.0, "function": "LINEAR"
    }  # fmt: skip
    assert described["ends"] == [0, int(RAMP.max())]
    assert "DOE" not in json.dumps(described)


def test_a_voi_lut_is_a_curve_and_comes_before_windows() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 1000, 12])
    item.add_new("LUTData", "US", [0, 100, 200, 400])
    film = viewed(dicom(VOILUTSequence=[item], WindowCenter="5", WindowWidth="9", **DEEP))
    described = said(film.as_png())["presets"][0]
    entries = np.frombuffer(base64.b64decode(described["entries"]), "<u2")

    assert (described["name"], described["first"], len(entries)) == ("VOI LUT 1", 0, int(RAMP.max()) + 1)
    assert entries[[0, 1000, 1001, 1002, 1003, 3000]].tolist() == [0, 0, 16384, 32768, 65535, 65535]
    assert film.presets[1].name == "Window 1"


def test_a_modality_lut_bends_the_windows_behind_it() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "US", (np.arange(4096) ** 2 // 4096).tolist())
    film = viewed(dicom(ModalityLUTSequence=[item], WindowCenter="1000", WindowWidth="500", **DEEP))
    curve = said(film.as_png())["presets"][0]
    entries = np.frombuffer(base64.b64decode(curve["entries"]), "<u2")

    np.testing.assert_array_equal(film.codes, RAMP)
    assert entries[2024] == pytest.approx(65535 * ((2024**2 // 4096 - 999.5) / 499 + 0.5), abs=1)


@pytest.mark.parametrize(
    ("header", "spacing"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2, "detector")),
        ({"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.2, 0.2]}, (0.2, 0.2, "detector")),
        ({"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.17, 0.17]}, (0.17, 0.17, "patient")),
        ({"PixelSpacing": [0.17, 0.17]}, (0.17, 0.17, "stated")),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1, "film")),
        ({"PixelSpacing": [0, 0.1]}, None),
        ({"ImagerPixelSpacing": [400, 400]}, None),
        ({}, None),
    ],
)
def test_a_spacing_says_where_it_holds(header: dict[str, Any], spacing: tuple[float, float, str] | None) -> None:
    found = viewed(dicom(**header)).spacing
    assert (None if found is None else (found.down, found.across, found.place)) == spacing


def test_padding_is_told_and_counts_for_no_end() -> None:
    padded = RAMP.copy()
    padded[:4] = 4095
    film = viewed(dicom(padded, PixelPaddingValue=4095, **DEEP))

    assert (film.padding, film.ends) == ((4095, 4095), (0, int(RAMP.max())))
    with pytest.raises(ImageError, match="one value everywhere"):
        viewed(dicom(np.full_like(RAMP, 9)))


@pytest.mark.parametrize("pixels", [RAMP, (RAMP // 15).astype(np.uint8)])
def test_a_picture_keeps_its_values_and_is_turned_upright(pixels: Any) -> None:
    film = viewed(picture(pixels))
    np.testing.assert_array_equal(film.codes, pixels)
    assert film.codes.dtype == pixels.dtype
    with pytest.raises(ImageError, match="'film'"):
        viewed(b"no film")


def test_real_films_look_as_the_encoder_reads_them(shared_data: Path) -> None:
    for path in sorted((shared_data / "dicom/chest").glob("*.dcm")):
        if "nonconformant" in path.name:
            continue
        film, read = viewed(path.read_bytes()), read_image(path)
        assert film.codes.shape == read.shape
        shown = values(film).ravel()[::997]
        dark = -1 if film.inverted else 1
        assert np.corrcoef(dark * shown, read.ravel()[::997])[0, 1] > 0.9
