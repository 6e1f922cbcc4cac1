"""A film's layout: what it is blind to, what it tells apart, and that it stays in its range."""

import numpy as np
import numpy.typing as npt
import pytest

from encoder.films.layout import layout_of, study_layouts
from encoder.films.plane import as_deep_plane
from encoder.films.study import StudyFilms

Film = npt.NDArray[np.uint16]


@pytest.fixture
def film(rng: np.random.Generator) -> Film:
    """Return a smooth film (96, 96) of 16 bits."""
    coarse = rng.random((6, 6)).repeat(16, axis=0).repeat(16, axis=1)
    return as_deep_plane(coarse)


def cosine(one: npt.NDArray[np.int8], other: npt.NDArray[np.int8]) -> float:
    first, second = one.astype(float), other.astype(float)
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_each_part_of_a_layout_has_no_mean_and_one_length(film: Film) -> None:
    layout = layout_of(film)
    brightness, edges = layout[:64].astype(float), layout[64:].astype(float)
    assert (layout.shape, layout.dtype) == ((192,), np.int8)
    assert np.linalg.norm(brightness) == pytest.approx(127, abs=3)
    assert np.linalg.norm(edges) == pytest.approx(127, abs=6)
    assert max(abs(brightness.mean()), abs(edges.mean())) < 0.5


def test_exposure_and_scale_do_not_count(film: Film) -> None:
    assert np.abs(layout_of(film) - layout_of(film // 3 + np.uint16(9_000)).astype(int)).max() <= 1
    larger = film.repeat(2, axis=0).repeat(2, axis=1)
    assert cosine(layout_of(film), layout_of(larger)) > 0.999


def test_a_turned_or_inverted_film_has_another_layout(film: Film) -> None:
    upright = layout_of(film)
    turned = layout_of(np.ascontiguousarray(np.rot90(film)))
    assert cosine(upright, turned) < 0.7
    assert np.array_equal(layout_of(65535 - film)[:64], -upright[:64])


def test_edges_are_told_from_brightness_and_by_their_direction() -> None:
    stripes = np.zeros((48, 48), dtype=np.uint8)
    stripes[:, :24:2] = 255  # fine, upright, in the left half
    layout = layout_of(stripes)
    down, across = layout[64:128].reshape(8, 8), layout[128:].reshape(8, 8)
    assert np.ptp(down) == 0
    assert across[:, :4].min() > across[:, 5:].max()


def test_a_film_of_one_value_has_an_empty_layout() -> None:
    assert not layout_of(np.full((64, 64), 120, dtype=np.uint8)).any()


def test_a_study_has_a_layout_a_film_the_frontal_first(film: Film) -> None:
    frontal, lateral = film, film[::-1].copy()
    both = study_layouts(StudyFilms(frontal, lateral))
    assert [layout.tobytes() for layout in both] == [layout_of(one).tobytes() for one in (frontal, lateral)]
    assert len(study_layouts(StudyFilms(None, lateral))) == 1
