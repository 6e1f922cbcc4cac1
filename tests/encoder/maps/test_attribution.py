import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from encoder.errors import EncoderError
from encoder.maps.attribution import METHODS, pixel_attribution
from encoder.network.model import DualEfficientNetEncoder

BLACK = torch.full((1, 3, 1, 1), -2.0)


def number(embeddings: Tensor) -> Tensor:
    return 20 * embeddings[:, 0]


def forward(films: Tensor, others: Tensor) -> Tensor:
    """A number of two films that is curved in both and is 0 for black ones."""
    return ((films + 2) ** 2).mean(dim=(1, 2, 3)) + ((others + 2) ** 3).mean(dim=(1, 2, 3))


def two_films() -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, 24, 24, generator=made), torch.randn(1, 3, 24, 24, generator=made)


def test_integrated_gradients_share_out_the_whole_number() -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    films = two_films()

    found = METHODS["integrated_gradients"](forward, films, BLACK)

    assert float(sum(one.sum() for one in found)) == pytest.approx(float(forward(*films)), rel=1e-3)


def test_gradient_shap_comes_to_what_captum_comes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    monkeypatch.setattr("encoder.maps.attribution.STEPS", 400)
    films = two_films()
    grounds = tuple(torch.cat([BLACK, film.mean(dim=(2, 3), keepdim=True)]).expand(2, 3, 24, 24) for film in films)

    found = METHODS["gradient_shap"](forward, films, BLACK)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)  # captum draws from NumPy's own source
        theirs = attr.GradientShap(forward).attribute(films, grounds, n_samples=400, stdevs=0.05)
    for one, other in zip(found, theirs, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
        assert float(one.sum()) == pytest.approx(float(other.sum()), rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_is_the_same_twice_and_leaves_the_processs_chance_alone(
    tiny_encoder: DualEfficientNetEncoder, method: str
) -> None:
    if method == "integrated_gradients":
        pytest.importorskip("captum", reason="captum is not installed")
    films = {"frontal": torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))}
    before = torch.get_rng_state(), np.random.get_state()[1].copy()

    first, second = (pixel_attribution(tiny_encoder, films, BLACK, number, method)["frontal"] for _ in "12")

    assert first.max() == 1
    np.testing.assert_allclose(first, second, atol=1e-5)
    torch.testing.assert_close(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_without_captum_one_sentence_says_how_to_get_it(
    tiny_encoder: DualEfficientNetEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, name, None)
    films = {"lateral": torch.zeros(1, 3, 64, 64)}

    with pytest.raises(EncoderError, match=r"expected captum .* pip install 'cxr-precedent\[explain\]'"):
        pixel_attribution(tiny_encoder, films, BLACK, number, "integrated_gradients")
    assert pixel_attribution(tiny_encoder, films, BLACK, number, "gradient_shap")["lateral"].shape == (64, 64)


def test_a_number_that_nothing_changes_gives_a_blank_map(tiny_encoder: DualEfficientNetEncoder) -> None:
    films = {"frontal": torch.randn(1, 3, 64, 64)}
    heat = pixel_attribution(tiny_encoder, films, BLACK, lambda values: 0 * values.sum(1), "gradient_shap")["frontal"]
    np.testing.assert_array_equal(heat, np.zeros((64, 64), np.float32))
