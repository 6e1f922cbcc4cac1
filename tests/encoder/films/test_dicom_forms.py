"""One film in the many forms that files give it: without preamble, deflated, in boxes, in colour, with oblong pixels."""

import io
import struct
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from film_files import RAMP, ROUNDED, dicom, picture
from hostile_files import encapsulated
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from encoder.errors import ImageError, NotAnImage
from encoder.films.dicom_frame import decode_frame
from encoder.films.image import read_image
from encoder.films.plane import as_deep_plane, as_image, resized

EXPECTED = RAMP.astype(np.float64) / RAMP.max()
BYTES = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def written(film: bytes, syntax: UID, *, preamble: bool = True, **elements: Any) -> bytes:
    """Return a film of 16 bits in another plain encoding."""
    header = pydicom.dcmread(io.BytesIO(film))
    data = pydicom.Dataset({one.tag: one for one in header})
    if syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").byteswap().tobytes()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    file = io.BytesIO()
    if preamble:
        data.file_meta = header.file_meta
        data.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(file, data, enforce_file_format=True)
    else:
        pydicom.dcmwrite(file, data, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return file.getvalue()


def colour(pixels: npt.NDArray[Any], space: str = "RGB", **elements: Any) -> bytes:
    """Return a DICOM of three samples, (H, W, 3) or (3, H, W) as it is to be written."""
    told = {"SamplesPerPixel": 3, "PhotometricInterpretation": space, "PlanarConfiguration": 0}
    film = dicom(pixels[..., 0] if pixels.shape[-1] == 3 else pixels[0], **told | elements)
    header = pydicom.dcmread(io.BytesIO(film))
    header.PixelData = pixels.tobytes()
    header["PixelData"].VR = "OB"
    file = io.BytesIO()
    header.save_as(file)
    return file.getvalue()


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_a_film_is_read_in_every_plain_encoding(syntax: UID) -> None:
    np.testing.assert_allclose(read_image(written(dicom(), syntax)), EXPECTED, atol=ROUNDED)


@pytest.mark.parametrize("syntax", NATIVE[:3], ids=lambda syntax: syntax.name)
def test_a_data_set_without_preamble_is_read_in_the_encoding_that_it_shows(syntax: UID) -> None:
    film = dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", SOPInstanceUID="1.2.3")

    np.testing.assert_allclose(read_image(written(film, syntax, preamble=False)), EXPECTED, atol=ROUNDED)


def test_a_header_of_the_file_without_preamble_still_names_the_encoding() -> None:
    np.testing.assert_allclose(read_image(written(dicom(), ImplicitVRLittleEndian)[132:]), EXPECTED, atol=ROUNDED)
    with pytest.raises(NotAnImage):
        read_image(bytes(132))


@pytest.mark.parametrize("stated", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda syntax: syntax.name)
def test_vrs_are_there_or_not_whatever_the_file_states(stated: UID) -> None:
    other = ExplicitVRLittleEndian if stated == ImplicitVRLittleEndian else ImplicitVRLittleEndian
    film = written(dicom(), other)
    true, lie = (
        struct.pack("<H", len(name) + len(name) % 2) + name.encode() + bytes(len(name) % 2) for name in (other, stated)
    )

    np.testing.assert_allclose(read_image(film.replace(true, lie)), EXPECTED, atol=ROUNDED)
    assert true in film


def test_a_deflated_film_that_is_cut_or_damaged_is_refused() -> None:
    film = written(dicom(), DeflatedExplicitVRLittleEndian)

    for torn in (film[:-40], film[: len(film) // 2], film[:-60] + b"\xff" * 60):
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            read_image(torn)


def boxed(codestream: bytes) -> bytes:
    """Return a codestream as a JP2 file has it, with a box before and one behind."""
    signature = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s4sI4s", 20, b"ftyp", b"jp2 ", 0, b"jp2 ")
    return signature + struct.pack(">I4s", 8 + len(codestream), b"jp2c") + codestream + b"\0\0\0\x0cxml told"


@pytest.mark.parametrize("kind", ["boxes", "HTJ2K", "HTJ2K in boxes"])
def test_jpeg_2000_is_read_in_boxes_and_in_high_throughput(kind: str) -> None:
    encode = imagecodecs.htj2k_encode if "HT" in kind else imagecodecs.jpeg2k_encode
    options = {"reversible": True} | ({} if "HT" in kind else {"codecformat": "j2k", "level": 0})
    codestream = encode(RAMP, **options)

    film = encapsulated(
        RAMP, boxed(codestream) if "boxes" in kind else codestream, HTJ2KLossless if "HT" in kind else JPEG2000Lossless
    )

    np.testing.assert_allclose(read_image(film), EXPECTED, atol=ROUNDED)


def test_a_box_without_a_codestream_is_refused() -> None:
    film = encapsulated(
        RAMP, b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 12, b"ftyp") + b"jp2 ", JPEG2000Lossless
    )

    with pytest.raises(ImageError, match="got none; the frame is damaged"):
        read_image(film)


@pytest.mark.parametrize(
    "film",
    [
        colour(np.repeat(BYTES[..., None], 3, axis=2)),
        colour(np.stack([BYTES] * 3), Rows=48, Columns=64, PlanarConfiguration=1),
        colour(np.dstack([BYTES, np.full_like(BYTES, 128), np.full_like(BYTES, 128)]), "YBR_FULL"),
    ],
    ids=["by pixel", "by plane", "YBR_FULL"],
)
def test_a_grey_film_in_colour_is_read_as_grey(film: bytes) -> None:
    np.testing.assert_allclose(read_image(film), BYTES / BYTES.max(), atol=0.005)


@pytest.mark.parametrize(
    "syntax",
    [RLELossless, JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1],
    ids=lambda syntax: syntax.name,
)
def test_a_grey_film_in_compressed_colour_is_read_as_grey(syntax: UID) -> None:
    three = np.repeat(BYTES[..., None], 3, axis=2)
    header = pydicom.dcmread(io.BytesIO(colour(three)))
    if syntax == RLELossless:
        header.compress(RLELossless)
    else:
        frame = {
            JPEGBaseline8Bit: lambda: picture(Pillow.fromarray(three), "JPEG", quality=95),
            JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(three, codecformat="j2k", reversible=True, level=0),
            JPEGLSLossless: lambda: imagecodecs.jpegls_encode(three),
            JPEGLosslessSV1: lambda: imagecodecs.jpeg8_encode(three, lossless=True, colorspace="RGB"),
        }[syntax]()
        header.PixelData = pydicom.encaps.encapsulate([frame])
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    header.save_as(file)

    np.testing.assert_allclose(read_image(file.getvalue()), BYTES / BYTES.max(), atol=0.03)


def test_a_colour_picture_is_refused_in_dicom_too() -> None:
    red = np.dstack([BYTES, BYTES // 4, 255 - BYTES])

    with pytest.raises(ImageError, match="colour picture"):
        read_image(colour(red))
    with pytest.raises(ImageError, match="got none for red; export the film as grey"):
        read_image(dicom(PhotometricInterpretation="PALETTE COLOR"))
    with pytest.raises(ImageError, match=r"'HSV' is not a radiograph; .* export the film as grey"):
        read_image(dicom(PhotometricInterpretation="HSV"))


def with_palette(pixels: npt.NDArray[Any], tables: list[npt.NDArray[Any]], bits: int) -> bytes:
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [len(table), 0, bits]
        elements[f"{name}PaletteColorLookupTableData"] = table.astype("u1" if bits == 8 else "<u2").tobytes()
    return dicom(pixels, **elements)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_film_with_a_palette_is_read_as_grey_and_a_coloured_one_refused(bits: int) -> None:
    grey = np.linspace((1 << bits) - 1, 0, 256).round().astype(int)

    film = read_image(with_palette(BYTES, [grey] * 3, bits))

    np.testing.assert_allclose(film, (grey[BYTES] - grey[252]) / (grey[0] - grey[252]), atol=0.005)
    with pytest.raises(ImageError, match="colour picture"):
        read_image(with_palette(BYTES, [grey, grey // 4, grey[::-1]], bits))


@pytest.mark.parametrize(
    "elements",
    [
        {"PixelAspectRatio": [2, 1]},
        {"PixelSpacing": [0.4, 0.2]},
        {"ImagerPixelSpacing": [0.3, 0.15]},
        {"NominalScannedPixelSpacing": [1, 0.5]},
    ],
    ids=lambda elements: next(iter(elements)),
)
def test_pixels_twice_as_high_as_wide_become_square(elements: dict[str, Any]) -> None:
    film = read_image(dicom(**elements))

    assert film.shape == (96, 64)
    np.testing.assert_allclose(film, as_image(resized(as_deep_plane(EXPECTED), (96, 64))), atol=1e-4)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ([0.1, 0.2], (48, 128)),
        ([0.143, 0.1432], (48, 64)),
        ([0.2, 0.2], (48, 64)),
        (["", ""], (48, 64)),
        ([0, 0.2], (48, 64)),
        ([-1, 2], (48, 64)),
    ],
)
def test_the_finer_side_of_oblong_pixels_is_kept_and_near_ones_count_as_square(
    spacing: list[float], shape: tuple[int, int]
) -> None:
    assert read_image(dicom(PixelSpacing=spacing)).shape == shape


def test_oblong_pixels_do_not_pass_the_limit_of_pixels() -> None:
    with pytest.raises(ImageError, match="expected at most 4000 pixels, got 64 x 96"):
        read_image(dicom(PixelAspectRatio=[2, 1]), max_pixels=4000)
    with pytest.raises(ImageError, match="about as high as wide, got 40 to 1 in PixelAspectRatio"):
        read_image(dicom(PixelAspectRatio=[40, 1]))


@pytest.mark.parametrize("surplus", [1, 2, 4, 100, 512])
def test_few_or_empty_bytes_behind_the_pixels_are_left_out(surplus: int) -> None:
    film = dicom(PixelData=RAMP.tobytes() + bytes(surplus + surplus % 2))

    np.testing.assert_allclose(read_image(film), EXPECTED, atol=ROUNDED)


def test_bits_that_are_stored_above_others_are_shifted_down() -> None:
    film = dicom((RAMP << 4) | 7, BitsStored=12, HighBit=15)

    np.testing.assert_allclose(read_image(film), EXPECTED, atol=ROUNDED)


def test_a_film_of_8_bits_in_big_endian_words_is_swapped() -> None:
    swapped = BYTES.reshape(-1, 2)[:, ::-1].reshape(BYTES.shape)
    film = written(dicom(BYTES), ImplicitVRLittleEndian)
    header = pydicom.dcmread(io.BytesIO(film))
    data = pydicom.Dataset({one.tag: one for one in header})
    data.PixelData = swapped.tobytes()
    data["PixelData"].VR = "OW"
    data.file_meta = header.file_meta
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, enforce_file_format=True)

    np.testing.assert_allclose(read_image(file.getvalue()), BYTES / BYTES.max(), atol=ROUNDED)


ORIENTED = {
    1: lambda film: film,
    2: np.fliplr,
    3: lambda film: np.rot90(film, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda film: np.rot90(film, -1),
    7: lambda film: np.rot90(film, 2).T,
    8: np.rot90,
}
"""How a picture as stored becomes upright (Exif 2.32, 4.6.4 A)."""


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_picture_is_turned_as_its_exif_says(orientation: int, kind: str, order: str) -> None:
    grey = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 255, (48, 64), np.uint8), (0, 0), 3)
    exif = Pillow.Exif()
    exif.endian = order
    exif[0x010E], exif[0x0112] = "a film", orientation
    plain = read_image(picture(grey, kind))

    turned = read_image(picture(grey, kind, exif=exif))

    np.testing.assert_array_equal(turned, ORIENTED[orientation](plain))


def test_a_turned_jpeg_is_decoded_small_and_copied_upright() -> None:
    grey = np.tile(np.arange(0, 256, dtype=np.uint8), (192, 1))
    exif = Pillow.Exif()
    exif[0x0112] = 6
    film = picture(grey, "JPEG", exif=exif)

    assert read_image(film).shape == (256, 192)
    assert read_image(film, least_side=96).shape == (128, 96)


@pytest.mark.parametrize("tint", [(0.82, 0.9, 1.0), (1.0, 0.93, 0.8)])
def test_the_tint_of_a_films_base_is_no_colour(tint: tuple[float, ...]) -> None:
    tinted = (BYTES[..., None] * np.array(tint)).astype(np.uint8)
    noise = np.random.default_rng(0).integers(-1, 2, tinted.shape)
    dark = np.clip((BYTES[..., None] // 16) + noise, 0, 255).astype(np.uint8)

    for film in (tinted, dark):
        grey = read_image(picture(Pillow.fromarray(film)))
        assert np.corrcoef(grey.ravel(), BYTES.ravel())[0, 1] > 0.97


def test_two_colours_are_no_tint() -> None:
    duotone = np.dstack([BYTES, BYTES // 3, BYTES // 6])

    with pytest.raises(ImageError, match="colour picture"):
        read_image(picture(Pillow.fromarray(duotone)))


@pytest.mark.parametrize("kind", ["tEXt", "zTXt"])
def test_exif_that_a_png_has_in_a_text_counts_too(kind: str) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 3
    profile = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    text = PngInfo()
    lines = f"\nexif\n{len(profile):8}\n{profile.hex()}\n"
    text.add_text("Raw profile type exif", lines, zip=kind == "zTXt")

    np.testing.assert_array_equal(read_image(picture(BYTES, pnginfo=text)), read_image(picture(BYTES[::-1, ::-1])))


@pytest.mark.parametrize("lacking", ["delimiter", "table", "pad"])
def test_a_compressed_frame_is_whole_without_what_stands_around_it(lacking: str) -> None:
    frame = imagecodecs.jpeg8_encode(RAMP, lossless=True, bitspersample=12)
    film = encapsulated(RAMP, frame, JPEGLosslessSV1)
    end, table = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    film = {
        "delimiter": film.removesuffix(end),
        "table": film.replace(b"\xff\xff\xff\xff" + table, b"\xff\xff\xff\xff"),
        "pad": film.removesuffix(end)[:-1] if len(frame) % 2 else film.removesuffix(end),
    }[lacking]

    np.testing.assert_allclose(read_image(film), EXPECTED, atol=ROUNDED)


def test_a_fragment_of_odd_length_is_read_with_a_pad_that_its_length_does_not_count() -> None:
    frame = imagecodecs.jpeg8_encode(RAMP, lossless=True, bitspersample=12)
    frame += b"\0" * (1 - len(frame) % 2)
    counted = struct.pack("<HHI", 0xFFFE, 0xE000, len(frame) + 1) + frame
    told = struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    film = encapsulated(RAMP, frame + b"\0", JPEGLosslessSV1)
    assert film.count(counted) == 1

    np.testing.assert_allclose(read_image(film.replace(counted, told)), EXPECTED, atol=ROUNDED)


def test_a_sound_lossless_frame_is_decoded_once_and_one_that_lacks_bytes_or_has_too_many_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    film = np.random.default_rng(0).integers(0, 4096, (120, 90), np.uint16)
    frame = imagecodecs.jpeg8_encode(film, lossless=True, bitspersample=12)
    decode, sizes = imagecodecs.jpeg8_decode, []
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", lambda data: sizes.append(len(data)) or decode(data))

    found = decode_frame(frame, JPEGLosslessSV1, film.shape, 2)

    np.testing.assert_array_equal(found, film)
    assert sum(size > len(frame) // 2 for size in sizes) == 1
    for body in (frame[:-402], frame[:-2] + bytes(9)):
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            decode_frame(body + frame[-2:], JPEGLosslessSV1, film.shape, 2)


@pytest.mark.parametrize("predictor", [1, 4, 7])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_lossless_frame_is_read_to_the_bit(predictor: int, bits: int) -> None:
    film = np.random.default_rng(bits).integers(0, 1 << bits, (40, 130)).astype(np.uint8 if bits == 8 else np.uint16)
    frame = imagecodecs.jpeg8_encode(film, lossless=True, bitspersample=bits, predictor=predictor)

    np.testing.assert_array_equal(decode_frame(frame, JPEGLossless, film.shape, film.itemsize), film)


def test_a_grey_film_in_colours_of_16_bits_is_read_where_they_are_the_same() -> None:
    three = np.repeat((RAMP * 17)[..., None], 3, axis=2)

    np.testing.assert_allclose(read_image(colour(three)), EXPECTED, atol=ROUNDED)
    with pytest.raises(ImageError, match="colour picture"):
        read_image(colour(np.dstack([RAMP * 17, RAMP * 4, 65_535 - RAMP * 17])))
