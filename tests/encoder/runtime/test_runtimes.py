import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from artefacts import tiny_model
from encoder_shapes import SHAPES

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.preprocess import Preprocessing
from encoder.films.study import StudyFilms
from encoder.network.checkpoint import save_encoder
from encoder.network.config import EncoderConfig
from encoder.network.model import StudyEncoder
from encoder.network.single import build_encoder
from encoder.runtime.int8 import quantize
from encoder.runtime.mixed_precision import MixedModel
from encoder.runtime.openvino_branch import CompiledBranch
from encoder.runtime.runtimes import (
    RUNTIMES,
    _kept_branch,
    _sums,
    choose_runtime,
    convert,
    has_bf16,
    keep_model,
    path_of,
)

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def studies(count: int) -> list[StudyFilms]:
    rng = np.random.default_rng(1)
    films = rng.integers(0, 256, (count, 2, 64, 64), np.uint8)
    return [StudyFilms(pair[0], None if n % 3 == 0 else pair[1], "PA") for n, pair in enumerate(films)]


@pytest.mark.parametrize(("runtime", "least"), [("openvino-fp32", 0.9999), ("openvino-bf16", 0.999)])
def test_openvino_gives_the_vectors_of_torch(encoder: StudyEncoder, runtime: str, least: float) -> None:
    if runtime == "openvino-bf16" and not has_bf16():
        pytest.skip("this processor has no bf16")
    plain, fast = (Embedder(encoder, Preprocessing(size=64), device="cpu", runtime=name) for name in ("torch", runtime))

    cosines = (plain.embed(studies(19)) * fast.embed(studies(19))).sum(axis=1)

    assert fast.runtime.name == runtime
    assert cosines.min() >= least


def test_making_and_dropping_models_leaves_the_threads_signal_stack_alone(tiny_encoder: StudyEncoder) -> None:
    model, before = convert(tiny_encoder, 0, 64), signal_stack()
    branches = [CompiledBranch(model, "bf16" if has_bf16() else "fp32") for _ in range(3)]
    assert signal_stack() == before
    while branches:
        branches.pop(0)  # oldest first: what each put back would be what a later one had freed
    assert signal_stack() == before


class _SignalStack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int | None, int, int]:
    """Return where signals of this thread are handled, `stack_t` of sigaltstack(2)."""
    found = _SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.address, found.flags, found.size


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


@pytest.mark.slow
def test_a_planted_conversion_is_not_served_under_the_encoder_s_fingerprint(tmp_path: Path) -> None:
    mine, other = (build_encoder(EncoderConfig(**SHAPES["shared"])).eval() for _ in range(2))  # type: ignore[arg-type]
    save_encoder(tmp_path / "e.safetensors", mine, Preprocessing(size=64))
    plain, model = Embedder.load(tmp_path / "e.safetensors", device="cpu"), convert(other, 0, 64)
    for precision in ("fp32", "int8"):
        path = path_of(tmp_path / "runtime", plain.fingerprint, 0, precision)
        assert path is not None
        assert keep_model(model, path)

    fast = Embedder.load(tmp_path / "e.safetensors", device="cpu", runtime="openvino-fp32")

    pooled, rows = torch.randn(6, 3, 64, 64), torch.arange(6)
    expected, found = (runner.pool_rows(pooled, rows, rows)[0] for runner in (mine, fast.runner))
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-4)
    with pytest.raises(EncoderError, match="of this encoder beside its checkpoint"):
        Embedder.load(tmp_path / "e.safetensors", device="cpu", runtime="openvino-int8")


@pytest.mark.parametrize("planted", ["layers of another shape", "no model", "a pipe", "endless zeros"])
def test_what_is_no_conversion_is_made_anew(planted: str, tiny_encoder: StudyEncoder, tmp_path: Path) -> None:
    path = tmp_path / "f-0-fp32-v2.xml"
    assert keep_model(tiny_model(), path)
    if planted != "layers of another shape":
        path.unlink()
    if planted == "no model":
        path.write_text("<net>" * 10_000)
        path.with_suffix(".sha256").write_text(_sums(path, path.read_bytes(), path.with_suffix(".bin").read_bytes()))
    elif planted == "a pipe":
        os.mkfifo(path)
    elif planted == "endless zeros":
        path.symlink_to("/dev/zero")
    assert _kept_branch(tiny_encoder, 0, 64, path, "fp32") is None


