"""Published weights made an encoder, and the refusals of what is none."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from folders import ROOT
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from encoder.errors import CheckpointError, WeightsError
from encoder.network.adopt import adopt, family_of, family_of_network
from encoder.network.backbone import create_backbone, load_backbone_weights
from encoder.network.checkpoint import fingerprint_of, load_encoder, save_encoder
from encoder.network.config import EncoderConfig
from encoder.network.families import FAMILIES
from encoder.network.single import outline_of

VIT = "test_vit3"


def saved(folder: Path, state: dict[str, Tensor]) -> Path:
    save_file({key: value.clone() for key, value in state.items()}, folder / "published.safetensors")
    return folder / "published.safetensors"


def weights_of(network: str, **options: object) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return create_backbone(network, pooling="own", options=options.items()).state_dict()


@pytest.mark.parametrize("network", [VIT, "test_resnet", "test_mambaout", "mobilenetv3_small_050"])
def test_any_network_of_timm_is_adopted_with_its_own_pooling_and_size(network: str, tmp_path: Path) -> None:
    backbone = create_backbone(network, pooling="own").eval()
    path = saved(tmp_path, backbone.state_dict())

    adopted = adopt(path, family_of_network(network), network=network)

    films = torch.rand(2, 3, adopted.preprocessing.size, adopted.preprocessing.size)
    with torch.inference_mode():
        torch.testing.assert_close(adopted.encoder.pool_films(films, 0), backbone(films))
        assert adopted.encoder(films).shape == (2, adopted.encoder.embedding_dim)
    assert adopted.encoder.trained


def test_the_file_keeps_family_licence_and_the_sources_sha256(tmp_path: Path) -> None:
    path = saved(tmp_path, weights_of(VIT))
    adopted = adopt(path, family_of_network(VIT), network=VIT)
    save_encoder(tmp_path / "encoder.safetensors", adopted.encoder, adopted.preprocessing)

    encoder, preprocessing = load_encoder(tmp_path / "encoder.safetensors")

    assert encoder.source == {
        "family": f"timm's {VIT}",
        "licence": "see its publisher",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    before = fingerprint_of(encoder, preprocessing)
    encoder.source = None  # whence the weights came changes no vector
    assert fingerprint_of(encoder, preprocessing) == before


@pytest.mark.parametrize("source", ['["a"]', '{"a": 1}', '{"a": "' + 501 * "x" + '"}', "{", '{"a": NaN}'])
def test_a_source_that_is_no_short_list_of_words_is_refused(source: str, tmp_path: Path) -> None:
    adopted = adopt(saved(tmp_path, weights_of(VIT)), family_of_network(VIT), network=VIT)
    save_encoder(tmp_path / "encoder.safetensors", adopted.encoder, adopted.preprocessing)
    with safe_open(tmp_path / "encoder.safetensors", framework="pt") as file:
        metadata = {**file.metadata(), "source": source}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    del metadata["precedent.seal"]
    save_file(state, tmp_path / "changed.safetensors", metadata)
    with pytest.raises(CheckpointError):
        load_encoder(tmp_path / "changed.safetensors")


def test_positions_of_another_grid_are_resampled_and_a_size_of_no_whole_patches_is_refused(tmp_path: Path) -> None:
    path, family = saved(tmp_path, weights_of(VIT)), family_of_network(VIT)

    adopted = adopt(path, dataclasses.replace(family, size=96), network=VIT)

    with torch.inference_mode():
        assert adopted.encoder(torch.rand(1, 3, 96, 96)).isfinite().all()
    assert dict(adopted.encoder.config.options) == {"img_size": 96}


def test_a_file_within_another_is_found_by_its_prefix_and_two_are_asked_about(tmp_path: Path) -> None:
    state, family = weights_of(VIT), family_of_network(VIT)
    one = {f"student.{key}": value for key, value in state.items()} | {"text_model.weight": torch.ones(2)}
    adopted = adopt(saved(tmp_path, one), family, network=VIT)
    assert (adopted.used, adopted.left) == (len(state), 1)

    path = saved(tmp_path, one | {f"teacher.{key}": value for key, value in state.items()})
    with pytest.raises(WeightsError, match=r"got 2, with names that begin with 'student.', 'teacher.'; choose one"):
        adopt(path, family, network=VIT)
    assert adopt(path, family, network=VIT, prefix="teacher").used == len(state)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"blocks.0.extra.weight": torch.ones(96)},
            r"0 of \d+ tensors are missing.*and 1 of the file's \d+ have no place",
        ),
        ({"norm.weight": torch.ones(3)}, r"1 of \d+ tensors are missing or of another shape \(first: norm.weight\)"),
        ({"patch_embed.proj.weight": torch.ones(96, 7, 16, 16)}, "without a first convolution of 1 or 3 channels"),
        ({"patch_embed.proj.bias": torch.full((96,), torch.nan)}, "got others in 1 of .* tensors, 'patch_embed.proj.b"),
        ({"pos_embed": torch.ones(1, 7, 96)}, r"1 of \d+ tensors are missing or of another shape \(first: pos_embed\)"),
    ],
)
def test_weights_of_another_network_are_refused_with_counts(
    change: dict[str, Tensor], sentence: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, weights_of(VIT) | change)
    with pytest.raises(WeightsError, match=sentence):
        adopt(path, family_of_network(VIT), network=VIT)


def test_weights_of_another_family_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, weights_of(VIT))
    with pytest.raises(WeightsError, match=r"first convolution of 768 \(vit_base_patch14_dinov2\) outputs .* got 96"):
        adopt(path, family_of("rad-dino"))
    with pytest.raises(WeightsError, match=r"got 1 tensors, 'x' first, without a first convolution"):
        adopt(saved(tmp_path, {"x": torch.ones(2)}), family_of("rad-dino"))
    with pytest.raises(WeightsError, match=r"expected a family of rad-dino, .* got 'rad-dina'; --network takes any"):
        family_of("rad-dina")


@pytest.mark.parametrize("name", ["hf-hub:microsoft/rad-dino", "microsoft/rad-dino", "weights.safetensors"])
def test_what_is_no_file_here_is_not_asked_for_elsewhere(name: str) -> None:
    with pytest.raises(WeightsError, match=r"no weights file .* nothing is downloaded"):
        adopt(Path(name), family_of("rad-dino"))
    with pytest.raises(WeightsError, match="expected the name of a timm network, got"):
        family_of_network(name)


def test_a_pickle_is_refused_with_the_place_of_the_line_that_converts_it(tmp_path: Path) -> None:
    torch.save(weights_of(VIT), tmp_path / "published.pth")
    with pytest.raises(WeightsError, match=r"is a pickle.*encoder/README\.md has the line"):
        adopt(tmp_path / "published.pth", family_of_network(VIT), network=VIT)


@pytest.mark.slow
def test_every_family_is_as_wide_as_it_says() -> None:
    for family in FAMILIES.values():
        for network, dim in zip(family.networks.values(), family.dims.split(", "), strict=True):
            options = dict(family.options) | ({"num_classes": family.projection} if family.projection else {})
            config = EncoderConfig("single", network, embedding_dim=0, pooling="own", options=tuple(options.items()))
            assert outline_of(config).embedding_dim == int(dim), family.name


@pytest.mark.slow
def test_torchxrayvisions_resnet_is_rescaled_like_its_densenets(tmp_path: Path) -> None:
    backbone = create_backbone("resnet50", in_chans=1)
    state = backbone.state_dict()
    published = state | {"conv1.weight": state["conv1.weight"] / 1024}
    path = saved(tmp_path, published | {"fc.weight": torch.ones(18, 2048), "fc.bias": torch.ones(18)})
    loaded = create_backbone("resnet50", in_chans=1)

    load_backbone_weights(loaded, "resnet50", str(path), in_chans=1)

    torch.testing.assert_close(loaded.state_dict()["conv1.weight"], state["conv1.weight"])
    adopted = adopt(path, dataclasses.replace(family_of("xrv-resnet"), size=64))
    torch.testing.assert_close(adopted.encoder.backbones[0].state_dict()["conv1.weight"], state["conv1.weight"])
    assert adopted.preprocessing.mean == (0.5,)
    assert adopted.left == 2


def test_the_guide_lists_every_family_as_it_is() -> None:
    guide = (ROOT / "encoder" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in guide.splitlines() if line.startswith("| `") and line.count("|") == 6]
    shown = [row for row in rows if row.split("`")[1] in FAMILIES]
    assert shown == [
        f"| `{family.name}` | {', '.join(f'`{network}`' for network in family.networks.values())} "
        f"| {family.size} {family.fit} | {family.dims} | {family.licence} |"
        for family in FAMILIES.values()
    ]
