"""The way from a film to a network's input and back."""

import dataclasses
import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from film_files import mean_over_areas
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.errors import EncoderError, ImageError
from encoder.films.plane import Plane, as_deep_plane, as_image, deep, resized, shallow
from encoder.films.preprocess import Preprocessing


def film_of(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return a film of 8 bits made of whole numbers only, so that it has the same bits on every machine."""
    rows, columns = np.indices((height, width))
    return ((rows * 31 + columns * columns * 7 + (rows * columns) % 97) % 256).astype(np.uint8)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("shape", [(224, 184), (300, 41), (137, 300), (390, 320), (79, 65)])
def test_shrinking_is_the_mean_over_the_area(shape: tuple[int, int], bits: int) -> None:
    film = cv2.GaussianBlur(film_of(390, 320), (0, 0), 2)
    plane: Plane = film if bits == 8 else deep(film)

    found = resized(plane, shape)

    expected = mean_over_areas(as_image(film).astype(np.float64), shape)
    assert found.dtype == plane.dtype
    np.testing.assert_allclose(as_image(found), expected, atol=0.51 / (2**bits - 1) + 1e-5)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("shape", [(273, 224), (390, 101), (100, 319), (195, 160), (79, 65)])
def test_means_over_areas_are_those_of_opencv_and_a_part_of_them_is_cut_from_the_whole(
    shape: tuple[int, int], bits: int
) -> None:
    film = np.random.default_rng(bits).integers(0, 1 << bits, (390, 320)).astype(f"u{bits // 8}")
    part = (slice(9, shape[0] - 4), slice(3, 60))

    found = resized(film, shape)

    expected = cv2.resize(film, shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - expected).max() <= 1  # 0 where the processor rounds each product
    assert (found == expected).mean() > 0.999
    np.testing.assert_array_equal(resized(film, shape, part), found[part])


@pytest.mark.parametrize("shape", [(2828, 2320), (1955, 1841), (1201, 1600)])
def test_a_large_film_is_halved_first_and_stays_the_mean_over_the_area_nearly(shape: tuple[int, int]) -> None:
    film = cv2.GaussianBlur(film_of(*shape), (0, 0), 8)

    found = as_image(resized(deep(film), (224, 190)))

    assert np.abs(found - mean_over_areas(as_image(film).astype(np.float64), (224, 190))).max() < 0.01


def test_growing_is_linear_between_pixel_centres() -> None:
    rows, columns = np.indices((40, 60))
    slope = (rows * 500 + columns * 700).astype(np.uint16)

    grown = resized(slope, (80, 120))

    np.testing.assert_allclose(grown[20:60:2, 20:100:2], slope[10:30, 10:50] - 0.25 * (500 + 700), atol=1)


def test_an_axis_that_grows_leaves_the_other_the_mean_over_the_area() -> None:
    film = np.repeat(film_of(1, 320), 40, axis=0)

    found = resized(film, (64, 64))

    np.testing.assert_allclose(found[30], mean_over_areas(film[:1].astype(np.float64), (1, 64))[0], atol=0.51)


def test_a_film_keeps_its_bits_until_it_is_normalised() -> None:
    fine = np.full((300, 260), 20_001, np.uint16)

    assert (Preprocessing()(fine) == 20_001).all()
    assert Preprocessing()(shallow(fine)).dtype == np.uint8
    np.testing.assert_array_equal(shallow(deep(film_of(40, 50))), film_of(40, 50))
    np.testing.assert_array_equal(as_image(deep(film_of(40, 50))), as_image(film_of(40, 50)))


@pytest.mark.parametrize("bits", [8, 16])
def test_one_film_is_normalised_for_each_channel(bits: int) -> None:
    three, one = Preprocessing(), Preprocessing(mean=(0.5,), std=(0.25,))
    grey = np.full((300, 260), 0.2 * (2**bits - 1), np.uint8 if bits == 8 else np.uint16)

    normalized = three.normalized(three(grey))

    np.testing.assert_allclose(normalized[:, 100, 100], (0.2 - np.array(three.mean)) / three.std, atol=1e-4)
    assert normalized.shape == (3, 224, 224)
    assert one.normalized(one(grey)).shape == (1, 224, 224)
    assert one.normalized(one(grey))[0, 100, 100] == pytest.approx(-1.2, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(32, 400),
    st.integers(32, 400),
    st.sampled_from(["crop", "letterbox", "squash"]),
    st.sampled_from([64, 97]),
)
def test_any_film_becomes_a_finite_square_and_returns_to_its_shape(h: int, w: int, fit: str, size: int) -> None:
    prepare = Preprocessing(fit=fit, size=size, mean=(0.5,), std=(0.5,))  # type: ignore[arg-type]

    square = prepare(film_of(h, w))
    back = prepare.undo(np.ones((size, size), np.float32), (h, w))

    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    assert back.shape == (h, w)
    assert back.dtype == np.float32
    assert (back == 1).sum() == np.prod(prepare.film_box((h, w)).shape)
    assert fit == "crop" or (back == 1).all()


@pytest.mark.parametrize("fit", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize("shape", [(390, 320), (200, 448)])
def test_undo_puts_a_spot_back_where_it_was(fit: str, shape: tuple[int, int]) -> None:
    prepare = Preprocessing(fit=fit, mean=(0.0,), std=(1.0,))  # type: ignore[arg-type]
    rows, columns = np.indices(shape)
    spot = np.exp(-((rows - 120) ** 2 + (columns - 180) ** 2) / 200).astype(np.float32)

    back = prepare.undo(as_image(prepare(as_deep_plane(spot))), shape)

    row, column = np.unravel_index(int(back.argmax()), shape)
    assert abs(int(row) - 120) <= 2
    assert abs(int(column) - 180) <= 2


def test_a_crop_leaves_zero_outside_what_the_network_saw() -> None:
    back = Preprocessing().undo(np.ones((224, 224), np.float32), (390, 320))

    assert Preprocessing().film_box((390, 320)) == (34, 0, 354, 320)
    assert (back[34:354] == 1).all()
    assert not back[:34].any()
    assert not back[354:].any()


@pytest.mark.parametrize("shape", [(512, 512), (700, 520), (400, 900)])
def test_a_margin_cuts_the_centre_out_of_a_film_that_is_brought_to_a_larger_side(shape: tuple[int, int]) -> None:
    whole = Preprocessing(size=512, mean=(0.0,), std=(1.0,))(film_of(*shape))
    prepare = Preprocessing(size=448, margin=32, mean=(0.0,), std=(1.0,))

    np.testing.assert_array_equal(prepare(film_of(*shape)), whole[32:-32, 32:-32])

    seen = prepare.film_box(shape).shape
    assert np.abs(np.subtract(seen, prepare.square_on_film(shape))).max() <= 1
    assert prepare.film_box((512, 512)) == (32, 32, 480, 480)


def test_a_squashed_film_is_seen_whole_in_other_proportions() -> None:
    prepare = Preprocessing(size=64, fit="squash", mean=(0.0,), std=(1.0,))

    np.testing.assert_array_equal(prepare(film_of(128, 320)), resized(film_of(128, 320), (64, 64)))
    assert prepare.film_box((128, 320)) == (0, 0, 128, 320)
    assert prepare.square_on_film((128, 320)) == (128, 320)


@pytest.mark.parametrize("contrast", ["clahe", "equalize"])
def test_contrast_widens_a_flat_film(contrast: str) -> None:
    flat = film_of(300, 300) // 5 + 102
    plain = Preprocessing(mean=(0.0,), std=(1.0,))

    enhanced = dataclasses.replace(plain, contrast=contrast)  # type: ignore[arg-type]

    assert enhanced(flat).std() > 1.3 * plain(flat).std()


def test_json_and_back_is_the_same_value_with_the_same_digest() -> None:
    prepare = Preprocessing(size=320, fit="letterbox", contrast="clahe", mean=(0.5,) * 3, std=(0.5,) * 3)

    again = Preprocessing.from_json(prepare.to_json())

    assert again == prepare
    assert again.digest() == prepare.digest()
    assert len({prepare.digest(), Preprocessing().digest()}) == 2


def test_a_margin_is_stated_only_where_there_is_one_and_may_be_absent() -> None:
    prepare = Preprocessing(margin=16)

    assert "margin" not in Preprocessing().to_json()
    assert Preprocessing.from_json(Preprocessing().to_json()) == Preprocessing()
    assert Preprocessing.from_json(prepare.to_json()) == prepare
    assert prepare.digest() != Preprocessing().digest()


def test_the_default_digest_never_changes_unnoticed() -> None:
    assert Preprocessing().digest().startswith("642448406c19683b")
    assert Preprocessing(version=1).digest().startswith("16ab18a150fb5f2f")


def test_films_for_an_encoder_of_version_1_are_prepared_as_for_one_of_version_2() -> None:
    old = Preprocessing.from_json(Preprocessing(version=1).to_json())

    assert old.version == 1
    np.testing.assert_array_equal(old(film_of(390, 320)), Preprocessing()(film_of(390, 320)))


@pytest.mark.parametrize(
    "change",
    [
        {"colour": 1},
        {"version": 3},
        {"version": 0},
        {"version": True},
        {"margin": 113},
        {"margin": -1},
        {"margin": True},
        {"margin": 16, "fit": "squash"},
        {"size": 224.0},
        {"size": 0},
        {"fit": "stretch"},
        {"contrast": None},
        {"mean": "abc"},
        {"mean": [0.5, 0.5]},
        {"std": [1, 1, 0]},
        {"std": [1, 1, float("nan")]},
        {"std": [1, 1, True]},
    ],
)
def test_a_wrong_value_in_json_is_refused(change: dict[str, object]) -> None:
    values = json.loads(Preprocessing().to_json()) | change

    with pytest.raises(EncoderError, match="expected preprocessing"):
        Preprocessing.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"size": 224}'])
def test_json_that_is_no_whole_preprocessing_is_refused(text: str) -> None:
    with pytest.raises(EncoderError, match="expected"):
        Preprocessing.from_json(text)


@pytest.mark.parametrize(
    "film",
    [
        np.zeros((3, 64, 64), np.uint8),
        np.zeros((0, 64), np.uint8),
        np.zeros((64, 64), np.float32),
        np.zeros((64, 64), np.int16),
    ],
)
def test_what_is_no_film_is_refused(film: npt.NDArray[Any]) -> None:
    with pytest.raises(ImageError, match="expected a film"):
        Preprocessing()(film)