def test_an_int8_model_that_was_not_made_is_told(encoder: StudyEncoder) -> None:
    with pytest.raises(EncoderError, match="precedent encoder quantize"):
        Embedder(encoder, Preprocessing(size=64), device="cpu", runtime="openvino-int8")


def test_the_choice_of_a_runtime_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.runtime.runtimes.has_bf16", lambda: False)
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


def backbone_rows(encoder: StudyEncoder, films: list[StudyFilms]) -> int:
    """Return how many films pass the backbones while these studies are embedded."""
    seen: list[int] = []
    hooks = [b.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))) for b in encoder.backbones]
    Embedder(encoder, Preprocessing(size=64), device="cpu").embed(films)
    for hook in hooks:
        hook.remove()
    return sum(seen)


def test_with_shared_weights_a_film_passes_the_backbone_once_and_a_single_film_costs_half() -> None:
    encoder = build_encoder(EncoderConfig(**SHAPES["shared"]))  # type: ignore[arg-type]
    pairs = [StudyFilms(one.frontal, one.frontal) for one in studies(4)]
    singles = [StudyFilms(one.frontal, None) for one in studies(4)]
    assert backbone_rows(encoder, pairs) == 8
    assert backbone_rows(encoder, singles) == 4


def test_openvino_too_runs_a_single_film_of_shared_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_encoder(EncoderConfig(**SHAPES["shared"]))  # type: ignore[arg-type]
    fast = Embedder(encoder, Preprocessing(size=64), device="cpu", runtime="openvino-fp32")
    seen: list[int] = []
    start = CompiledBranch.start
    monkeypatch.setattr(
        CompiledBranch, "start", lambda self, films, put: seen.append(len(films)) or start(self, films, put)
    )
    fast.embed([StudyFilms(one.frontal, None) for one in studies(5)])
    assert seen == [5]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # nncf's own use of what it depends on
def test_int8_takes_only_the_layers_that_it_was_told(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed")
    network = build_encoder(EncoderConfig(**SHAPES["shared"])).eval()  # type: ignore[arg-type]
    films = [Preprocessing(size=64).normalized(one.frontal) for one in studies(8) if one.frontal is not None]
    model = convert(network, 0, 64)
    plain = CompiledBranch(model, "fp32").start(films).result()
    mixed = MixedModel(model, films)

    none, first, all_ = (mixed.model(layers) for layers in ([], mixed.layers[:1], mixed.layers))

    np.testing.assert_allclose(CompiledBranch(none, "fp32").start(films).result(), plain, atol=1e-5)
    assert 0 == rounded(none) < rounded(first) < rounded(all_)
    losses = iter(range(len(mixed.layers)))
    assert mixed.chosen(lambda _: next(losses), budget=3) == mixed.layers[:3]


def rounded(model: object) -> int:
    """Return how many inputs of a model are rounded to 8 bits."""
    return sum(op.get_type_name() == "FakeQuantize" for op in model.get_ordered_ops())  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_int8_model_that_was_made_is_read_and_near_to_torch(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed")
    network = build_encoder(EncoderConfig(**SHAPES["shared"])).eval()  # type: ignore[arg-type]
    plain = Embedder(network, Preprocessing(size=64), device="cpu")
    [made] = quantize(
        network, studies(12), preprocessing=Preprocessing(size=64), fingerprint=plain.fingerprint, cache=tmp_path
    )
    fast = Embedder(network, Preprocessing(size=64), device="cpu", runtime="openvino-int8", cache=tmp_path)
    cosines = (plain.embed(studies(12)) * fast.embed(studies(12))).sum(axis=1)
    assert made.layers <= made.of
    assert min(made.cosine, cosines.mean()) >= 0.99
