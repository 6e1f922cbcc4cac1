"""A film without its tags: the same pixels, and of all else nothing."""

import io

import numpy as np
import pytest
from canary_films import MARKER, commented_jpeg, film_pixels, hidden_png
from film_files import dicom, picture
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from encoder.errors import ImageError
from encoder.films.bare import untagged
from encoder.films.image import read_image


def told_png() -> bytes:
    text = PngInfo()
    text.add_text("Patient", MARKER, zip=True)
    return picture(film_pixels(1), pnginfo=text)


def colour_jpeg() -> bytes:
    grey = Pillow.fromarray(film_pixels(1)).convert("RGB")
    return picture(grey, "JPEG", comment=MARKER, progressive=True)


@pytest.mark.parametrize(
    ("film", "ending"),
    [
        (commented_jpeg(film_pixels(1)), ".png"),
        (colour_jpeg(), ".png"),
        (told_png(), ".png"),
        (hidden_png(film_pixels(1)), ".png"),
        (picture(film_pixels(1).astype(np.uint16) * 16), ".png"),
        (dicom(InstitutionName=MARKER, PhotometricInterpretation="MONOCHROME1"), ".png"),
    ],
    ids=["JPEG", "JPEG of many scans", "PNG", "PNG of a palette", "deep PNG", "DICOM"],
)
def test_a_film_without_tags_reads_alike_and_names_nobody(film: bytes, ending: str) -> None:
    bare, suffix = untagged(film)

    assert suffix == ending
    np.testing.assert_allclose(read_image(bare), read_image(film), atol=0.51 / 65535)
    assert MARKER.encode() not in bare
    with Pillow.open(io.BytesIO(bare)) as shown:
        assert shown.info == {}
        assert shown.mode in ("L", "I;16")


def test_a_film_without_tags_is_its_own_copy() -> None:
    for film in (commented_jpeg(film_pixels(1)), told_png(), hidden_png(film_pixels(1)), dicom()):
        bare, suffix = untagged(film)

        assert untagged(bare) == (bare, suffix)


@pytest.mark.parametrize("film", [b"", b"text", dicom()[:-9]])
def test_what_is_no_film_is_refused(film: bytes) -> None:
    with pytest.raises(ImageError, match="'frontal'"):
        untagged(film, "frontal")
