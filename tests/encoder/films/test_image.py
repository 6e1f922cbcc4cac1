"""Films that are read, films that are refused, and bytes that are neither."""

import random
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from film_files import RAMP, ROUNDED, dicom, is_film_or_refused, mutated, picture
from PIL import Image as Pillow

from encoder.errors import ImageError, NotAnImage
from encoder.films.image import read_image


def bomb(width: int, height: int) -> bytes:
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(ihdr))
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\r" + ihdr + crc + b"\x00\x00\x00\x00IEND\xaeB\x60\x82"


def test_an_8_bit_png_is_divided_by_255() -> None:
    grey = (RAMP / 60).astype(np.uint8)

    film = read_image(picture(grey))

    assert film.dtype == np.float32
    np.testing.assert_array_equal(film, grey / np.float32(255))


def test_a_16_bit_png_is_stretched_because_its_depth_is_unknown() -> None:
    film = read_image(picture(RAMP + 100))

    assert (film.min(), film.max()) == (0, 1)
    np.testing.assert_allclose(film, RAMP / 3780, atol=ROUNDED)


def test_a_grey_film_stored_as_rgb_reads_as_the_grey_one() -> None:
    grey = Pillow.fromarray((RAMP / 60).astype(np.uint8) * 3)

    np.testing.assert_array_equal(read_image(picture(grey.convert("RGB"))), read_image(picture(grey)))
    np.testing.assert_array_equal(read_image(picture(grey.convert("P"))), read_image(picture(grey)))


def test_transparent_parts_are_black() -> None:
    film = Pillow.new("LA", (64, 48), (200, 255))
    film.paste((200, 0), (0, 0, 32, 48))

    image = read_image(picture(film))

    assert image[0, 0] == 0
    assert image[0, 63] == pytest.approx(200 / 255)


def test_metadata_of_a_jpeg_neither_turns_nor_spoils_the_film() -> None:
    grey = (RAMP / 60).astype(np.uint8)

    turned = picture(grey, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")

    np.testing.assert_array_equal(read_image(turned), read_image(picture(grey, "JPEG")))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (picture(Pillow.new("RGB", (64, 64), (200, 30, 30))), "colour picture"),
        (picture(Pillow.new("CMYK", (64, 64)), "JPEG"), "mode 'CMYK'"),
        (picture(Pillow.new("1", (64, 64))), "mode '1'"),
        (picture(Pillow.new("L", (64, 64), 7)), "one value everywhere"),
        (picture(RAMP[:20]), "at least 32 pixels"),
        (picture(np.tile(RAMP, (1, 7))), "within 8 to 1"),
        (picture(RAMP)[:-40], "truncated"),
        (picture(RAMP.astype(np.uint8), "JPEG")[:-40], "truncated|damaged"),
        (
            picture(Pillow.new("L", (64, 64)), save_all=True, append_images=[Pillow.new("L", (64, 64), 9)]),
            "animated",
        ),
    ],
)
def test_an_unusable_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(data)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"%PDF-1.7", b"\x00" * 500])
def test_bytes_of_no_known_kind_are_not_an_image(data: bytes) -> None:
    with pytest.raises(NotAnImage, match="'upload': expected a JPEG, PNG or DICOM"):
        read_image(data)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("TIFF", "a TIFF file"),
        ("BMP", "a BMP file"),
        ("WEBP", "a WebP file"),
        ("GIF", "a GIF file"),
        ("JPEG2000", "a JPEG 2000 file"),
        ("PDF", "a PDF file"),
    ],
)
def test_a_picture_of_another_kind_is_refused_by_its_name(kind: str, named: str) -> None:
    with pytest.raises(NotAnImage, match=f"got {named}; save the film as PNG first"):
        read_image(picture(RAMP.astype(np.uint8), kind))


def test_an_error_names_the_file_or_the_given_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.png'.*got nothing at this path"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="got a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="'frontal': "):
        read_image(b"?", name="frontal")


def test_the_pixel_limit_is_inclusive_and_can_be_set() -> None:
    data = picture(RAMP)

    assert read_image(data, max_pixels=RAMP.size).shape == RAMP.shape
    with pytest.raises(ImageError, match="expected at most 3071 pixels, got 64 x 48"):
        read_image(data, max_pixels=RAMP.size - 1)


def many_scans() -> bytes:
    film = picture(Pillow.effect_noise((64, 64), 50), "JPEG", progressive=True)
    return film[:-2] + film[film.rindex(b"\xff\xda") : -2] * 300 + film[-2:]


