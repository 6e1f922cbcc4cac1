"""Maps of networks whose features are no plain maps: tokens of patches, and channels that come last."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.preprocess import Preprocessing
from encoder.maps.cam import cam_of
from encoder.maps.explain import Explainer
from encoder.network.config import EncoderConfig
from encoder.network.single import SingleEncoder

SIDE = 128
QUARTER = SIDE // 4
NETWORKS = {
    "class token": ("test_vit", (("global_pool", "token"), ("img_size", SIDE))),
    "attention": ("test_vit3", (("img_size", SIDE),)),
    "rotary": ("eva02_tiny_patch14_224", (("img_size", SIDE), ("patch_size", 16), ("ref_feat_shape", (8, 8)))),
    "channels last": ("test_mambaout", ()),
}
TOKENS = ["class token", "attention", "rotary"]


def lively(network: nn.Module) -> nn.Module:
    """Give a network weights under which films differ, as after training: at first layers hardly change a token."""
    chance = torch.Generator().manual_seed(1)
    for name, weight in network.named_parameters():
        noise = torch.randn(weight.shape, generator=chance)
        scale = noise / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.2 * noise
        weight.data = scale + (1.0 if weight.ndim == 1 and not name.endswith("bias") else 0.0)
    return network


def encoder_of(kind: str) -> SingleEncoder:
    network, options = NETWORKS[kind]
    encoder = SingleEncoder(EncoderConfig("single", network, embedding_dim=0, pooling="own", options=options)).eval()
    lively(encoder.backbones[0])
    return encoder


def planted(row: int, column: int) -> tuple[Tensor, Tensor]:
    """Return a film (1, C, S, S) of soft noise without and with a chequered box in one of its 4 x 4 parts."""
    chance = torch.Generator().manual_seed(4 * row + column)
    soft = nn.functional.interpolate(torch.randn(1, 3, 8, 8, generator=chance), size=SIDE, mode="bilinear") / 2
    box = torch.sign(torch.randn(1, 3, 8, 8, generator=chance)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    film = soft.clone()
    film[:, :, row * QUARTER : (row + 1) * QUARTER, column * QUARTER : (column + 1) * QUARTER] += 3 * box
    return soft, film


@pytest.mark.parametrize("kind", TOKENS)
def test_a_planted_box_is_hottest_and_hiding_it_costs_most(kind: str) -> None:
    encoder = encoder_of(kind)
    for row, column in [(0, 1), (2, 3), (3, 0)]:
        soft, film = planted(row, column)
        places = [(down, right) for down in range(4) for right in range(4)]
        hidden = film.repeat(16, 1, 1, 1)
        for number, (down, right) in enumerate(places):
            rows, columns = (slice(at * QUARTER, (at + 1) * QUARTER) for at in (down, right))
            hidden[number, :, rows, columns] = soft[0, :, rows, columns]
        with torch.no_grad():
            weight = (encoder(film) - encoder(soft))[0]
            lost = (encoder(film) @ weight - encoder(hidden) @ weight).numpy()

        heat = cam_of(encoder, {"frontal": film}, lambda embeddings, weight=weight: embeddings @ weight, "gradcam")

        parts = heat["frontal"].reshape(4, QUARTER, 4, QUARTER).mean(axis=(1, 3))
        assert places[int(lost.argmax())] == (row, column)
        assert places[int(parts.argmax())] == (row, column)


@pytest.mark.parametrize("kind", TOKENS)
def test_the_last_block_on_a_tape_gives_what_the_whole_network_gives_and_leaves_it_as_it_was(kind: str) -> None:
    encoder, film = encoder_of(kind), planted(1, 1)[1]
    before = list(encoder.backbones[0].blocks)  # type: ignore[arg-type]
    with torch.inference_mode():
        expected = encoder.forward_features(film, 0)

    last, tokens = encoder.forward_tape(film, 0)

    torch.testing.assert_close(last.detach(), expected)
    gradient = torch.autograd.grad(encoder.forward_head(last, last).sum(), tokens)[0]
    patches = encoder.as_map(gradient, 0)
    assert patches.shape == (1, tokens.shape[2], 8, 8)
    assert float(patches.abs().max()) > 0
    assert list(encoder.backbones[0].blocks) == before  # type: ignore[arg-type]


def test_of_channels_that_come_last_the_map_is_the_one_worked_out_by_hand() -> None:
    encoder, film = encoder_of("channels last"), planted(1, 1)[1]
    features = encoder.forward_features(film, 0).detach().requires_grad_()  # (1, h, w, F)
    value = encoder.forward_head(features, features)[0, 0]
    gradient = torch.autograd.grad(value, features)[0][0]

    heat = cam_of(encoder, {"frontal": film}, lambda embeddings: embeddings[:, 0], "gradcam")["frontal"]

    by_hand = (features[0] * gradient.mean(dim=(0, 1))).sum(-1).relu().detach().numpy()  # (h, w)
    whole = cv2.resize(by_hand / by_hand.max(), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    assert by_hand.max() > 0
    np.testing.assert_allclose(heat, whole, atol=1e-5)


@pytest.mark.parametrize("kind", ["class token", "channels last"])
def test_a_stage_of_a_network_without_plain_maps_is_refused(kind: str) -> None:
    film = planted(0, 0)[1]
    with pytest.raises(EncoderError, match="expected a stage of a network of maps, got stage 1 of 'test_"):
        cam_of(encoder_of(kind), {"frontal": film}, lambda embeddings: embeddings[:, 0], "gradcam", 1)


def test_a_cell_of_tokens_is_a_patch_and_follows_how_the_film_became_a_square() -> None:
    encoder = encoder_of("class token")
    cells = {
        fit: Explainer(Embedder(encoder, Preprocessing(size=SIDE, fit=fit), device="cpu")).cell((256, 512))  # type: ignore[arg-type]
        for fit in ("crop", "letterbox", "squash")
    }
    assert cells == {"crop": (32, 32), "letterbox": (64, 64), "squash": (32, 64)}
    assert np.isfinite(list(cells.values())).all()
