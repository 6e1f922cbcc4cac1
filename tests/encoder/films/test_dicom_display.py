"""How values become brightness, with expectations worked out from PS3.3 here and not by what reads them."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from film_files import RAMP, dicom
from pydicom.dataset import Dataset

from encoder.errors import ImageError
from encoder.films.dicom import film_notes, read_dicom
from encoder.films.image import read_image

DEEP = {"BitsStored": 12, "HighBit": 11}
VALUES = RAMP.astype(np.float64)  # 0..3780
Floats = npt.NDArray[np.float64]


def stretched(shown: Floats) -> Floats:
    return np.asarray((shown - shown.min()) / (shown.max() - shown.min()))


def linear(values: Floats, center: float, width: float) -> Floats:
    """C.11.2.1.2.1."""
    return np.asarray(np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1))


def same(film: bytes, expected: Floats, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(read_image(film), expected, atol=tolerance)


def lut(entries: Floats | list[int], first: int, bits: int = 16, form: str = "US", count: int | None = None) -> Dataset:
    """Return one item of a sequence of look-up tables.

    Args:
        form: how the entries are written: US or OW, a word each, packed OW, or OB, a byte each.
    """
    item = Dataset()
    total = len(entries) if count is None else count
    item.add_new("LUTDescriptor", "US", [total % 65536, first % 65536, bits])
    words = np.asarray(entries, np.uint16)
    if form == "US":
        item.add_new("LUTData", "US", words.tolist())
    else:
        packed = form in ("packed OW", "OB")
        content = words.astype(np.uint8).tobytes() if packed else words.tobytes()
        item.add_new("LUTData", form.split()[-1], content + bytes(len(content) % 2))
    return item


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("slope", [-1, -0.5, 2.0])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_grows_with_the_rescaled_value_whatever_the_slope(polarity: str, slope: float, function: str) -> None:
    values = VALUES * slope + 100
    center, width = float(np.median(values)), 900.0
    shown = {
        "LINEAR": linear(values, center, width),
        "LINEAR_EXACT": np.clip((values - center) / width + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (values - center) / width)),
    }[function]

    film = dicom(
        PhotometricInterpretation=polarity,
        RescaleSlope=slope,
        RescaleIntercept=100,
        WindowCenter=center,
        WindowWidth=width,
        VOILUTFunction=function,
        **DEEP,
    )

    same(film, 1 - stretched(shown) if polarity == "MONOCHROME1" else stretched(shown))


@pytest.mark.parametrize(
    ("elements", "shown"),
    [
        ({"WindowCenter": 2000, "WindowWidth": 0}, VALUES),
        ({"WindowCenter": 2000, "WindowWidth": -5}, VALUES),
        ({"WindowCenter": 2000, "WindowWidth": 0.5}, (VALUES > 2000).astype(float)),
        ({"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "LOG"}, linear(VALUES, 2000, 900)),
        (
            {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "sigmoid"},
            1 / (1 + np.exp(-4 * (VALUES - 2000) / 900)),
        ),
        ({"RescaleSlope": 0, "RescaleIntercept": 7}, VALUES),
        (
            {"RescaleSlope": 0, "RescaleIntercept": 0, "WindowCenter": 2000, "WindowWidth": 900},
            linear(VALUES, 2000, 900),
        ),
        ({"RescaleSlope": -1, "RescaleIntercept": ""}, -VALUES),
        ({"RescaleSlope": 2}, VALUES),
        ({"RescaleIntercept": -1000, "WindowCenter": 500, "WindowWidth": 900}, linear(VALUES - 1000, 500, 900)),
        ({"WindowCenter": [2000, 7], "WindowWidth": [900]}, linear(VALUES, 2000, 900)),
        ({"WindowCenter": [7, 2000], "WindowWidth": [0, 900]}, linear(VALUES, 2000, 900)),
    ],
)
def test_what_a_header_leaves_open_has_one_plain_reading(elements: dict[str, Any], shown: Floats) -> None:
    with pydicom.config.disable_value_validation():
        same(dicom(**elements, **DEEP), stretched(shown))


@pytest.mark.parametrize("written", [b" MONOCHROME1", b"MONOCHROME1 ", b"monochrome1 ", b" Monochrome1"])
def test_spaces_around_a_word_and_its_case_mean_nothing(written: bytes) -> None:
    film = dicom(PhotometricInterpretation="MONOCHROME1").replace(b"MONOCHROME1 ", written)

    same(film, 1 - stretched(VALUES))


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(("form", "bits"), [("US", 8), ("packed OW", 8), ("OB", 8), ("OW", 12), ("US", 9), ("OW", 16)])
def test_entries_are_read_in_every_form_they_are_written_in(keyword: str, form: str, bits: int) -> None:
    entries = np.linspace(0, (1 << bits) - 1, 4096).round()

    film = dicom(**{keyword: [lut(entries, 0, bits, form)]}, **DEEP)

    same(film, stretched(entries[RAMP]))


@pytest.mark.parametrize("form", ["US", "packed OW", "OB"])
def test_an_odd_number_of_entries_of_8_bits_is_read(form: str) -> None:
    entries = np.linspace(255, 0, 3781).round()

    same(dicom(VOILUTSequence=[lut(entries, 0, 8, form)], **DEEP), stretched(entries[RAMP]))


@pytest.mark.parametrize("first", [0, 500, 2000])
@pytest.mark.parametrize("slope", [1, 2])
def test_values_beyond_a_table_have_its_first_or_last_entry(first: int, slope: int) -> None:
    entries = np.linspace(100, 900, 1000).round()

    film = dicom(RescaleSlope=slope, RescaleIntercept=0, VOILUTSequence=[lut(entries, first)], **DEEP)

    same(film, stretched(entries[np.clip(RAMP.astype(int) * slope - first, 0, 999)]))


@pytest.mark.parametrize("vr", ["US", "SS"])
def test_the_first_value_of_a_table_is_signed_where_values_are(vr: str) -> None:
    signed = RAMP.astype(np.int16) - 2000
    item = lut(np.linspace(0, 60_000, 3000).round(), -1500)
    item.add_new("LUTDescriptor", vr, [3000, -1500 if vr == "SS" else 64036, 16])
    expected = stretched(np.linspace(0, 60_000, 3000).round()[np.clip(signed.astype(int) + 1500, 0, 2999)])

    same(dicom(signed, VOILUTSequence=[item]), expected)
    same(dicom(signed, ModalityLUTSequence=[item]), expected)
    same(dicom(RescaleSlope=1, RescaleIntercept=-2000, VOILUTSequence=[item], **DEEP), expected)


@pytest.mark.parametrize("vr", ["US", "SS"])
def test_the_first_value_of_a_table_is_unsigned_where_values_are(vr: str) -> None:
    high = RAMP + np.uint16(40_000)
    item = lut(np.linspace(0, 60_000, 5000).round(), 39_500)
    item.add_new("LUTDescriptor", vr, [5000, 39_500 - (65_536 if vr == "SS" else 0), 16])

    expected = np.linspace(0, 60_000, 5000).round()[RAMP + 500]

    same(dicom(high, VOILUTSequence=[item]), stretched(expected))


def test_a_table_of_65536_entries_has_0_as_their_number() -> None:
    entries = (65_535 - np.arange(65_536)) // 2
    wide = RAMP * np.uint16(17)
    film = pydicom.dcmread(io.BytesIO(dicom(wide, VOILUTSequence=[lut([0, 1], 0)])))
    item = film.VOILUTSequence[0]
    item.LUTDescriptor = [0, 0, 16]
    item.add_new("LUTData", "OW", entries.astype(np.uint16).tobytes())  # too long for US
    written = io.BytesIO()
    film.save_as(written)

    same(written.getvalue(), stretched(entries[wide].astype(float)))


@pytest.mark.parametrize("item", [Dataset(), lut([1, 2, 3], 0, count=4096), lut([], 0)])
def test_a_table_that_holds_nothing_or_too_little_is_left_out(item: Dataset) -> None:
    windowed = {"WindowCenter": 2000, "WindowWidth": 900}

    same(
        dicom(ModalityLUTSequence=[item], VOILUTSequence=[item], **windowed, **DEEP),
        stretched(linear(VALUES, 2000, 900)),
    )


def with_padding(film: bytes, vr: bytes, value: int, limit: int | None = None) -> bytes:
    told = b"".join(
        struct.pack("<HH2sHH", 0x0028, element, vr, 2, number & 0xFFFF)
        for element, number in ((0x120, value), (0x121, limit))
        if number is not None
    )
    place = film.index(b"\xe0\x7f\x10\x00OW")
    return film[:place] + told + film[place:]


@pytest.mark.parametrize("vr", [b"US", b"SS"])
@pytest.mark.parametrize(
    ("kind", "padding", "limit"),
    [("i2", -2000, None), ("i2", -2060, -1990), ("u2", 65_000, None), ("u2", 65_535, 64_990), ("u2", 0, None)],
)
def test_padding_is_black_in_whichever_signedness_it_is_written(
    vr: bytes, kind: str, padding: int, limit: int | None
) -> None:
    pixels = RAMP.astype(kind)
    pixels[:, :8] = padding if limit is None else (padding + limit) // 2

    film = with_padding(dicom(pixels, PhotometricInterpretation="MONOCHROME1"), vr, padding, limit)

    assert (read_image(film)[:, :8] == 0).all()
    np.testing.assert_allclose(read_image(film)[:, 8:], 1 - stretched(VALUES[:, 8:]), atol=1e-5)


def test_signed_padding_may_be_the_bits_that_are_stored() -> None:
    pixels = RAMP.astype(np.int16) // 4
    pixels[:, :8] = -2000

    film = with_padding(dicom(pixels, **DEEP), b"US", 4096 - 2000)

    assert (read_image(film)[:, :8] == 0).all()
    np.testing.assert_allclose(read_image(film)[:, 8:], stretched(pixels[:, 8:].astype(float)), atol=1e-5)


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("kind", "odd"), [("u2", 65_535), ("i2", 32_767), ("i2", -32_768), ("u2", 9_000)])
@pytest.mark.parametrize("count", [1, 9, 15])
def test_few_hot_or_dead_pixels_do_not_flatten_a_film_without_a_window(
    polarity: str, kind: str, odd: int, count: int
) -> None:
    pixels = RAMP.astype(kind)
    places = np.arange(count) * 97 % RAMP.size
    pixels.reshape(-1)[places] = odd
    others = np.ones(RAMP.size, dtype=bool)
    others[places] = False

    film = read_image(dicom(pixels, PhotometricInterpretation=polarity)).reshape(-1)

    expected = stretched(VALUES).reshape(-1)
    np.testing.assert_allclose(
        film[others], (1 - expected if polarity == "MONOCHROME1" else expected)[others], atol=0.02
    )
    assert (film.min(), film.max()) == (0, 1)


def test_a_film_without_a_window_whose_ends_are_many_or_near_is_shown_whole() -> None:
    bright = RAMP.copy()
    bright[:4] = 9_000  # a twelfth of the film
    near = RAMP.copy()
    near[0, :5] = 4_500

    same(dicom(bright), stretched(bright.astype(float)))
    same(dicom(near), stretched(near.astype(float)))


def test_every_other_reading_is_noted_without_pixels_being_decoded(tmp_path: Path) -> None:
    elements: dict[str, Any] = {
        "WindowCenter": 2000,
        "WindowWidth": 900,
        "VOILUTFunction": "LOG",
        "RescaleSlope": 0,
        "RescaleIntercept": 0,
        "NumberOfFrames": 0,
        "PixelAspectRatio": [2, 1],
        "BodyPartExamined": "ABDOMEN",
        "SeriesDescription": "CHEST PA",
    }
    film = dicom(ModalityLUTSequence=[Dataset()], **elements)

    (tmp_path / "film").write_bytes(film)
    (tmp_path / "plain").write_bytes(dicom(**DEEP))

    notes = film_notes(tmp_path / "film")

    told = ("VOILUTFunction", "RescaleSlope", "NumberOfFrames", "PixelAspectRatio", "ABDOMEN", "ModalityLUTSequence")
    assert all(any(word in note for note in notes) for word in told)
    assert film_notes(tmp_path / "plain") == film_notes(tmp_path / "nowhere") == []
    read: list[str] = []
    read_dicom(film, lambda width, height: None, read)
    assert sorted(read) == sorted(notes)


def test_a_rescale_that_is_no_number_is_refused_with_the_way_out() -> None:
    film = dicom(RescaleSlope="12345678", RescaleIntercept=0).replace(b"12345678", b"1,5     ")

    with pytest.raises(ImageError, match="expected a number in RescaleSlope, got something else; correct it"):
        read_image(film)
