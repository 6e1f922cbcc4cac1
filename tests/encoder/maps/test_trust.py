from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.preprocess import Preprocessing
from encoder.films.study import StudyFilms
from encoder.maps.overlay import COLOURS, as_png, overlay
from encoder.maps.pointing import peak_in_box
from encoder.maps.trust import ChangedFilm, Trust, trust_of
from encoder.network.config import EncoderConfig
from encoder.network.single import build_encoder

CONFIGS = {
    "two branches": EncoderConfig(backbone="test_efficientnet", embedding_dim=256),
    "shared weights": EncoderConfig(backbone="test_efficientnet", embedding_dim=256, use_shared_weights=True),
    "single": EncoderConfig(architecture="single", backbone="test_efficientnet", embedding_dim=0),
    "given the view position": EncoderConfig(
        architecture="single", backbone="test_efficientnet", embedding_dim=0, position_input=True, pooling="avgmax"
    ),
}


def spot(side: int = 64, at: tuple[int, int] = (20, 40), size: int = 5) -> np.ndarray:
    heat = np.zeros((side, side), np.float32)
    cv2.circle(heat, at[::-1], size, 1.0, -1)
    return heat


def film_with(heat: np.ndarray) -> np.ndarray:
    return np.repeat(heat[None], 3, axis=0)


def brightness(films: Sequence[np.ndarray]) -> np.ndarray:
    """A number that depends on one spot of the film alone."""
    return np.array([film[0, 18:23, 38:43].mean() for film in films], np.float64)


def test_a_map_that_is_right_beats_a_random_one_and_a_wrong_one_does_not() -> None:
    film = film_with(spot())

    right, wrong = (trust_of(film, heat, brightness) for heat in (spot(size=9), spot(at=(50, 10), size=9)))

    assert right.deletion < 0.3 < 0.6 < right.random_deletion
    assert right.insertion > 0.9 > 0.6 > right.random_insertion
    assert wrong.deletion > right.deletion
    assert wrong.insertion < right.insertion


def test_a_number_that_does_not_move_gets_itself_four_times() -> None:
    found = trust_of(film_with(spot()), spot(), lambda films: np.full(len(films), 0.25))

    assert found == Trust(0.25, 0.25, 0.25, 0.25)


def test_the_scores_are_the_areas_under_the_curves() -> None:
    """A number that is the share of sharp pixels falls along a straight line as they are blurred, and rises likewise."""
    film = film_with(np.random.default_rng(0).random((64, 64)).astype(np.float32))

    found = trust_of(film, spot(), lambda films: np.array([(one == film).mean() for one in films]))

    assert (found.deletion, found.insertion) == pytest.approx((0.5, 0.5), abs=1e-3)


def test_the_same_map_gets_the_same_figures_twice() -> None:
    film = film_with(spot())
    assert trust_of(film, spot(), brightness) == trust_of(film, spot(), brightness)


@pytest.mark.parametrize("colours", COLOURS)
def test_an_overlay_colours_the_hot_place_and_leaves_the_cold_ones(colours: str) -> None:
    image = np.full((64, 64), 0.5, np.float32)

    picture = overlay(image, spot(), alpha=0.6, colours=colours)

    np.testing.assert_array_equal(picture[50, 10], [128, 128, 128])
    assert len(set(picture[20, 40].tolist())) > 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"colours": "rainbow"}, "colours inferno"),
        ({"heat": np.zeros((3, 3), np.float32)}, "shape"),
    ],
)
def test_an_overlay_that_cannot_be_is_refused(options: dict[str, object], sentence: str) -> None:
    wanted = {"heat": spot(), **options}
    with pytest.raises(EncoderError, match=sentence):
        overlay(np.zeros((64, 64), np.float32), **wanted)  # type: ignore[arg-type]


def test_a_map_comes_back_from_its_png_to_a_255th() -> None:
    heat = np.random.default_rng(0).random((20, 30)).astype(np.float32)

    back = cv2.imdecode(np.frombuffer(as_png(heat), np.uint8), cv2.IMREAD_UNCHANGED)

    np.testing.assert_allclose(back / 255, heat, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("box", "margin", "inside"),
    [
        ((38, 18, 42, 22), (0, 0), True),
        ((45, 18, 50, 22), (0, 0), False),
        ((45, 18, 50, 22), (0, 8), True),
        ((38, 28, 42, 30), (3, 0), False),
    ],
)
def test_a_peak_counts_within_the_grown_box(
    box: tuple[float, float, float, float], margin: tuple[float, float], inside: bool
) -> None:
    heat = cv2.GaussianBlur(spot(size=1), (0, 0), 2)
    assert peak_in_box(heat, [box], margin) is inside


def test_a_blank_map_never_points() -> None:
    assert not peak_in_box(np.zeros((9, 9), np.float32), [(0, 0, 9, 9)], (0, 0))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("views", "changed"), [("fl", "frontal"), ("fl", "lateral"), ("f", "frontal"), ("l", "lateral")]
)
def test_a_changed_study_has_the_number_of_its_own_embedding(
    kind: str, views: str, changed: str, rng: np.random.Generator
) -> None:
    torch.manual_seed(0)
    embedder = Embedder(build_encoder(CONFIGS[kind]), Preprocessing(size=32), device="cpu")
    names = [name for name in ("frontal", "lateral") if name[0] in views]
    films = {name: rng.integers(0, 256, (32, 32), np.uint8) for name in names}
    versions = list(rng.integers(0, 256, (11, 32, 32), np.uint8))
    normalized = embedder.preprocessing.normalized
    stacks = {name: torch.from_numpy(normalized(film))[None] for name, film in films.items()}

    weight = rng.normal(size=embedder.embedding_dim).astype(np.float32)

    studies = [
        StudyFilms(**({"frontal": None, "lateral": None} | films | {changed: film}), projection="PA")
        for film in versions
    ]
    changing = ChangedFilm(
        embedder.encoder, stacks, changed, lambda values: values @ torch.from_numpy(weight), studies[0].positions
    )

    found = changing([normalized(film) for film in versions])

    np.testing.assert_allclose(found, embedder.embed(studies) @ weight, atol=1e-5)
    assert np.ptp(found) > 1e-4
