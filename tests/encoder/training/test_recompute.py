import copy

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from encoder.training.recompute import held_statistics


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))


def test_a_checkpointed_step_leaves_the_statistics_and_gradients_of_a_usual_one() -> None:
    usual = network()
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
    held = network()
    films = torch.randn(5, 1, 8, 8)

    with held_statistics(held):
        held(films + 9)

    assert torch.equal(held[1].running_mean, torch.zeros(4))
    held(films)
    assert torch.allclose(held[1].running_mean, 0.1 * held[0](films).mean((0, 2, 3)), atol=1e-6)
