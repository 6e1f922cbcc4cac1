"""`precedent encoder adopt`: published weights in, an encoder file out, or one sentence and nothing."""

from pathlib import Path

import pytest
from command_line import done, json_of, refusal
from safetensors.torch import save_file

from encoder.network.backbone import create_backbone


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Return a file of a network's own weights."""
    path = tmp_path / "published.safetensors"
    save_file(create_backbone("test_vit3", pooling="own").state_dict(), path)
    return path


def test_a_network_of_timm_is_adopted_and_its_file_tells_whence_it_came(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder.safetensors"
    words = ["--network", "test_vit3", "--size", "64", "--fit", "squash", "--mean", "0", "--std", "1"]

    printed = done("encoder", "adopt", published, *words, "--out", out).output

    assert f"{out}: test_vit3, 96-D, 64 x 64" in printed
    assert "0 others are of other parts" in printed
    assert "licence of the weights: see its publisher" in printed
    facts = json_of("encoder", "info", out)
    assert facts["trained"] is True
    assert facts["source"]["family"] == "timm's test_vit3"
    assert facts["preprocessing"]["fit"] == "squash"
    assert facts["preprocessing"]["mean"] == [0, 0, 0]


def test_the_families_are_listed_with_their_licences() -> None:
    printed = done("encoder", "adopt", "--list").output
    assert "rad-dino          vit_base_patch14_dinov2" in printed
    assert "MSRLA: research, non-commercial" in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--family", "rad-dino"], "expected a first convolution of 768"),
        (["--family", "rad"], "expected a family of rad-dino"),
        (["--network", "hf-hub:a/b"], "expected the name of a timm network, got 'hf-hub:a/b'"),
        (["--network", "resnet18"], "expected"),
        (["--network", "test_vit3", "--margin", "16", "--fit", "squash"], "a margin of 0 unless fit is crop"),
    ],
)
def test_what_cannot_be_adopted_is_refused_and_nothing_is_written(
    words: list[str], sentence: str, published: Path, tmp_path: Path
) -> None:
    out = tmp_path / "encoder.safetensors"
    assert sentence in refusal("encoder", "adopt", published, *words, "--out", out)
    assert not out.exists()
    assert "nothing is downloaded" in refusal("encoder", "adopt", "hf-hub:a/b", "--family", "rad-dino", "--out", out)
