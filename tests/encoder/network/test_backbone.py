"""Where weights come from, and the refusals when they do not."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from encoder.errors import WeightsError
from encoder.network.backbone import create_backbone, input_statistics, load_backbone_weights

TINY = "test_efficientnet"


def test_weights_of_the_same_network_are_loaded_from_a_file(tmp_path: Path) -> None:
    source, target = create_backbone(TINY), create_backbone(TINY)
    save_file(source.state_dict(), tmp_path / "tiny.safetensors")
    load_backbone_weights(target, TINY, str(tmp_path / "tiny.safetensors"))
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())


def test_real_imagenet_weights_are_loaded_from_a_file(shared_weights: Path) -> None:
    backbone = create_backbone("tf_efficientnetv2_b0").eval()
    before = backbone.state_dict()["conv_stem.weight"].clone()
    load_backbone_weights(backbone, "tf_efficientnetv2_b0", str(shared_weights))
    assert not torch.equal(before, backbone.state_dict()["conv_stem.weight"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no weights file"),
        (b"", "not a readable safetensors"),
        (b"\x80\x04pickle", "not a readable safetensors"),
    ],
)
def test_a_file_without_weights_is_refused(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=sentence):
        load_backbone_weights(create_backbone(TINY), TINY, str(path))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(create_backbone("test_resnet").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="was it saved from another network"):
        load_backbone_weights(create_backbone(TINY), TINY, str(tmp_path / "other.safetensors"))


def test_a_hub_out_of_reach_names_the_two_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(WeightsError, match=r"--weights backbone.safetensors.*--weights none"):
        load_backbone_weights(create_backbone(TINY), TINY, "imagenet")


def test_an_unknown_network_is_refused_with_those_close_to_it() -> None:
    with pytest.raises(WeightsError, match="efficientnet_b8"):
        create_backbone("efficientnet_b99")


def test_statistics_are_those_of_timms_configuration() -> None:
    assert input_statistics("efficientnet_b0") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert input_statistics("tf_efficientnetv2_s")[0] == (0.5, 0.5, 0.5)
