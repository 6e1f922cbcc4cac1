import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from encoder.films.preprocess import Preprocessing
from encoder.network.checkpoint import save_encoder
from encoder.network.model import DualEfficientNetEncoder
from scripts.benches.encode import ALONE, agreement
from scripts.benches.films import KINDS, write_collection
from scripts.cli import precedent


@pytest.fixture
def checkpoint(tiny_encoder: DualEfficientNetEncoder, tmp_path: Path) -> Path:
    save_encoder(tmp_path / "encoder.safetensors", tiny_encoder, Preprocessing(size=64))
    return tmp_path / "encoder.safetensors"


def bench(*words: str | Path) -> dict[str, object]:
    result = CliRunner().invoke(precedent, ["bench", *map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    facts: dict[str, object] = json.loads(result.stdout)
    return facts


def test_every_way_gives_the_vectors_of_torch_and_an_absent_one_says_why(checkpoint: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    words = ["--count", "2", "--batch", "2", "--repeat", "1", "--no-compile", "--device", "cpu"]
    facts = bench("encode", "--encoder", checkpoint, *words)
    assert facts["ways"]["PyTorch eager fp32"]["cosine_least"] == pytest.approx(1, abs=1e-5)  # type: ignore[index]
    assert facts["ways"]["openvino-fp32"]["cosine_least"] >= 0.9999  # type: ignore[index]
    assert facts["ways"][ALONE]["studies_per_second"] > 0  # type: ignore[index]
    assert "precedent encoder quantize" in facts["absent"]["openvino-int8"]  # type: ignore[index]
    assert facts["absent"]["torch.compile"] == "not asked for"  # type: ignore[index]


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_measured_beside_timm_in_pytorch_and_each_of_its_stages_alone(checkpoint: Path, kind: str) -> None:
    facts = bench("export", "--encoder", checkpoint, "--kind", kind, "--films", "4", "--repeat", "1", "--device", "cpu")
    figures = facts["kinds"][kind]  # type: ignore[index]
    rates = figures["films_per_second"]
    alone = {"reading alone", "encoding alone"}
    assert set(rates) == {"Precedent", "timm in PyTorch", *alone}
    assert figures["limit"] == min(sorted(alone, reverse=True), key=rates.__getitem__)
    assert figures["share_of_limit"] == pytest.approx(rates["Precedent"] / rates[figures["limit"]])
    assert figures["chexpert_hours"] == pytest.approx(223_414 / rates["Precedent"] / 3600)


def test_the_agreement_counts_neighbours_that_are_kept(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(40, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert agreement(vectors, vectors)["top_10_kept"] == 1
    assert agreement(vectors, np.roll(vectors, 1, axis=0))["top_10_kept"] < 0.6
    assert "top_10_kept" not in agreement(vectors[:5], vectors[:5])


@pytest.mark.parametrize("kind", KINDS)
def test_the_films_to_measure_with_are_what_their_kind_says(kind: str, tmp_path: Path) -> None:
    from encoder.films.image import read_image

    table = write_collection(tmp_path, kind, 1)
    film = read_image(tmp_path / table["lateral_path"][0].as_py())
    assert film.shape == KINDS[kind].shape
    assert film.std() > 0.05


def test_training_is_measured_beside_its_backbones_and_says_where_no_gpu_is() -> None:
    words = ["--films", "8", "--batch", "4", "--repeat", "1", "--device", "cpu"]
    small = ["--set", "encoder.backbone=test_efficientnet", "--set", "preprocessing.size=64"]
    facts = bench("train", *words, *small)
    assert set(facts["films_per_second"]) == {"Precedent", "backbones alone, fp32", "backbones alone, bf16"}  # type: ignore[arg-type]
    assert min(facts["films_per_second"].values()) > 0  # type: ignore[attr-defined]
    assert facts["device"] == "cpu"
    assert ("without" in facts) is not torch.cuda.is_available()
