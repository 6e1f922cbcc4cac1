"""How weights are updated: parameter groups, frozen stages, the learning rate at each moment, a running average."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from encoder.network.backbone import timm
from encoder.training.options import OptimizerOptions, ScheduleOptions

_GROWING = 2 / 3
"""Share of the epochs over which films grow."""
_STRIDE = 32


def build_optimizer(network: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Return Adam or AdamW, fused, over four groups: backbone and the rest, each with and without weight decay.

    One-dimensional parameters (biases, normalisation) and the scale do not decay. Every group holds its `base_lr`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault((".backbones." in f".{name}", parameter.ndim > 1), []).append(parameter)
    settings = []
    for (backbone, decays), parameters in sorted(groups.items(), key=lambda group: group[0]):
        lr = options.lr * (options.backbone_lr_factor if backbone else 1.0)
        decay = options.weight_decay if decays and (options.decay_backbone or not backbone) else 0.0
        settings.append({"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay})
    kind = torch.optim.AdamW if options.kind == "adamw" else torch.optim.Adam
    return kind(settings, lr=options.lr, betas=(options.betas[0], options.betas[1]), fused=True)


def rate_factor(options: ScheduleOptions, epoch: float, epochs: int) -> float:
    """Return the learning rate at a moment, relative to the first.

    Cosine annealing and its warm restarts are of Loshchilov and Hutter, "SGDR", ICLR 2017 (equation 5). A plateau's
    reductions depend on the run and come on top of this.

    Args:
        epoch: epochs done so far, with fractions.
        epochs: length of the whole run.
    """
    warmup = min(1.0, (epoch + 1e-3) / options.warmup_epochs) if options.warmup_epochs > 0 else 1.0
    if options.kind in ("constant", "plateau"):
        return warmup
    if options.kind == "cosine":
        return warmup * _cosine(min(1.0, epoch / epochs), options.minimum)
    start, period, peak = 0.0, options.t_0, 1.0
    while epoch >= start + period:
        start, period, peak = start + period, period * options.t_mult, peak * options.restart_factor
    return warmup * peak * _cosine((epoch - start) / period, options.minimum)


def side_of(options: ScheduleOptions, size: int, epoch: int, epochs: int) -> int:
    """Return the side of an epoch's films: from `first_size` on, it grows by the stride of most networks at a time.

    Args:
        size: the side of the network's input, which the last epoch has in any case.
        epoch: epochs done so far. epochs: length of the whole run.
    """
    first, growing = min(options.first_size or size, size), epochs * _GROWING
    if epoch >= min(growing, epochs - 1):
        return size
    return first + int((size - first) * epoch / growing) // _STRIDE * _STRIDE


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its own base times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def stages_of(backbone: nn.Module) -> list[list[nn.Module]]:
    """Return a backbone's stages from the input on, the stem first; of timm's EfficientNets, ResNets and DenseNets."""
    children = dict(backbone.named_children())
    if "features" in children:
        children = dict(children["features"].named_children())
    inner = next((children[name] for name in ("blocks", "stages") if name in children), None)
    if inner is not None:
        stem = [module for name, module in children.items() if name in ("conv_stem", "bn1", "stem")]
        return [stem, *([module] for module in inner.children())]
    stages: list[list[nn.Module]] = [[]]
    for name, module in children.items():
        if name.startswith(("layer", "denseblock")):
            stages.append([])
        stages[-1].append(module)
    return stages


def freeze_stages(backbone: nn.Module, count: int) -> list[nn.Module]:
    """Freeze the first `count` stages, unfreeze the others, and return the modules that are frozen."""
    frozen: list[nn.Module] = []
    for number, stage in enumerate(stages_of(backbone)):
        for module in stage:
            module.requires_grad_(number >= count)
            if number < count:
                frozen.append(module)
    return frozen


@contextmanager
def held_statistics(network: nn.Module) -> Iterator[None]:
    """Keep running statistics of batch normalisation as they are inside the block.

    For the backward pass under gradient checkpointing, whose repeated forward pass would count each batch twice.
    What is normalised with does not change: in training that is the batch's own statistics.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def running_average(network: nn.Module, decay: float) -> Any:
    """Return timm's exponential average (ModelEmaV3) of a network's weights and batch statistics, as its `module`.

    The n-th `update`, from 1 on, decays by (1 + n) / (10 + n) where that is less than `decay`: the first steps count
    more, so that the average starts near the network.
    """
    average = timm.utils.ModelEmaV3(
        network, decay, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0, update_after_step=-2
    )
    average.module.requires_grad_(False)
    return average


def _cosine(share: float, minimum: float) -> float:
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * share)) / 2
