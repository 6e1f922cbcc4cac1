"""DICOM films made here and real ones: order of steps, polarity, and every refusal."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_files import RAMP, ROUNDED, called_chest, dicom, is_film_or_refused, mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from encoder.errors import ImageError
from encoder.films.body_part import part_elsewhere
from encoder.films.image import read_image


def region(meaning: str) -> Dataset:
    code = Dataset()
    code.CodeMeaning = meaning
    return code


def test_a_dicom_film_is_stretched_to_its_range() -> None:
    np.testing.assert_allclose(read_image(dicom(RAMP + 500)), RAMP / 3780, atol=ROUNDED)


def test_signed_values_and_rescale_keep_their_order() -> None:
    signed = RAMP.astype(np.int16) - 2000

    np.testing.assert_allclose(read_image(dicom(signed)), RAMP / 3780, atol=ROUNDED)
    np.testing.assert_allclose(
        read_image(dicom(RAMP, RescaleSlope=-1, RescaleIntercept=9)), 1 - RAMP / 3780, atol=ROUNDED
    )


@pytest.mark.parametrize(
    "keyword", ["RescaleSlope", "RescaleIntercept", "VOILUTFunction", "WindowCenter", "WindowWidth"]
)
def test_a_tag_that_was_emptied_is_as_good_as_not_there(keyword: str) -> None:
    np.testing.assert_array_equal(read_image(dicom(RAMP, **{keyword: ""})), read_image(dicom(RAMP)))


def test_the_first_window_is_applied_before_the_inversion() -> None:
    film = read_image(dicom(PhotometricInterpretation="MONOCHROME1", WindowCenter=[900, 5], WindowWidth=[600, 5]))

    assert (film[RAMP < 600] == 1).all()
    assert (film[RAMP > 1200] == 0).all()
    assert film[0, 15] == pytest.approx(0.5, abs=0.01)


def test_padding_is_black_and_does_not_count_for_the_range() -> None:
    padded = RAMP.copy()
    padded[:, :8] = 65_000

    film = read_image(dicom(padded, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=65_000))

    assert (film[:, :8] == 0).all()
    assert film[0, 8] == 1


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        (
            {"PhotometricInterpretation": "CMYK"},
            "'CMYK' is not a radiograph; expected MONOCHROME1 or MONOCHROME2",
        ),
        ({"Modality": "CT"}, "Modality 'CT' is not a radiograph"),
        ({"BodyPartExamined": "HAND"}, "body part 'HAND' is not the chest; .* correct a header that is wrong"),
        ({"AnatomicRegionSequence": [region("Lower leg")]}, "body part 'LEG' is not the chest"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel 1, got 3"),
        ({"Rows": 0}, "Rows 1 to 65535, got 0"),
        ({"Rows": 47}, "bytes of pixels for 64 x 47"),
        ({"BitsAllocated": 32}, "BitsAllocated 8 or 16, got 32"),
        ({"PixelData": None}, "expected PixelData"),
        ({"WindowCenter": 60_000, "WindowWidth": 2}, "one value everywhere inside its window"),
    ],
)
def test_an_unusable_dicom_is_refused_with_its_reason(elements: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(dicom(**elements))


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([8, 10, 12, 16]))
def test_monochrome1_and_its_inverse_read_alike(source: random.Random, bits: int) -> None:
    pixels = np.array([[source.getrandbits(bits) for _ in range(32)] for _ in range(32)], dtype=np.uint16)
    pixels[0, :2] = 0, 1
    inverse = ((1 << bits) - 1 - pixels).astype(np.uint16)

    bright = read_image(dicom(pixels, BitsStored=bits, HighBit=bits - 1))
    dark = read_image(dicom(inverse, BitsStored=bits, HighBit=bits - 1, PhotometricInterpretation="MONOCHROME1"))

    assert (bright.min(), bright.max()) == (0, 1)
    np.testing.assert_allclose(bright, dark, atol=2 * ROUNDED)


def test_mutated_real_dicom_files_are_films_or_are_refused(shared_data: Path) -> None:
    source = random.Random(3)
    seeds = [path.read_bytes() for path in sorted((shared_data / "dicom").glob("*/*.dcm"))]

    assert all(is_film_or_refused(mutated(seeds[i % len(seeds)], source)) for i in range(48))


@pytest.mark.parametrize("part", [None, "CHEST", "CHEST_HAND", "CHESTABDOMEN", "TORAX", "W033", "RIBS"])
def test_a_header_that_names_no_part_elsewhere_is_read(part: str | None) -> None:
    told = {} if part is None else {"BodyPartExamined": part, "AnatomicRegionSequence": [region("Hand")]}

    assert read_image(dicom(**told)).shape == RAMP.shape


@pytest.mark.parametrize(
    ("stated", "word"),
    [
        ("EXTREMITY", "EXTREMITY"),
        ("Both knees", "KNEE"),
        ("C-SPINE", "SPINE"),
        ("THORACIC SPINE", "SPINE"),
        ("Left foot/AP", "FOOT"),
        ("CHEST PA", None),
        ("THORAX LUNGS", None),
        ("BODY", None),
        ("", None),
    ],
)
def test_only_a_plain_word_of_another_part_counts(stated: str, word: str | None) -> None:
    assert part_elsewhere(stated) == word


def test_every_real_chest_is_read_but_the_nonconformant_one_and_other_parts_are_refused(shared_data: Path) -> None:
    refused: dict[str, str] = {}
    for path in sorted((shared_data / "dicom").glob("*/*.dcm")):
        try:
            film = read_image(path)
        except ImageError as error:
            refused[f"{path.parent.name}/{path.name}"] = str(error)
        else:
            assert (film.min(), film.max()) == (0, 1)
    elsewhere = [name for name, reason in refused.items() if "is not the chest" in reason]

    assert [name for name in refused if name not in elsewhere] == [
        "chest/pylibjpeg_966_DX_J2Klossless_mono1_12bit_nonconformant.dcm"
    ]
    assert elsewhere == [f"not-chest/{path.name}" for path in sorted((shared_data / "dicom/not-chest").iterdir())]


def test_one_tibia_in_five_encodings_is_one_film(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "not-chest"

    kinds = ("RLE", "J2KR", "JLSL", "JPLL", "JPLY")
    *exact, lossy = (read_image(called_chest(folder / f"nema_RG3_{kind}.dcm")) for kind in kinds)

    assert all(np.array_equal(exact[0], other) for other in exact[1:])
    assert np.abs(lossy - exact[0]).max() < 0.06
