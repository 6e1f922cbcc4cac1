"""The dual encoder as its design has it: sizes, unit norm, one film for both branches."""

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.errors import EncoderError
from encoder.network.config import EncoderConfig
from encoder.network.model import DualEfficientNetEncoder, count_parameters

BACKBONES = {
    "efficientnet_b4": 1792,
    "tf_efficientnetv2_s": 1280,
    "tf_efficientnetv2_b0": 1280,
    "densenet121": 1024,
    "resnet50": 2048,
    "resnetv2_50": 2048,
}


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def films(count: int, seed: int = 0, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("dim", "shared", "expected"),
    [
        (512, False, 13_271_800),
        (384, False, 12_319_608),
        (256, False, 11_564_024),
        (512, True, 9_264_252),
        (384, True, 8_312_060),
        (256, True, 7_556_476),
    ],
)
def test_the_parameters_of_the_design_are_counted(dim: int, shared: bool, expected: int) -> None:
    # By hand: B0 4,007,548 a branch; extractor 1280 -> 1024 -> D; fusion 2D -> 2D -> D; 2 a BatchNorm channel.
    extractor = 1281 * 1024 + 2 * 1024 + 1025 * dim + 2 * dim
    fusion = (2 * dim + 1) * 2 * dim + 4 * dim + (2 * dim + 1) * dim + 2 * dim
    assert expected == 4_007_548 * (1 if shared else 2) + 2 * extractor + fusion
    encoder = DualEfficientNetEncoder(EncoderConfig(embedding_dim=dim, use_shared_weights=shared))
    assert count_parameters(encoder) == expected


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 4))
def test_embeddings_have_unit_norm(tiny_encoder: DualEfficientNetEncoder, seed: int, count: int) -> None:
    embeddings = tiny_encoder(films(count, seed), films(count, seed + 1))
    assert embeddings.shape == (count, 256)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(count), atol=1e-5)


def test_one_film_goes_to_both_branches(tiny_encoder: DualEfficientNetEncoder) -> None:
    film = films(2)
    assert torch.equal(tiny_encoder(film), tiny_encoder(film, film))


def test_individual_features_end_in_the_embedding(tiny_encoder: DualEfficientNetEncoder) -> None:
    frontal, lateral = films(2, 1), films(2, 2)
    first, second, fused = tiny_encoder.get_individual_features(frontal, lateral)
    assert first.shape == second.shape == fused.shape == (2, 256)
    assert torch.equal(fused, tiny_encoder(frontal, lateral))
    assert not torch.allclose(first, second)


def test_features_and_head_make_the_forward_pass(tiny_encoder: DualEfficientNetEncoder) -> None:
    frontal, lateral = films(2, 1), films(2, 2)
    maps = tiny_encoder.forward_features(frontal, 0), tiny_encoder.forward_features(lateral, 1)
    assert torch.allclose(tiny_encoder.forward_head(*maps), tiny_encoder(frontal, lateral), atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_studies_that_point_into_a_stack_embed_like_pairs(shared: bool) -> None:
    config = EncoderConfig(backbone="test_efficientnet", embedding_dim=256, use_shared_weights=shared)
    encoder = DualEfficientNetEncoder(config).eval()
    stack, frontal, lateral = films(4), torch.tensor([0, 2, 3]), torch.tensor([1, 2, 0])
    expected = encoder(stack[frontal], stack[lateral])
    assert torch.allclose(encoder.forward_rows(stack, frontal, lateral), expected, atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_shared_weights_pass_a_single_film_once(shared: bool) -> None:
    config = EncoderConfig(backbone="test_efficientnet", embedding_dim=256, use_shared_weights=shared)
    encoder = DualEfficientNetEncoder(config).eval()
    passes: list[int] = []
    for backbone in encoder.backbones:
        backbone.register_forward_hook(lambda _module, args, _output: passes.append(len(args[0])))
    encoder(films(3))
    assert passes == ([3] if shared else [3, 3])


@pytest.mark.parametrize(("dim", "shared"), list(product((256, 512), (False, True))))
def test_every_weight_takes_part_in_learning(dim: int, shared: bool) -> None:
    config = EncoderConfig(backbone="test_efficientnet", embedding_dim=dim, use_shared_weights=shared, dropout=0.0)
    encoder = DualEfficientNetEncoder(config).train()
    with torch.enable_grad():
        (encoder(films(4, 1), films(4, 2)) @ torch.randn(dim)).sum().backward()
    assert all(weight.grad is not None and torch.isfinite(weight.grad).all() for weight in encoder.parameters())


@pytest.mark.parametrize("backbone", ["test_efficientnet", "resnet10t"])
def test_pooling_is_the_mean_or_half_of_it_and_of_the_greatest(backbone: str) -> None:
    for pooling, share in (("avg", 0.0), ("avgmax", 0.5)):
        config = EncoderConfig(backbone=backbone, embedding_dim=256, pooling=pooling)
        encoder = DualEfficientNetEncoder(config).eval()
        with torch.inference_mode():
            maps = encoder.forward_features(films(2), 0)  # (2, F, h, w)
            expected = (1 - share) * maps.mean(dim=(2, 3)) + share * maps.amax(dim=(2, 3))
            torch.testing.assert_close(encoder.pool_map(maps, 0, 0), expected)


@pytest.mark.parametrize("change", [{"embedding_dim": 300}, {"dropout": 0.6}, {"dropout": -0.1}, {"pooling": "most"}])
def test_a_configuration_outside_the_design_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(EncoderError, match=next(iter(change))):
        EncoderConfig(**change)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "features"), BACKBONES.items())
def test_any_timm_backbone_brings_its_own_feature_count(backbone: str, features: int) -> None:
    encoder = DualEfficientNetEncoder(EncoderConfig(backbone=backbone, use_shared_weights=True)).eval()
    assert encoder.num_features == features
    assert encoder(films(1)).shape == (1, 512)
