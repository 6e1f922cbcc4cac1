import pytest
import torch
from torch import Tensor

from encoder.errors import RecipeError
from encoder.training.augment import Augmentation, augment, draw, hide_views, mix_share

STILL = Augmentation(rotation=0, shift=0, scale=0, brightness=0, contrast=0)


def _films(count: int = 64) -> Tensor:
    """Return blurred noise with its bright half on the left."""
    noise = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    films = torch.nn.functional.interpolate(noise, size=32, mode="bilinear")
    films[..., 16:] *= 0.3
    return films


def _chance(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _augmented(films: Tensor, options: Augmentation, generator: torch.Generator) -> Tensor:
    return augment(films, options, draw(len(films), options, generator))


def test_the_same_chance_gives_the_same_films_and_another_gives_others() -> None:
    films = _films()

    first, again, other = (_augmented(films, Augmentation(), _chance(seed)) for seed in (7, 7, 8))

    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.05)


def test_films_stay_in_range_and_shape() -> None:
    wild = Augmentation(rotation=45, shift=0.3, scale=0.3, brightness=0.9, contrast=0.9, quarter_turns=True)

    changed = _augmented(_films(), wild, _chance())

    assert changed.shape == (64, 1, 32, 32)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_no_option_leaves_the_films_alone() -> None:
    films = _films()

    assert torch.allclose(_augmented(films, STILL, _chance()), films, atol=1e-5)


def test_a_smaller_film_is_the_same_film_whatever_is_changed_in_it() -> None:
    films, options = _films(), Augmentation(erasing=0.5)
    draws = draw(len(films), options, _chance())

    whole, half = (augment(films, options, draws, side) for side in (32, 16))

    assert half.shape == (64, 1, 16, 16)
    assert (torch.nn.functional.avg_pool2d(whole, 2) - half).abs().mean() < 0.02


def test_the_default_never_mirrors_a_chest() -> None:
    changed = _augmented(_films(256), Augmentation(), _chance())

    left, right = changed[..., :16].mean((1, 2, 3)), changed[..., 16:].mean((1, 2, 3))
    assert bool((left > right).all())


def test_a_flip_mirrors_a_film_exactly_and_at_its_rate() -> None:
    films = _films(400)
    options = Augmentation(rotation=0, shift=0, scale=0, brightness=0, contrast=0, horizontal_flip=0.5)

    changed = _augmented(films, options, _chance())

    mirrored = (changed - films.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    same = (changed - films).abs().amax((1, 2, 3)) < 1e-4
    assert bool((mirrored ^ same).all())
    assert 0.4 < mirrored.float().mean() < 0.6


def test_hiding_takes_one_view_at_most_and_leaves_single_films_alone() -> None:
    frontal, lateral = torch.arange(1000), torch.arange(1000) + 1000
    lateral[:100] = frontal[:100]

    seen = hide_views(frontal, lateral, Augmentation(hide_lateral=0.3, hide_frontal=0.1), _chance())

    assert torch.equal(seen[0][:100], frontal[:100])
    hidden_lateral, hidden_frontal = seen[1][100:] == frontal[100:], seen[0][100:] == lateral[100:]
    assert not bool((hidden_lateral & hidden_frontal).any())
    assert 0.25 < hidden_lateral.float().mean() < 0.35
    assert 0.06 < hidden_frontal.float().mean() < 0.14


def test_quarter_turns_turn_exactly_and_only_when_asked_for() -> None:
    films = _films(400)
    still = {"rotation": 0, "shift": 0, "scale": 0, "brightness": 0, "contrast": 0}

    changed = _augmented(films, Augmentation(**still, quarter_turns=True), _chance())

    turned = torch.stack([(changed - films.rot90(k, (2, 3))).abs().amax((1, 2, 3)) < 1e-4 for k in range(4)])
    assert bool((turned.sum(0) == 1).all())
    assert bool(((turned.float().mean(1) - 0.25).abs() < 0.07).all())
    assert (Augmentation().horizontal_flip, Augmentation().quarter_turns) == (0, False)


def test_erasing_blackens_one_square_within_its_bounds_and_at_its_rate() -> None:
    options = Augmentation(
        rotation=0, shift=0, scale=0, brightness=0, contrast=0, erasing=0.5, erasing_least=0.25, erasing_most=0.5
    )

    changed = _augmented(torch.ones(400, 1, 32, 32), options, _chance())[:, 0]

    black = changed == 0
    erased = black.any((1, 2))
    assert 0.4 < erased.float().mean() < 0.6
    heights, widths = (black.any(axis).sum(1)[erased] for axis in (2, 1))
    assert torch.equal(heights * widths, black.sum((1, 2))[erased])  # a rectangle
    assert int((heights - widths).abs().max()) <= 1
    assert 7 <= int(heights.min()) < int(heights.max()) <= 17


def test_what_is_off_draws_nothing_so_that_older_runs_go_on_as_they_began() -> None:
    plain, erasing = _chance(), _chance()

    expected, found = draw(5, Augmentation(), plain), draw(5, Augmentation(erasing=0.5), erasing)

    assert torch.equal(expected, torch.rand(5, 8, generator=_chance()) * 2 - 1)
    assert torch.equal(found[:, :8], expected)
    assert mix_share(Augmentation(), plain) == 1
    assert torch.equal(torch.rand(3, generator=plain), torch.rand(5 * 8 + 3, generator=_chance())[-3:])


@pytest.mark.parametrize("options", [{"erasing": 1.5}, {"mix_up": -1.0}, {"erasing_least": 0.6}])
def test_what_cannot_be_erased_or_mixed_is_told(options: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="expected erasing"):
        Augmentation(**options)  # type: ignore[arg-type]
