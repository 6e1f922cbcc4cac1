"""The NumPy face: batch mates, missing views and files make no difference; checkpoints round-trip."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from encoder.embedder import Embedder
from encoder.errors import CheckpointError, EncoderError, ImageError
from encoder.films.image import read_plane
from encoder.films.plane import Plane, shallow
from encoder.films.preprocess import Preprocessing
from encoder.films.study import Film, StudyFilms
from encoder.network.backbone import load_backbone_weights
from encoder.network.checkpoint import fingerprint_of, load_encoder, save_encoder
from encoder.network.config import EncoderConfig
from encoder.network.model import DualEfficientNetEncoder
from encoder.network.single import build_encoder

PREPROCESSING = Preprocessing(size=64)


def random_study(rng: np.random.Generator, views: str) -> StudyFilms:
    def film(view: str) -> Film | None:
        return rng.integers(0, 256, (64, 64), np.uint8) if view in views else None

    return StudyFilms(film("F"), film("L"))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), views=st.lists(st.sampled_from(["F", "L", "FL"]), min_size=1, max_size=6))
def test_an_embedding_does_not_depend_on_its_batch_mates(tiny_embedder: Embedder, seed: int, views: list[str]) -> None:
    rng = np.random.default_rng(seed)
    studies = [random_study(rng, of) for of in views]
    together = tiny_embedder.embed(studies)
    alone = np.concatenate([tiny_embedder.embed([study]) for study in studies])
    assert (together * alone).sum(1).min() >= 0.9999
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_a_missing_view_is_stood_in_for_by_the_present_one(tiny_embedder: Embedder, rng: np.random.Generator) -> None:
    film = random_study(rng, "F").frontal
    both = tiny_embedder.embed([StudyFilms(film, film)])
    for one in (StudyFilms(film, None), StudyFilms(None, film)):
        assert np.allclose(tiny_embedder.embed([one]), both, atol=1e-6)


def test_a_study_without_films_is_refused(tiny_embedder: Embedder) -> None:
    with pytest.raises(EncoderError, match="got neither"):
        tiny_embedder.embed_study(None, None)


def test_a_path_and_its_bytes_embed_alike(tiny_embedder: Embedder, tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "film.png"
    cv2.imwrite(str(path), rng.integers(0, 255, (80, 70), dtype=np.uint8))
    assert np.array_equal(tiny_embedder.embed_study(path, None), tiny_embedder.embed_study(path.read_bytes(), None))
    with pytest.raises(ImageError, match="lateral"):
        tiny_embedder.embed_study(path, b"not a film")


def test_a_checkpoint_brings_back_the_same_encoder(tiny_encoder: DualEfficientNetEncoder, tmp_path: Path) -> None:
    preprocessing = Preprocessing(size=96, contrast="clahe", mean=(0.5,) * 3, std=(0.25,) * 3)
    save_encoder(tmp_path / "a.safetensors", tiny_encoder, preprocessing)
    loaded, read = load_encoder(tmp_path / "a.safetensors")
    assert (loaded.config, read) == (tiny_encoder.config, preprocessing)
    assert fingerprint_of(loaded, read) == fingerprint_of(tiny_encoder, preprocessing)


def test_half_precision_weights_are_another_encoder_with_nearly_the_same_vectors(
    tiny_encoder: DualEfficientNetEncoder, tmp_path: Path, rng: np.random.Generator
) -> None:
    save_encoder(tmp_path / "half.safetensors", tiny_encoder, PREPROCESSING, dtype=torch.float16)
    half, full = Embedder.load(tmp_path / "half.safetensors"), Embedder(tiny_encoder, PREPROCESSING)
    studies = [random_study(rng, "FL") for _ in range(3)]
    assert half.fingerprint != full.fingerprint
    assert (half.embed(studies) * full.embed(studies)).sum(1).min() > 0.999


def test_whatever_changes_a_vector_changes_the_fingerprint(tiny_encoder: DualEfficientNetEncoder) -> None:
    other = DualEfficientNetEncoder(tiny_encoder.config)
    pooled = DualEfficientNetEncoder(dataclasses.replace(tiny_encoder.config, pooling="avgmax"))
    pooled.load_state_dict(tiny_encoder.state_dict())
    prints = {
        fingerprint_of(tiny_encoder, PREPROCESSING),
        fingerprint_of(pooled, PREPROCESSING),
        fingerprint_of(other, PREPROCESSING),
        fingerprint_of(tiny_encoder, dataclasses.replace(PREPROCESSING, size=65)),
        fingerprint_of(tiny_encoder, dataclasses.replace(PREPROCESSING, fit="letterbox")),
        fingerprint_of(tiny_encoder, dataclasses.replace(PREPROCESSING, contrast="equalize")),
    }
    assert len(prints) == 6


@pytest.mark.slow  # real films and weights
def test_a_large_jpeg_is_read_smaller_and_embedded_nearly_alike(shared_data: Path, shared_weights: Path) -> None:
    config = EncoderConfig(architecture="single", backbone="tf_efficientnetv2_b0", embedding_dim=0)
    encoder = build_encoder(config)
    load_backbone_weights(encoder.backbones[0], config.backbone, str(shared_weights))
    embedder = Embedder(encoder, Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3), device="cpu")
    large = [film for path in sorted((shared_data / "dicom" / "chest").iterdir()) if (film := whole(path)) is not None]
    files = [cv2.imencode(".jpg", shallow(film), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes() for film in large]

    reduced = embedder.embed([embedder.read_films(file, None) for file in files])
    full = embedder.embed([StudyFilms(embedder.preprocessing(read_plane(file)), None) for file in files])

    assert len(files) >= 3
    assert 0.995 <= (reduced * full).sum(axis=1).min() < 1 - 1e-6  # equal vectors would mean that none was reduced


def whole(path: Path) -> Plane | None:
    """Return a film of more than 1,344 pixels each way, six sides of the network's square."""
    try:
        film = read_plane(path)
    except ImageError:
        return None
    return film if min(film.shape) >= 6 * 224 else None


def test_what_is_no_encoder_is_refused(tiny_encoder: DualEfficientNetEncoder, tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_encoder(whole, tiny_encoder, PREPROCESSING)
    (tmp_path / "torn.safetensors").write_bytes(whole.read_bytes()[:-100])
    save_file({"weight": torch.zeros(2)}, tmp_path / "bare.safetensors")
    for name, sentence in {
        "gone": "precedent encoder create",
        "torn": "has changed since it was written",
        "bare": "holds weights but no encoder",
    }.items():
        with pytest.raises(CheckpointError, match=sentence):
            load_encoder(tmp_path / f"{name}.safetensors")


def test_a_missing_gpu_is_told(tiny_encoder: DualEfficientNetEncoder) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(EncoderError, match="--device cpu"):
        Embedder(tiny_encoder, PREPROCESSING, device="cuda")


def test_default_configuration_is_the_designs() -> None:
    assert EncoderConfig() == EncoderConfig("dual", "efficientnet_b0", 512, False, 0.2, 3)