def wide_jpeg() -> bytes:
    film = bytearray(picture(RAMP.astype(np.uint8), "JPEG"))
    start = film.index(b"\xff\xc0")
    film[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    return bytes(film)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bomb(50_000, 50_000), "50000 x 50000"),
        (wide_jpeg(), "65535 x 65535"),
        (many_scans(), "few scans"),
        (dicom(NumberOfFrames=1_000_000), "NumberOfFrames 1, got 1000000"),
        (dicom(Rows=65_535, Columns=65_535), "65535 x 65535"),
    ],
)
def test_a_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch, data: bytes, reason: str) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("pixels were decoded")

    decoders = ["PIL.ImageFile.ImageFile.load", "imagecodecs.png_decode"]
    decoders += ["encoder.films.image.decode_jpeg", "encoder.films.dicom._decoded"]
    for decoder in decoders:
        monkeypatch.setattr(decoder, decoded)

    with pytest.raises(ImageError, match=reason):
        read_image(data)
    with pytest.raises(AssertionError, match="pixels were decoded"):
        read_image(picture(RAMP))


def test_mutated_files_are_films_or_are_refused() -> None:
    source = random.Random(2)
    grey = Pillow.fromarray((RAMP / 60).astype(np.uint8))
    seeds = [picture(grey), picture(grey, "JPEG"), picture(grey.convert("RGB"), "JPEG", progressive=True)]
    seeds += [picture(RAMP), dicom(), dicom(WindowCenter=900, WindowWidth=600)]

    assert all(is_film_or_refused(mutated(seeds[i % len(seeds)], source)) for i in range(240))


def inflating_texts(count: int) -> bytes:
    """Return a PNG with so many texts that each inflate to a megabyte and say to be EXIF."""
    content = b"Raw profile type exif\0\0" + zlib.compress(bytes(10**6), 9)
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    film = picture(RAMP)
    return film[:33] + chunk * count + film[33:]


@pytest.mark.parametrize(
    "film",
    [
        picture(RAMP.astype(np.uint8), "JPEG")[:-2] + b"\xff" * 4_000_000 + b"\0" * 9,
        picture(RAMP.astype(np.uint8), "JPEG")[:2] + b"\xff" * 4_000_000,
        b"\xff\xd8" + (b"\xff\xe1\xff\xffExif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1" * 65_517) * 300,
        inflating_texts(20_000),
    ],
    ids=["fill bytes in a scan", "fill bytes", "EXIF", "texts"],
)
def test_what_is_no_pixel_is_gone_through_once(film: bytes) -> None:
    """Each took from seconds to hours where the time grows with the square, or with what a text inflates to."""
    begun = time.process_time()

    assert is_film_or_refused(film)

    assert time.process_time() - begun < 5


GREY = (RAMP / 60).astype(np.uint8)


@pytest.mark.parametrize(
    ("given", "file"),
    [
        (GREY, picture(GREY)),
        (np.stack([GREY] * 3, axis=2), picture(GREY)),
        (RAMP + 100, picture(RAMP + 100)),
        (RAMP.astype(np.int32) - 2000, picture(RAMP)),
        (GREY / 255, picture(GREY)),
        (Pillow.fromarray(GREY), picture(GREY)),
        (Pillow.fromarray(RAMP + 100), picture(RAMP + 100)),
    ],
    ids=["uint8", "RGB", "uint16", "negative", "float", "Pillow", "Pillow of 16 bits"],
)
def test_pixels_at_hand_are_read_as_a_file_of_them(given: np.ndarray | Pillow.Image, file: bytes) -> None:
    np.testing.assert_allclose(read_image(given), read_image(file), atol=1e-6)


def test_a_pillow_image_is_turned_as_its_exif_says_and_what_is_given_stays_as_it_is() -> None:
    turned, exif = Pillow.fromarray(GREY), Pillow.Exif()
    exif[0x0112] = 3
    turned.info["exif"] = exif.tobytes()
    floats = GREY.astype(np.float32) / 255

    np.testing.assert_array_equal(read_image(turned), read_image(picture(GREY[::-1, ::-1])))
    assert read_image(floats) is not floats
    assert read_image(floats).base is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (GREY.astype(np.float64), "divide by the greatest"),
        (GREY[None], "expected an array"),
        (GREY > 3, "expected an array"),
        (np.full((64, 64), np.nan), "finite"),
        (np.zeros((64, 64), np.uint8), "contrast"),
        (np.zeros((8, 8), np.uint8), "both sides"),
        (Pillow.new("CMYK", (64, 64)), "mode 'CMYK'"),
    ],
)
def test_pixels_that_are_no_film_are_refused_in_a_sentence(given: np.ndarray | Pillow.Image, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(given)
