"""Learning rates against PyTorch's own schedules; which weights belong to which group and stage."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts
from torch.utils.checkpoint import checkpoint

from encoder.network.backbone import create_backbone
from encoder.training.optimizer import (
    build_optimizer,
    freeze_stages,
    held_statistics,
    rate_factor,
    running_average,
    set_rate,
    side_of,
    stages_of,
)
from encoder.training.options import OptimizerOptions, ScheduleOptions


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


@pytest.mark.parametrize(("t_0", "t_mult"), [(5, 2), (3, 1), (4, 3)])
def test_warm_restarts_follow_pytorchs_curve_within_epochs_too(t_0: int, t_mult: int) -> None:
    optimizer = sgd()
    theirs = CosineAnnealingWarmRestarts(optimizer, t_0, t_mult, eta_min=0.01)
    options = ScheduleOptions("cosine_restarts", warmup_epochs=0, minimum=0.01, t_0=t_0, t_mult=t_mult)

    for step in range(1, 40 * 8):
        theirs.step(step / 8)
        assert rate_factor(options, step / 8, 40) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)


def test_a_cosine_follows_pytorchs_curve_to_the_end_of_the_run() -> None:
    optimizer = sgd()
    theirs = CosineAnnealingLR(optimizer, 20, eta_min=0.05)
    options = ScheduleOptions("cosine", warmup_epochs=0, minimum=0.05)

    for epoch in range(20):
        assert rate_factor(options, epoch, 20) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no step was taken
            theirs.step()


def test_a_restart_may_reach_a_lower_peak_and_a_warm_up_rises_from_nothing() -> None:
    options = ScheduleOptions("cosine_restarts", 0, 0.0, t_0=5, t_mult=2, restart_factor=0.8)
    warm = ScheduleOptions("constant", warmup_epochs=2)

    assert [rate_factor(options, epoch, 50) for epoch in (0, 5, 15)] == pytest.approx([1, 0.8, 0.64])
    assert [rate_factor(warm, epoch, 50) for epoch in (0, 1, 2, 30)] == pytest.approx([0, 0.5, 1, 1], abs=1e-3)


def test_films_grow_to_the_inputs_size_which_the_last_epoch_has_in_any_case() -> None:
    growing, still = ScheduleOptions(first_size=128), ScheduleOptions()

    assert [side_of(growing, 192, epoch, 9) for epoch in range(9)] == [128, 128, 128, 160, 160, 160, 192, 192, 192]
    assert [side_of(growing, 192, epoch, 2) for epoch in range(2)] == [128, 192]
    assert side_of(growing, 192, 0, 1) == 192
    assert {side_of(still, 192, epoch, 9) for epoch in range(9)} == {192}
    assert side_of(growing, 96, 0, 9) == 96


def test_rates_of_groups_keep_their_ratio_whatever_the_factor() -> None:
    network = nn.ModuleDict({"backbones": nn.Linear(3, 3), "head": nn.Linear(3, 3)})
    optimizer = build_optimizer(network, OptimizerOptions(lr=0.01, backbone_lr_factor=0.25))

    set_rate(optimizer, 0.5)

    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    assert {rates[id(one)] for one in network["backbones"].parameters()} == {0.00125}
    assert {rates[id(one)] for one in network["head"].parameters()} == {0.005}


@pytest.mark.parametrize(
    ("name", "count"), [("test_efficientnet", 6), ("resnet50", 5), ("resnetv2_50", 5), ("densenet121", 5)]
)
def test_stages_hold_every_weight_that_a_family_has_before_its_last_norm(name: str, count: int) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name)
    stages = stages_of(backbone)

    assert len(stages) == count
    staged = {id(one) for stage in stages for module in stage for one in module.parameters()}
    left = {key for key, one in backbone.named_parameters() if id(one) not in staged}
    assert all(key.startswith(("conv_head", "bn2", "norm", "fc", "head")) for key in left), left


def test_freezing_all_but_the_last_stages_and_thawing_again() -> None:
    backbone = create_backbone("test_efficientnet")

    frozen = freeze_stages(backbone, 2)

    held = {id(one) for module in frozen for one in module.parameters()}
    assert held
    assert all(one.requires_grad != (id(one) in held) for one in backbone.parameters())
    assert freeze_stages(backbone, 0) == []
    assert all(one.requires_grad for one in backbone.parameters())


def test_a_running_average_nears_weights_that_stay() -> None:
    network = nn.Linear(2, 2)
    average = running_average(network, 0.9)
    started = network.weight.detach().clone()
    with torch.no_grad():
        network.weight.add_(1)

    distances = []
    for step in range(1, 61):
        average.update(network, step)
        distances.append(float((average.module.weight - network.weight.detach()).abs().max()))

    assert distances == sorted(distances, reverse=True)
    assert 0 < distances[-1] < 0.01
    assert torch.equal(network.weight.detach(), started + 1)


def test_a_running_average_decays_less_in_its_first_steps() -> None:
    average = running_average(nn.Linear(2, 2), 0.9)

    assert [average.get_decay(step) for step in (1, 2, 8)] == pytest.approx([2 / 11, 3 / 12, 9 / 18])
    assert average.get_decay(1000) == 0.9


def normalised_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))


def test_a_checkpointed_step_leaves_the_statistics_and_gradients_of_a_usual_one() -> None:
    usual = normalised_network()
    again = copy.deepcopy(usual)
    films = torch.randn(5, 1, 8, 8)

    usual(films).sum().backward()
    loss = checkpoint(again, films, use_reentrant=False).sum()
    with held_statistics(again):
        loss.backward()

    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(usual[1], name), getattr(again[1], name))
    for one, other in zip(usual.parameters(), again.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_the_statistics_learn_again_after_the_block() -> None:
    held = normalised_network()
    films = torch.randn(5, 1, 8, 8)

    with held_statistics(held):
        held(films + 9)

    assert torch.equal(held[1].running_mean, torch.zeros(4))
    held(films)
    assert torch.allclose(held[1].running_mean, 0.1 * held[0](films).mean((0, 2, 3)), atol=1e-6)
