"""Any timm network as a backbone: its features, its input normalisation, and the weights it starts from."""

import contextlib
import difflib
import importlib.util
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from encoder.errors import CheckpointError, WeightsError
from encoder.files import open_regular


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

_COUNTER = "num_batches_tracked"  # of batch normalisation; older files lack it and nothing here reads it
_FIRST = "features.conv0.weight"
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
_XRV_OUTPUTS = 18
_XRV_RANGE = 1024.0


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
    name: str, *, in_chans: int = 3, pooling: str = "avg", options: Iterable[tuple[str, object]] = ()
) -> nn.Module:
    """Return an untrained timm network, without a classifier unless the options give `num_classes`.

    Args:
        pooling: avg or avgmax; `own` leaves it to the network.
        options: further arguments of `timm.create_model`.

    Raises:
        WeightsError: timm has no network of that name, or the network has no such pooling or option.
    """
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5)) or "see timm.list_models()"
        raise WeightsError(f"expected the name of a timm network, got {name!r}; close to it: {near}")
    given: dict[str, Any] = {
        "num_classes": 0,
        "in_chans": in_chans,
        **({} if pooling == "own" else {"global_pool": pooling}),
    }
    given.update(options)
    try:
        return timm.create_model(name, pretrained=False, **given)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        told = ", ".join(f"{key} {value!r}" for key, value in sorted(given.items()))
        raise WeightsError(f"expected options that {name!r} has, got {told} ({str(error)[:200]})") from error


def pooled_width(backbone: Backbone) -> int:
    """Return F, how many values a network pools a film to; some have a layer between the last map and these."""
    return backbone.num_classes or int(getattr(backbone, "head_hidden_size", backbone.num_features))


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


def stage_channels(backbone: Backbone) -> list[int]:
    """Return the channels at the end of each stage, from 1/2 of the film's side on."""
    stages = cast(Any, backbone).feature_info  # a list, or an object around one, as the family has it
    return [int(stage["num_chs"]) for stage in getattr(stages, "info", stages)]


def input_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the (mean, std) a channel that timm's own configuration of the network asks for, in units of [0, 1]."""
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise WeightsError(f"timm has no input configuration for {name!r}; name another backbone")
    return tuple(config.mean), tuple(config.std)


def load_backbone_weights(backbone: nn.Module, name: str, weights: str, *, in_chans: int = 3) -> None:
    """Fill a backbone in place.

    Args:
        weights: `none` leaves it as it is, `imagenet` asks timm's hub, anything else is a safetensors file that
            holds the backbone's own state dict, or a DenseNet-121 of torchxrayvision.

    Raises:
        WeightsError: the hub cannot be reached, or the file is missing or belongs to another network.
    """
    if weights == "none":
        return
    state = _hub_weights(name, in_chans) if weights == "imagenet" else _file_weights(Path(weights))
    expected = {key: value for key, value in backbone.state_dict().items() if not key.endswith(_COUNTER)}
    unusable = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    if unusable:
        raise WeightsError(
            f"expected the weights of {name!r} in {weights}; {len(unusable)} of {len(expected)} tensors are "
            f"missing or of another shape (first: {unusable[0]}); was it saved from another network?"
        )
    backbone.load_state_dict({key: state[key] for key in expected}, strict=False)


def _hub_weights(name: str, in_chans: int) -> dict[str, torch.Tensor]:
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


def _file_weights(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix in _PICKLES and path.is_file():
        raise WeightsError(
            f"{str(path)!r} is a pickle, which can run code when it is read, so it is not; where you trust it, read it "
            "with torch and write its state dict with safetensors.torch.save_file (README, section Recipes)"
        )
    try:
        open_regular(path).close()
        state = load_file(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WeightsError(
            f"no weights file {str(path)!r}; expected 'imagenet', 'none' or a safetensors file"
        ) from error
    except (SafetensorError, CheckpointError, RuntimeError) as error:
        raise WeightsError(f"{str(path)!r} is not a readable safetensors file ({error})") from error
    return _rescaled(state) if _is_torchxrayvision(state) else state


def _is_torchxrayvision(state: dict[str, torch.Tensor]) -> bool:
    """Return whether weights are torchxrayvision's: no other DenseNet-121 has one grey channel and 18 outputs."""
    first, head = state.get(_FIRST), state.get("classifier.weight")
    return first is not None and head is not None and first.shape[1] == 1 and len(head) == _XRV_OUTPUTS


def _rescaled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return torchxrayvision's weights for films in [-1, 1]: its own are in [-1024, 1024], and the first layer, which
    has no bias, takes the factor."""
    return {**state, _FIRST: state[_FIRST] * _XRV_RANGE}
