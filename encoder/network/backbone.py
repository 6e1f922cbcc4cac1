"""Any timm network as a backbone: its features, its input normalisation, and the weights it starts from."""

import contextlib
import copy
import difflib
import importlib.util
import math
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn

from encoder.errors import CheckpointError, WeightsError
from encoder.files import load_tensors


def _declare_missing_torchvision_operators() -> None:
    """Let timm import where torchvision was built for another torch than the one installed.

    A CPU build of torch beside the registry's CUDA build of torchvision fails with `operator torchvision::nms does
    not exist`. timm needs only torchvision's Python part, so declaring the two operators that its import looks
    up is enough. Where torchvision's own operators load, nothing is declared.
    """
    package = importlib.util.find_spec("torchvision")
    if package is None or package.submodule_search_locations is None:
        return
    for library in Path(package.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            break
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_declare_missing_torchvision_operators()

import timm.utils  # noqa: E402  (only importable once the operators above are declared)
from timm.layers import SelectAdaptivePool2d  # noqa: E402

COUNTER = "num_batches_tracked"  # of batch normalisation; older files lack it and nothing here reads it
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
_XRV_HEADS = {"features.conv0.weight": "classifier.weight", "conv1.weight": "fc.weight"}
"""First and last weights of torchxrayvision's DenseNets and ResNets."""
_XRV_OUTPUTS = 18
XRV_RANGE = 1024.0
"""torchxrayvision's films lie in [-1024, 1024]."""


class Backbone(Protocol):
    """What every timm network can do."""

    num_features: int
    num_classes: int

    def __call__(self, films: Tensor) -> Tensor:
        """Return pooled features (B, F) of films (B, C, S, S)."""

    def forward_features(self, films: Tensor) -> Tensor:
        """Return the last feature map (B, F, h, w)."""

    def forward_head(self, feature_map: Tensor) -> Tensor:
        """Return the pooled features (B, F) of a feature map."""


def create_backbone(
    name: str, *, in_chans: int = 3, pooling: str = "avg", options: Iterable[tuple[str, Any]] = ()
) -> nn.Module:
    """Return an untrained timm network, without a classifier unless the options give `num_classes`.

    Args:
        pooling: avg or avgmax; `own` leaves it to the network.
        options: further arguments of `timm.create_model`.

    Raises:
        WeightsError: timm has no network of that name, or the network has no such pooling or option.
    """
    _require_known(name)
    given: dict[str, Any] = {
        "num_classes": 0,
        "in_chans": in_chans,
        **({} if pooling == "own" else {"global_pool": pooling}),
    }
    given.update(options)
    try:
        return timm.create_model(name, pretrained=False, **given)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        listed = ", ".join(f"{key} {value!r}" for key, value in sorted(given.items()))
        raise WeightsError(f"expected options that {name!r} has, got {listed} ({str(error)[:200]})") from error


def _require_known(name: str) -> None:
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5)) or "see timm.list_models()"
        raise WeightsError(f"expected the name of a timm network, got {name!r}; close to it: {near}")


def pooled_width(backbone: Backbone) -> int:
    """Return F, how many values a network pools a film to; some have a layer between the last map and these."""
    return backbone.num_classes or int(getattr(backbone, "head_hidden_size", backbone.num_features))


def size_option(name: str, side: int) -> tuple[tuple[str, int], ...]:
    """Return what a network is told of its films' side, for `options`: nothing where it takes any, or has that side."""
    published = published_configuration(name)
    return (("img_size", side),) if published.fixed_input_size and published.input_size[-1] != side else ()


def create_pooling(pooling: str) -> nn.Module:
    """Return what pools a map (B, F, h, w) to (B, F), as `create_backbone` builds it in."""
    return SelectAdaptivePool2d(pool_type=pooling, flatten=True)


