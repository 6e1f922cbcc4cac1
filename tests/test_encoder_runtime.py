from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.checkpoint import save_encoder
from encoder.config import EncoderConfig
from encoder.embedder import Embedder, StudyFilms
from encoder.errors import EncoderError
from encoder.model import StudyEncoder
from encoder.preprocess import Preprocessing
from encoder.runtime import RUNTIMES, choose_runtime, has_bf16
from encoder.single import build_encoder

pytest.importorskip("openvino", reason="OpenVINO is not installed")
TINY = {"backbone": "test_efficientnet", "embedding_dim": 256}
SHAPES = {
    "separate": TINY,
    "shared": TINY | {"use_shared_weights": True},
    "single": {"architecture": "single", "backbone": "test_efficientnet", "embedding_dim": 0, "position_input": True},
}


@pytest.fixture(params=SHAPES)
def encoder(request: pytest.FixtureRequest) -> StudyEncoder:
    """Return an encoder of each shape whose batch statistics are those of films, as after training."""
    torch.manual_seed(0)
    network = build_encoder(EncoderConfig(**SHAPES[request.param])).train()  # type: ignore[arg-type]
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(16, 3, 64, 64), torch.randn(16, 3, 64, 64))
    return network.eval()


def studies(count: int) -> list[StudyFilms]:
    rng = np.random.default_rng(1)
    films = rng.normal(size=(count, 2, 3, 64, 64)).astype(np.float32)
    return [StudyFilms(pair[0], None if n % 3 == 0 else pair[1], "PA") for n, pair in enumerate(films)]


@pytest.mark.parametrize(("runtime", "least"), [("openvino-fp32", 0.9999), ("openvino-bf16", 0.999)])
def test_openvino_gives_the_vectors_of_torch(encoder: StudyEncoder, runtime: str, least: float) -> None:
    if runtime == "openvino-bf16" and not has_bf16():
        pytest.skip("this processor has no bf16")
    plain, fast = (Embedder(encoder, Preprocessing(size=64), device="cpu", runtime=name) for name in ("torch", runtime))

    cosines = (plain.embed(studies(19)) * fast.embed(studies(19))).sum(axis=1)

    assert fast.runtime.name == runtime
    assert cosines.min() >= least


def test_alone_or_in_a_batch_or_among_threads_a_study_gets_the_same_vector(encoder: StudyEncoder) -> None:
    fast = Embedder(encoder, Preprocessing(size=64), device="cpu", runtime="openvino-fp32")
    every = studies(12)
    batch = fast.embed(every)

    with ThreadPoolExecutor(8) as pool:
        alone = np.concatenate(list(pool.map(lambda study: fast.embed([study]), every)))

    assert (batch * alone).sum(axis=1).min() >= 0.9999


def test_the_conversion_is_kept_beside_the_checkpoint_and_read_again(encoder: StudyEncoder, tmp_path: Path) -> None:
    save_encoder(tmp_path / "e.safetensors", encoder, Preprocessing(size=64))
    first = Embedder.load(tmp_path / "e.safetensors", runtime="openvino-fp32")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runtime").iterdir()}

    second = Embedder.load(tmp_path / "e.safetensors", runtime="openvino-fp32")

    assert kept
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runtime").iterdir()} == kept
    np.testing.assert_allclose(first.embed(studies(3)), second.embed(studies(3)), atol=1e-5)


def test_an_int8_model_that_was_not_made_is_told(encoder: StudyEncoder) -> None:
    with pytest.raises(EncoderError, match="precedent encoder quantize"):
        Embedder(encoder, Preprocessing(size=64), device="cpu", runtime="openvino-int8")


def test_the_choice_of_a_runtime_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.runtime.has_bf16", lambda: False)
    assert choose_runtime("auto", "cpu").name == "openvino-fp32"
    assert "no bf16" in choose_runtime("openvino-bf16", "cpu").note
    assert choose_runtime("auto", "cuda").name == "torch"
    with pytest.raises(EncoderError, match="OpenVINO serves the CPU"):
        choose_runtime("openvino-fp32", "cuda")
    with pytest.raises(EncoderError, match=RUNTIMES[1]):
        choose_runtime("abacus", "cpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_runtime("auto", "cpu").name == "torch"
    with pytest.raises(EncoderError, match=r"cxr-precedent\[fast\]"):
        choose_runtime("openvino-fp32", "cpu")
