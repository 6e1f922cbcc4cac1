"""Whether an encoder's file knows that it was trained."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from folders import ROOT
from safetensors import safe_open
from safetensors.torch import save_file

from encoder.errors import CheckpointError, EncoderError
from encoder.films.preprocess import Preprocessing
from encoder.network.builtin import BUILTIN_FILE
from encoder.network.checkpoint import (
    _stated,
    fingerprint_of,
    judged_by_weights,
    load_encoder,
    save_encoder,
    trained_of,
)
from encoder.network.config import EncoderConfig
from encoder.network.model import DualEfficientNetEncoder
from encoder.network.single import build_encoder, require_side

DEMO = ROOT / "scripts" / "demo_encoder.safetensors"
SMALL = EncoderConfig(backbone="test_efficientnet", embedding_dim=256)


def _without_the_word(path: Path) -> Path:
    """Return a copy of an encoder file as one was written before files said whether they were trained."""
    with safe_open(path, framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name not in ("trained", "precedent.seal")}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    save_file(tensors, path.with_name("old.safetensors"), metadata)
    return path.with_name("old.safetensors")


def test_a_fresh_encoder_is_untrained_and_one_batch_of_training_tells_an_old_file_apart(tmp_path: Path) -> None:
    encoder, path = DualEfficientNetEncoder(SMALL), tmp_path / "encoder.safetensors"
    save_encoder(path, encoder, Preprocessing(size=64))
    assert trained_of(path) is load_encoder(path)[0].trained is False
    assert trained_of(_without_the_word(path)) is False

    encoder.train()(torch.randn(2, 3, 64, 64))
    save_encoder(path, encoder, Preprocessing(size=64))

    assert trained_of(_without_the_word(path)) is load_encoder(path)[0].trained is True


@pytest.mark.parametrize("told", [True, False, None])
def test_what_a_file_says_of_its_training_counts_for_no_fingerprint(told: bool | None, tmp_path: Path) -> None:
    encoder, preprocessing = DualEfficientNetEncoder(SMALL), Preprocessing(size=64)
    before = fingerprint_of(encoder, preprocessing)
    encoder.trained = told

    save_encoder(tmp_path / "encoder.safetensors", encoder, preprocessing)

    assert fingerprint_of(*load_encoder(tmp_path / "encoder.safetensors")) == before
    assert trained_of(tmp_path / "encoder.safetensors") is bool(told)


def test_the_shipped_encoders_count_as_trained() -> None:
    assert trained_of(DEMO) is trained_of(BUILTIN_FILE) is True


def test_dense_layers_without_batch_statistics_cannot_be_judged_by_weights() -> None:
    config = EncoderConfig("single", "test_efficientnet", embedding_dim=0, dense=(32,), dense_dropout=(0.0,))
    encoder = build_encoder(config)
    assert judged_by_weights(encoder.state_dict()) is False  # its backbone is random, too

    encoder.train()(torch.randn(2, 3, 64, 64))

    assert judged_by_weights(encoder.state_dict()) is None


def test_the_shipped_encoders_fingerprints_never_change_unnoticed() -> None:
    assert fingerprint_of(*load_encoder(DEMO)).startswith("795d6f2f")
    assert fingerprint_of(*load_encoder(BUILTIN_FILE)).startswith("a25f31b4")


def test_the_encoder_in_the_box_is_small_and_names_whose_films_it_learnt_from() -> None:
    licences = BUILTIN_FILE.with_name("builtin.LICENSES.md").read_text(encoding="utf-8")
    encoder, _ = load_encoder(BUILTIN_FILE)

    assert BUILTIN_FILE.stat().st_size <= 20_000_000
    assert encoder.source is not None
    assert all(text in licences for text in encoder.source.values())
    for word in ("provided by the NIH Clinical Center", "CC BY 4.0", "Apache-2.0", "Neither provider endorses this"):
        assert word in " ".join(encoder.source.values())


def test_no_patient_of_the_encoder_in_the_box_is_in_two_parts() -> None:
    parts = json.loads(BUILTIN_FILE.with_name("builtin.splits.json").read_text(encoding="utf-8"))
    patients = {part: {study.rsplit("/", 1)[0] for study in studies} for part, studies in parts.items()}

    assert set(patients) == {"train", "valid", "test"}
    assert sum(map(len, patients.values())) == len(set().union(*patients.values()))


def test_options_of_a_network_are_kept_and_count_for_the_fingerprint(tmp_path: Path) -> None:
    options = [["img_size", 64], ["global_pool", "token"]]
    encoder = build_encoder(EncoderConfig("single", "test_vit", embedding_dim=0, pooling="own", options=options))  # type: ignore[arg-type]
    save_encoder(tmp_path / "encoder.safetensors", encoder, Preprocessing(size=64))

    again, _ = load_encoder(tmp_path / "encoder.safetensors")

    assert again.config == encoder.config
    assert again.config.options == (("global_pool", "token"), ("img_size", 64))
    plain = dataclasses.replace(again.config, options=(("img_size", 64),))
    assert _stated(plain) != _stated(again.config)
    assert "options" not in _stated(SMALL)


@pytest.mark.parametrize(
    "options",
    [
        [["img_size", 1 << 20]],
        [["img_size", 224.0]],
        [["img_size", True]],
        [["patch_size", 1]],
        [["pretrained", True]],
        [["act_layer", "exec"]],
        [["ref_feat_shape", [14, 14, 14]]],
        [["img_size", 64], ["img_size", 96]],
        [["img_size"]],
        {"img_size": 64},
        "img_size",
    ],
)
def test_options_that_no_network_of_ours_has_are_refused(options: object) -> None:
    with pytest.raises(EncoderError, match="expected"):
        EncoderConfig(options=options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("backbone", "side"), [("test_vit3", 224), ("densenet121", 16), ("maxvit_tiny_tf_224", 200)])
def test_a_size_that_a_network_does_not_take_is_refused_in_a_sentence(backbone: str, side: int) -> None:
    config = EncoderConfig("single", backbone, embedding_dim=0, pooling="own")
    with pytest.raises(EncoderError, match=f"expected a size that '{backbone}' takes, got {side} x {side} pixels"):
        require_side(config, side)


def test_an_encoder_file_of_a_size_that_its_network_does_not_take_is_refused(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig("single", "test_vit3", embedding_dim=0, pooling="own"))
    save_encoder(tmp_path / "encoder.safetensors", encoder, Preprocessing(size=224))
    with pytest.raises(CheckpointError, match="got 224 x 224 pixels"):
        load_encoder(tmp_path / "encoder.safetensors")