def forward_stages(backbone: Backbone, films: Tensor, numbers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Return the last feature map (B, F, h, w) and the maps at the end of some stages, of one pass.

    Raises:
        WeightsError: the network has no stage of such a number.
    """
    count = len(stage_channels(backbone))
    outside = [number for number in numbers if not 0 <= number < count]
    if outside:
        raise WeightsError(f"expected a stage of 0 to {count - 1}, got {outside[0]}")
    last, maps = cast(Any, backbone).forward_intermediates(films, indices=list(numbers))
    return last, list(maps)


def layout_of(backbone: Backbone) -> str:
    """Return how a network's last features lie: NCHW, NHWC, or NLC, tokens of the patches after other tokens."""
    if hasattr(backbone, "blocks") and getattr(backbone, "num_prefix_tokens", None) is not None:
        return "NLC"
    return str(getattr(backbone, "output_fmt", "NCHW"))


def forward_last_block(backbone: Backbone, films: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last features (B, N, F) of a network of blocks, and the tokens (B, N, F) before its last block.

    The features depend on these tokens, which need a gradient. After the last block the gradient would be 0 at every
    patch where the class token alone is pooled.
    """
    network = cast(Any, backbone)
    blocks = [_Block(block) for block in network.blocks]
    blocks[-1].taped = True
    taped = copy.copy(network)
    taped._modules = dict(network._modules)  # the network itself stays as it is, for other threads
    taped.blocks = nn.Sequential(*blocks) if isinstance(network.blocks, nn.Sequential) else nn.ModuleList(blocks)
    return taped.forward_features(films), blocks[-1].tokens


class _Block(nn.Module):
    """A block that leaves no gradient; of the last one the input, cut off from what made it, has one."""

    tokens: Tensor
    taped = False

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor, *given: Any, **named: Any) -> Any:
        """Return what the block gives."""
        if self.taped:
            self.tokens = tokens.detach().requires_grad_()
            return self.block(self.tokens, *given, **named)
        with torch.no_grad():
            return self.block(tokens, *given, **named)


def as_map(features: Tensor, layout: str, backbone: Backbone) -> Tensor:
    """Return a network's features as a map (B, F, h, w). Raises WeightsError: they are of no square grid."""
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if layout == "NHWC" else features
    patches = features[:, getattr(backbone, "num_prefix_tokens", 0) :] if layout == "NLC" else features
    side = math.isqrt(patches.shape[1])
    if patches.ndim != 3 or side * side != patches.shape[1]:
        raise WeightsError(
            "expected a network of maps, or of blocks over a square of patches, for a class activation map, got "
            f"features of shape {tuple(features.shape)}; take integrated_gradients or gradient_shap"
        )
    return patches.transpose(1, 2).unflatten(2, (side, side))


def stage_channels(backbone: Backbone) -> list[int]:
    """Return the channels at the end of each stage, from 1/2 of the film's side on."""
    stages = cast(Any, backbone).feature_info  # a list, or an object around one, as the family has it
    return [int(stage["num_chs"]) for stage in getattr(stages, "info", stages)]


def input_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the (mean, std) a channel that timm's own configuration of the network asks for, in units of [0, 1]."""
    config = published_configuration(name)
    return tuple(config.mean), tuple(config.std)


def published_configuration(name: str) -> Any:
    """Return timm's own configuration of a network: `input_size`, `mean`, `std`, `fixed_input_size`, `classifier`.

    Raises:
        WeightsError: timm has no network of that name, or no configuration for it.
    """
    _require_known(name)
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise WeightsError(f"timm has no input configuration for {name!r}; name another network")
    return config


def load_backbone_weights(backbone: nn.Module, name: str, weights: str, *, in_chans: int = 3) -> None:
    """Fill a backbone in place.

    Args:
        weights: `none` leaves it as it is, `imagenet` asks timm's hub, anything else is a safetensors file that
            holds the backbone's own state dict, or a DenseNet-121 or ResNet-50 of torchxrayvision.

    Raises:
        WeightsError: the hub cannot be reached, or the file is missing or belongs to another network.
    """
    if weights == "none":
        return
    state = _hub_weights(name, in_chans) if weights == "imagenet" else _file_weights(Path(weights))
    expected = {key: value for key, value in backbone.state_dict().items() if not key.endswith(COUNTER)}
    unusable = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    if unusable:
        raise WeightsError(
            f"expected the weights of {name!r} in {weights}; {len(unusable)} of {len(expected)} tensors are "
            f"missing or of another shape (first: {unusable[0]}); was it saved from another network?"
        )
    backbone.load_state_dict({key: state[key] for key in expected}, strict=False)


def _hub_weights(name: str, in_chans: int) -> dict[str, Tensor]:
    published = timm.get_pretrained_cfg(name)
    hub_id = published.hf_hub_id if published else None
    if not hub_id:
        raise WeightsError(f"timm publishes no ImageNet weights of {name!r}; give a file or --weights none")
    try:
        if try_to_load_from_cache(hub_id, "model.safetensors") is None:
            _touch_hub()
        pretrained = timm.create_model(name, pretrained=True, num_classes=0, in_chans=in_chans)
    except OSError as error:
        raise WeightsError(
            f"the ImageNet weights of {name!r} are not on this machine and timm's hub cannot be reached "
            f"({constants.ENDPOINT}); give a file (--weights backbone.safetensors) or start from random weights "
            "(--weights none)"
        ) from error
    return pretrained.state_dict()


def _touch_hub() -> None:
    """Fail within seconds where the hub is out of reach; its own client would retry for a minute."""
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=5):
        pass


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        WeightsError: it is missing, a pickle, or cannot be read.
    """
    if path.suffix in _PICKLES and path.is_file():
        raise WeightsError(
            f"{str(path)!r} is a pickle, which can run code when it is read, so it is not; where you trust it, read it "
            "with torch and write its state dict with safetensors.torch.save_file (encoder/README.md has the line)"
        )
    try:
        return load_tensors(path, "copy it again")[1]
    except FileNotFoundError as error:
        raise WeightsError(
            f"no weights file {str(path)!r}; nothing is downloaded: give the path of a safetensors file"
        ) from error
    except CheckpointError as error:
        raise WeightsError(str(error)) from error


def _file_weights(path: Path) -> dict[str, Tensor]:
    """Return a file's weights; torchxrayvision's for films in [-1, 1]: no other network of these has one grey channel
    and 18 outputs."""
    state = read_weights(path)
    for first, head in _XRV_HEADS.items():
        if {first, head} <= state.keys() and state[first].shape[1] == 1 and len(state[head]) == _XRV_OUTPUTS:
            return {**state, first: state[first] * XRV_RANGE}  # the first layer has no bias
    return state
