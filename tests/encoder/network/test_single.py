from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from encoder.embedder import Embedder
from encoder.errors import EncoderError, WeightsError
from encoder.films.preprocess import Preprocessing
from encoder.films.study import StudyFilms, position_code
from encoder.network.backbone import create_backbone, load_backbone_weights
from encoder.network.checkpoint import fingerprint_of, load_encoder, save_encoder
from encoder.network.config import EncoderConfig
from encoder.network.single import SingleEncoder

TINY = {"architecture": "single", "backbone": "test_efficientnet", "embedding_dim": 0}


def single(**options: object) -> SingleEncoder:
    torch.manual_seed(0)
    return SingleEncoder(EncoderConfig(**(TINY | options))).eval()  # type: ignore[arg-type]


def films(count: int, seed: int = 0, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("options", "dim"),
    [
        ({}, 256),
        ({"projection": 48}, 48),
        ({"dense": (32, 24), "dense_dropout": (0.3, 0.2)}, 24),
        ({"position_input": True}, 259),
    ],
)
def test_the_last_layer_sets_the_width_of_the_unit_vector(options: dict[str, object], dim: int) -> None:
    encoder = single(**options)

    vectors = encoder(films(3))

    assert encoder.embedding_dim == dim == vectors.shape[1]
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_a_study_is_the_mean_direction_of_its_views() -> None:
    encoder, stack, rows = single(), films(4), torch.arange(2)

    with torch.no_grad():
        study = encoder.forward_rows(stack, rows, rows + 2)
        views = encoder.forward_rows(stack, torch.arange(4), torch.arange(4))

    torch.testing.assert_close(study, torch.nn.functional.normalize(views[:2] + views[2:], dim=1))


@pytest.mark.parametrize("options", [{}, {"projection": 32}, {"dense": (16,), "dense_dropout": (0.1,)}])
def test_features_and_head_make_the_forward_pass(options: dict[str, object]) -> None:
    encoder, film = single(**options), films(2)

    with torch.no_grad():
        maps = encoder.forward_features(film, 0)
        whole = encoder(film)

        torch.testing.assert_close(encoder.forward_head(maps, maps), whole)


def test_the_view_position_changes_the_vector_only_where_it_is_an_input() -> None:
    stack, rows = films(1), torch.zeros(1, dtype=torch.int64)
    codes = [torch.tensor([position_code(name)]) for name in ("AP", "PA", "lateral", None)]
    for told, distinct in ((True, 4), (False, 1)):
        encoder = single(position_input=told)
        with torch.no_grad():
            vectors = [encoder.forward_rows(stack, rows, rows, code) for code in codes]
        assert len({tuple(vector[0].tolist()) for vector in vectors}) == distinct


def test_the_embedder_tells_the_encoder_what_it_knows_of_the_projection() -> None:
    embedder = Embedder(single(position_input=True), Preprocessing(size=64), device="cpu")
    film = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)

    known, unknown, other = embedder.embed([StudyFilms(film, None, name) for name in ("PA", None, "LL")])

    assert not np.allclose(known, unknown)
    np.testing.assert_array_equal(unknown, other)


def test_four_scales_are_the_networks_own() -> None:
    encoder = SingleEncoder(
        EncoderConfig(architecture="single", backbone="tf_efficientnetv2_s", embedding_dim=0, projection=256)
    ).eval()
    with torch.no_grad():
        scales = encoder.forward_scales(films(1))

    assert {name: tuple(one.shape[1:]) for name, one in scales.items()} == {
        "F1": (24, 32, 32),
        "F2": (48, 16, 16),
        "F3": (64, 8, 8),
        "F4": (256, 2, 2),
    }


def test_a_single_encoder_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    encoder = single(dense=(32, 24), dense_dropout=(0.3, 0.2), position_input=True)
    preprocessing = Preprocessing(size=64)
    save_encoder(tmp_path / "one.safetensors", encoder, preprocessing)

    loaded, _ = load_encoder(tmp_path / "one.safetensors")

    assert loaded.config == encoder.config
    assert fingerprint_of(loaded, preprocessing) == fingerprint_of(encoder, preprocessing)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"architecture": "triple"}, "dual or single"),
        ({**TINY, "embedding_dim": 256}, "embedding_dim 0"),
        ({**TINY, "dense": (32,)}, "dense_dropout for each"),
        ({**TINY, "dense": (0,), "dense_dropout": (0.1,)}, "widths above 0"),
        ({"projection": 64}, "architecture single only"),
        ({**TINY, "dense": (32,), "dense_dropout": (0.9,)}, "dropout in"),
    ],
)
def test_a_shape_that_fits_no_design_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(EncoderError, match=sentence):
        EncoderConfig(**options)  # type: ignore[arg-type]


def test_torchxrayvisions_weights_give_its_features_on_films_in_minus_1_to_1(tmp_path: Path) -> None:
    """Its networks take [-1024, 1024]; ours take [-1, 1], as the second seed design has it."""
    torch.manual_seed(0)
    published = timm.create_model("densenet121", num_classes=18, in_chans=1).eval()
    state = {name: value for name, value in published.state_dict().items() if "num_batches" not in name}
    save_file({**state, "op_threshs": torch.full((18,), 0.5)}, tmp_path / "xrv.safetensors")
    backbone = create_backbone("densenet121", in_chans=1).eval()

    load_backbone_weights(backbone, "densenet121", str(tmp_path / "xrv.safetensors"), in_chans=1)

    film = films(1, channels=1).clamp(-1, 1)
    with torch.no_grad():
        expected = published.forward_head(published.forward_features(film * 1024), pre_logits=True)
        torch.testing.assert_close(backbone(film), expected, rtol=1e-3, atol=1e-4)


def test_a_pickle_is_not_read_and_the_refusal_says_how_to_convert_it(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "model.pt")

    with pytest.raises(WeightsError, match=r"pickle.*save_file"):
        load_backbone_weights(create_backbone("test_efficientnet"), "test_efficientnet", str(tmp_path / "model.pt"))
