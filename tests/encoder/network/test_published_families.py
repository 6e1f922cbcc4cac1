"""Every family against the implementation that it was published with, on random weights of the published sizes.

pip install transformers open_clip_torch torchxrayvision
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from encoder.network.adopt import adopt, family_of

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]
Reference = Callable[[Tensor], Tensor]


def lively(network: Any) -> Any:
    """Give a network weights under which films differ, as after training."""
    chance = torch.Generator().manual_seed(1)
    for name, weight in network.named_parameters():
        noise = torch.randn(weight.shape, generator=chance)
        if weight.ndim > 1:
            weight.data = noise * 1.2 / weight[0].numel() ** 0.5
        else:
            weight.data = 0.2 * noise + (1.0 if name.endswith(("weight", "lambda1")) else 0.0)
    for name, value in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(0.1 * torch.randn(value.shape, generator=chance) + name.endswith("var"))
    return network.eval()


def require_alike(family: str, state: dict[str, Tensor], reference: Reference, folder: Path, **options: Any) -> None:
    """Check that an adopted encoder pools films as the reference does, and that films differ by more."""
    save_file({key: value.clone() for key, value in state.items()}, folder / "published.safetensors")
    adopted = adopt(folder / "published.safetensors", family_of(family), **options)
    side, channels = adopted.preprocessing.size, adopted.encoder.config.in_chans
    films = 2 * torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0)) - 1
    with torch.inference_mode():
        expected, pooled = reference(films), adopted.encoder.pool_films(films, 0)
    assert float((expected - pooled).abs().max()) <= 1e-4
    assert float((expected[0] - expected[1]).abs().max()) > 1e-2


def published(network: Any, folder: Path) -> dict[str, Tensor]:
    """Return a network's tensors as Hugging Face writes them into files."""
    network.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def hugging_face() -> Any:
    return pytest.importorskip("transformers", reason="run: pip install transformers")


@pytest.mark.parametrize(
    ("family", "kind", "width", "heads", "size"),
    [
        ("rad-dino", "Dinov2", 768, 12, 518),
        ("dinov2", "Dinov2", 384, 6, 224),
        ("cxformer", "Dinov2WithRegisters", 384, 6, 518),
        ("cxformer", "Dinov2WithRegisters", 768, 12, 518),
    ],
)
def test_dinov2(family: str, kind: str, width: int, heads: int, size: int, tmp_path: Path) -> None:
    library = hugging_face()
    config = getattr(library, f"{kind}Config")(
        hidden_size=width, num_attention_heads=heads, image_size=size, patch_size=14
    )
    network = lively(getattr(library, f"{kind}Model")(config))
    require_alike(family, published(network, tmp_path), lambda films: network(films).pooler_output, tmp_path)
    require_alike(family, network.state_dict(), lambda films: network(films).pooler_output, tmp_path)


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12)])
def test_dinov3(width: int, heads: int, tmp_path: Path) -> None:
    library = hugging_face()
    config = library.DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
        num_register_tokens=4,
        image_size=224,
        patch_size=16,
    )
    network = lively(library.DINOv3ViTModel(config))
    require_alike("dinov3", published(network, tmp_path), lambda films: network(films).pooler_output, tmp_path)


def test_medsiglip(tmp_path: Path) -> None:
    library = hugging_face()
    config = library.SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=448,
        patch_size=14,
    )
    network = lively(library.SiglipVisionModel(config))
    require_alike("medsiglip", published(network, tmp_path), lambda films: network(films).pooler_output, tmp_path)


def test_pubmedclip_with_and_without_its_projection(tmp_path: Path) -> None:
    library = hugging_face()
    vision = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "image_size": 224,
        "patch_size": 32,
    }
    config = library.CLIPConfig(vision_config=vision, text_config={"num_hidden_layers": 1}, projection_dim=512)
    network = lively(library.CLIPModel(config))

    def pooled(films: Tensor) -> Tensor:
        return network.vision_model(films).pooler_output

    state = published(network, tmp_path)
    require_alike("pubmedclip", state, lambda films: network.visual_projection(pooled(films)), tmp_path)
    require_alike("pubmedclip", state, pooled, tmp_path, projected=False)


def test_cxr_clip_swin(tmp_path: Path) -> None:
    library = hugging_face()
    config = library.SwinConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7)
    network = lively(library.SwinModel(config))
    require_alike("cxr-clip-swin", published(network, tmp_path), lambda films: network(films).pooler_output, tmp_path)


def test_chexzero_and_biomedclip(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="run: pip install open_clip_torch")
    from open_clip.timm_model import TimmModel

    network = lively(open_clip.create_model("ViT-B-32-quickgelu", pretrained=None))
    require_alike("chexzero", network.state_dict(), network.encode_image, tmp_path)

    tower = lively(TimmModel("vit_base_patch16_224", embed_dim=512, image_size=224, pool="", proj="linear"))
    state = {f"visual.{key}": value for key, value in tower.state_dict().items()} | {"text.weight": torch.ones(2)}
    require_alike("biomedclip", state, tower, tmp_path)


@pytest.mark.parametrize(
    ("family", "prefix"),
    [
        ("resnet50", ""),
        ("resnet50", "gloria.img_encoder.model."),
        ("biovil", "encoder.encoder."),
        ("cxr-clip-resnet", "image_encoder.resnet."),
    ],
)
def test_resnets_in_torchvisions_names(family: str, prefix: str, tmp_path: Path) -> None:
    network = lively(torchvision.models.resnet50(weights=None))
    headless = copy.deepcopy(network)
    headless.fc = nn.Identity()
    state = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    require_alike(family, state, headless, tmp_path)


def test_torchxrayvision(tmp_path: Path) -> None:
    xrv = pytest.importorskip("torchxrayvision", reason="run: pip install torchxrayvision")
    dense = lively(xrv.models.DenseNet(weights=None))
    require_alike("xrv-densenet", dense.state_dict(), lambda films: dense.features2(1024 * films), tmp_path)

    residual = torchvision.models.resnet50(weights=None, num_classes=18)
    residual.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    headless = copy.deepcopy(lively(residual))
    headless.fc = nn.Identity()
    state = {f"model.{key}": value for key, value in residual.state_dict().items()}
    require_alike("xrv-resnet", state, lambda films: headless(1024 * films), tmp_path)
