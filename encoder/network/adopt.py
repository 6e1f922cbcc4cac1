"""A published network's weights, as its publisher names them, made an encoder of ours that nobody trained further."""

import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from encoder.errors import WeightsError
from encoder.files import open_regular
from encoder.films.preprocess import Preprocessing
from encoder.network.backbone import COUNTER, published_configuration, read_weights, size_option
from encoder.network.config import EncoderConfig
from encoder.network.families import FAMILIES, Family
from encoder.network.model import StudyEncoder
from encoder.network.single import build_encoder, require_side

State = dict[str, Tensor]

_VIT = [
    (r"^(?:encoder\.layers?|layer|model\.layer)\.(\d+)\.", r"blocks.\1."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.(?:attention\.attention|attention|self_attn)\.([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.(?:up_proj|weights_in)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:down_proj|weights_out)\.", ".mlp.fc2."),
    (r"^embeddings\.patch_embeddings?(?:\.projection)?\.", "patch_embed.proj."),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.(?:cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.position_embeddings?(?:\.weight)?$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(?:post_layernorm|layernorm)\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
]
"""Hugging Face's names of DINOv2, DINOv3, CLIP and SigLIP, and what timm calls the same."""
_SWIN = [
    (r"^encoder\.layers\.", "layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.([qkv])(?:uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^layernorm\.", "norm."),
]
"""Hugging Face's names of Swin, and what timm calls the same; its filter moves the layers that halve the grid."""
_OTHER_PARTS = re.compile(
    r"(?:.*\.)?(?:mask_token|position_ids|relative_position_index|attn_mask|op_threshs)$"
    r"|(?:text_model|text_projection|lm_head|pooler|projector|omni_heads|decoder_\w+|head_dist)\b|logit_\w+$|queue"
)
"""Tensors that a file may hold beside those of the network, and that its vectors do not depend on."""


@dataclass(frozen=True)
class Adopted:
    """An encoder made of published weights."""

    encoder: StudyEncoder
    preprocessing: Preprocessing
    used: int
    """Tensors of the network, all of which come from the file."""
    left: int
    """Tensors of the file that are of other parts: a text encoder, a classifier, a mask token."""


@dataclass(frozen=True)
class _Core:
    """The part of a file that one network's tensors are in."""

    state: State
    width: int
    """Output channels of the first convolution."""
    channels: int
    """Its input channels, 1 or 3."""
    outside: int
    """Tensors of the file that are not in it."""


def family_of(name: str) -> Family:
    """Return a family by its name. Raises WeightsError: there is none."""
    if name not in FAMILIES:
        raise WeightsError(
            f"expected a family of {', '.join(FAMILIES)}, got {name[:200]!r}; --network takes any network of timm"
        )
    return FAMILIES[name]


def family_of_network(name: str) -> Family:
    """Return what timm's own configuration says of a network: its size, its statistics. Raises WeightsError."""
    published = published_configuration(name)
    size, mean, std = int(published.input_size[-1]), tuple(published.mean), tuple(published.std)
    return Family(f"timm's {name}", {}, "see its publisher", size=size, mean=mean, std=std)


def adopt(
    path: Path, family: Family, *, network: str | None = None, prefix: str | None = None, projected: bool = True
) -> Adopted:
    """Return a frozen encoder of published weights: a study is the mean of its films, pooled as published.

    Args:
        path: a safetensors file, in its publisher's names or timm's.
        network: timm's name, in the place of the family's.
        prefix: what the names of the network's tensors begin with, for a file that holds several networks.
        projected: whether vectors are taken after the projection into the space of a text encoder, where there is one.

    Raises:
        WeightsError: the file is missing, unreadable, or of another network. EncoderError: a size it does not take.
    """
    stored = read_weights(path)
    damaged = [name for name, value in stored.items() if value.is_floating_point() and not value.isfinite().all()]
    if damaged:
        raise WeightsError(
            f"expected finite weights in {str(path)!r}, got others in {len(damaged)} of {len(stored)} tensors, "
            f"{damaged[0][:200]!r} first; copy it again"
        )
    core = _core_of(stored, network, prefix, path)
    name = network or _network_of(family, core, path)
    config = _config_of(family, name, core.channels, projected)
    require_side(config, family.size)
    encoder = build_encoder(config)
    fitted, dropped = _fitted(core.state, encoder.backbones[0], config, path)
    first = _first_of(name)
    fitted[first] = fitted[first] * family.first_scale
    encoder.backbones[0].load_state_dict(fitted)
    encoder.trained = True
    encoder.source = {"family": family.name, "licence": family.licence, "sha256": _sha256_of(path)}
    mean, std = (_per_channel(values, config.in_chans) for values in (family.mean, family.std))
    preprocessing = Preprocessing(size=family.size, fit=family.fit, margin=family.margin, mean=mean, std=std)
    return Adopted(encoder.eval(), preprocessing, len(fitted), core.outside + dropped)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def _sha256_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def _core_of(stored: State, network: str | None, prefix: str | None, path: Path) -> _Core:
    """Return the tensors of a file that are one network's, by the names that tell it."""
    known = (*_NAMINGS, *([_Naming(_first_of(network))] if network else []))
    for naming in known:
        anchor = naming.anchor
        prefixes = [key.removesuffix(anchor) for key in stored if key == anchor or key.endswith(f".{anchor}")]
        begins = [start for start in prefixes if prefix is None or start.rstrip(".") == prefix.rstrip(".")]
        if len(begins) > 1:
            raise WeightsError(
                f"expected one network in {str(path)!r}, got {len(begins)}, with names that begin with "
                f"{', '.join(repr(start[:80]) for start in begins[:4])}; choose one with --prefix"
            )
        if begins:
            inside = {key.removeprefix(begins[0]): value for key, value in stored.items() if key.startswith(begins[0])}
            first = inside.get(naming.first or anchor)
            if first is not None and first.ndim == 4 and first.shape[1] in (1, 3):
                return _Core(naming.named(inside, stored), first.shape[0], first.shape[1], len(stored) - len(inside))
    raise WeightsError(
        f"expected the weights of a network for films in {str(path)!r}, got {len(stored)} tensors"
        f"{f', {next(iter(stored))[:200]!r} first' if stored else ''}, without a first convolution of 1 or 3 channels "
        f"that is named as Hugging Face, timm, open_clip or torchvision name it"
    )


def _network_of(family: Family, core: _Core, path: Path) -> str:
    if core.width not in family.networks:
        known = ", ".join(f"{width} ({name})" for width, name in family.networks.items())
        raise WeightsError(
            f"expected a first convolution of {known} outputs for family {family.name!r}, got {core.width} in "
            f"{str(path)!r}; is it of another family?"
        )
    return family.networks[core.width]


def _config_of(family: Family, network: str, channels: int, projected: bool) -> EncoderConfig:
    options = dict(family.options) | dict(size_option(network, family.size))
    if family.projection and projected:
        options["num_classes"] = family.projection
    return EncoderConfig(
        architecture="single",
        backbone=network,
        embedding_dim=0,
        dropout=0.0,
        in_chans=channels,
        pooling="own",
        options=tuple(options.items()),
    )


def _fitted(core: State, backbone: nn.Module, config: EncoderConfig, path: Path) -> tuple[State, int]:
    """Return the network's tensors, float32, and how many of the file it has no use for. Raises WeightsError."""
    filtered = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    try:
        named = dict(core) if filtered is None else filtered(dict(core), backbone)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise WeightsError(
            f"expected the weights of {config.backbone!r} in {str(path)!r}, got other tensors than timm can rename "
            f"({str(error)[:200]}); was it saved from another network?"
        ) from error
    expected = {key: value for key, value in backbone.state_dict().items() if not key.endswith(COUNTER)}
    classifier = published_configuration(config.backbone).classifier
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    for head in heads:  # a projection has no bias, timm's classifier has
        if f"{head}.bias" in expected and f"{head}.weight" in named:
            named.setdefault(f"{head}.bias", torch.zeros_like(expected[f"{head}.bias"]))
    missing = [key for key, value in expected.items() if key not in named or named[key].shape != value.shape]
    others = [key for key in named if key not in expected and not key.endswith(COUNTER)]
    unknown = [
        key for key in others if not _OTHER_PARTS.match(key) and not key.startswith(tuple(f"{head}." for head in heads))
    ]
    if missing or unknown:
        without = "; --no-projection does without" if missing == [f"{head}.weight" for head in heads] else ""
        raise WeightsError(
            f"expected the weights of {config.backbone!r} in {str(path)!r}; {len(missing)} of {len(expected)} tensors "
            f"are missing or of another shape{_first_named(missing)}, and {len(unknown)} of the file's {len(named)} "
            f"have no place in it{_first_named(unknown)}; was it saved from another network?{without}"
        )
    return {key: named[key].float() for key in expected}, len(others)


def _first_named(keys: Sequence[str]) -> str:
    return f" (first: {keys[0][:200]})" if keys else ""


def _first_of(network: str) -> str:
    """Return the name of the weights of a network's first convolution, as timm names it. Raises WeightsError."""
    first = published_configuration(network).first_conv
    if not isinstance(first, str):
        raise WeightsError(f"expected a network with one first convolution, got {network!r} with {first!r}")
    return f"{first}.weight"


def _renamed(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> State:
    """Return tensors by timm's names, with queries, keys and values joined."""
    named: State = {}
    for key, value in state.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        named[key] = value
    for key in [key for key in named if ".attn.q." in key]:
        parts = [named.pop(key.replace(".attn.q.", f".attn.{letter}."), None) for letter in "qkv"]
        block, leaf = key.split(".attn.q.")
        if all(part is not None for part in parts):
            named[f"{block}.attn.qkv.{leaf}"] = torch.cat([part for part in parts if part is not None])
        else:  # DINOv3's keys have no bias
            named |= {
                f"{block}.attn.{at}_{leaf}": part for at, part in zip("qkv", parts, strict=True) if part is not None
            }
    return named


def _of_transformers(state: State, stored: State) -> State:
    """Return a vision transformer's tensors as timm names them, of Hugging Face's names."""
    if any(key.startswith("encoder.layers.0.blocks.") for key in state):
        return _renamed(state, _SWIN)
    named = _renamed(state, _VIT)
    named.pop("embeddings.mask_token", None)
    if "embeddings.patch_embeddings.weight" in state:  # DINOv3's blocks are Eva's
        return {re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", key): value for key, value in named.items()}
    if "visual_projection.weight" in stored:
        named["head.weight"] = stored["visual_projection.weight"]
    for key in ("cls_token", "pos_embed"):
        if key in named:
            named[key] = named[key].reshape(1, -1, named[key].shape[-1])
    for leaf in ("weight", "bias"):
        if f"attn_pool.qkv.{leaf}" in named:
            query, *rest = named.pop(f"attn_pool.qkv.{leaf}").chunk(3)
            named |= {f"attn_pool.q.{leaf}": query, f"attn_pool.kv.{leaf}": torch.cat(rest)}
    if "reg_token" in named:  # timm adds positions to patches alone: the class token takes its own
        positions = named["pos_embed"]
        named |= {"cls_token": named["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    return named


def _of_davit(state: State, stored: State) -> State:
    """Return DaViT's tensors under the prefix that timm's filter knows; the projection becomes a layer."""
    named = {
        f"vision_tower.{re.sub('^norms[.]', 'head.norm.', key)}": value
        for key, value in state.items()
        if not key.startswith("head.")
    }
    if "image_projection" in stored:
        named["vision_tower.head.fc.weight"] = stored["image_projection"].T.contiguous()
    return named


def _of_open_clip(state: State, stored: State) -> State:
    """Return the tensors of an image tower with the prefix that timm's filter knows."""
    return {f"visual.{key}": value for key, value in state.items()}


@dataclass(frozen=True)
class _Naming:
    """How a kind of file is recognised, and what turns its names into timm's."""

    anchor: str
    """Name of a tensor that only this kind has."""
    first: str = ""
    """Name of the first convolution's weights, where that is another."""
    named: Callable[[State, State], State] = lambda state, stored: dict(state)
    """Gives the network's tensors by timm's names; is given those within the prefix, and all of the file."""


_NAMINGS = (
    _Naming("embeddings.patch_embeddings.projection.weight", named=_of_transformers),
    _Naming("embeddings.patch_embeddings.weight", named=_of_transformers),
    _Naming("embeddings.patch_embedding.weight", named=_of_transformers),
    _Naming("trunk.patch_embed.proj.weight", named=_of_open_clip),
    _Naming("class_embedding", "conv1.weight", _of_open_clip),
    _Naming("convs.0.proj.weight", named=_of_davit),
    _Naming("patch_embed.proj.weight"),
    _Naming("layer1.0.conv1.weight", "conv1.weight"),
    _Naming("features.conv0.weight"),
)
