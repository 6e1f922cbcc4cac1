"""The processes that share one training run, each with a device of its own: together they learn what one would."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from encoder.network.backbone import timm

Made = TypeVar("Made")


class Processes:
    """The processes of a run, of which this is one; alone, nothing is shared. torch's process group must be there.

    Each takes its part of every batch. The loss is that of the whole batch, over what all have gathered, so the mean of
    their gradients is the gradient that one process would have.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: str = "cpu") -> None:
        """Take this process's number, from 0 on, how many there are, and the device that it sends from."""
        self.rank, self.count = rank, count
        self._device = device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def sizes(self, length: int) -> list[int]:
        """Return how many of so many rows each process takes."""
        return [length // self.count + (rank < length % self.count) for rank in range(self.count)]

    def part(self, length: int) -> slice:
        """Return the slice of so many rows that is this process's."""
        sizes = self.sizes(length)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def gathered(self, part: Tensor, length: int) -> Tensor:
        """Return the rows (length, ...) of all processes in their order, given this one's; gradients flow back."""
        if self.count == 1:
            return part
        whole: Tensor = _Gathered.apply(part, self.sizes(length), self.rank)
        return whole

    def average_gradients(self, network: nn.Module) -> None:
        """Replace each gradient by its mean over all processes, in one message."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        message = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(message)
        message /= self.count
        for gradient, mean in zip(gradients, message.split([part.numel() for part in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def share_statistics(self, network: nn.Module) -> nn.Module:
        """Return a network whose batch normalisation counts the films of all processes; parameters and names stay."""
        if self.count == 1:
            return network
        if next(network.parameters()).is_cuda:
            shared: nn.Module = timm.layers.convert_sync_batchnorm(network)
            return shared
        norms = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
        for name, module in norms.items():
            network.set_submodule(name, SharedBatchNorm(module, self))
        return network

    def agreed(self, number: float) -> float:
        """Return the first process's number, so that all decide alike where their clocks differ."""
        if self.count == 1:
            return number
        agreed = torch.tensor([number], dtype=torch.float64, device=self._device)
        distributed.broadcast(agreed, src=0)
        return float(agreed)

    def in_turn(self, make: Callable[[], Made]) -> Made:
        """Do something in the first process and then, when what it writes is there, in the others; return its result.

        Where the first one raises, the others wait until torchrun ends them.
        """
        if self.first:
            made = make()
            self._wait()
            return made
        self._wait()
        return make()

    def _wait(self) -> None:
        """Wait until every process has come here."""
        if self.count > 1:
            here = torch.ones(1, device=self._device)
            distributed.all_reduce(here)
            assert int(here) == self.count


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation over the films of all processes, on CPUs, where torch's SyncBatchNorm has no kernel."""

    def __init__(self, original: _BatchNorm, processes: Processes) -> None:
        super().__init__(original.num_features, original.eps, original.momentum, device="meta")
        self._processes = processes
        self._parameters.update(original._parameters)
        self._buffers.update(original._buffers)
        self.drop = getattr(original, "drop", nn.Identity())  # timm's have their activation inside
        self.act = getattr(original, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, ...) normalised by the mean and the variance of all processes' values."""
        normed: Tensor = self.act(self.drop(self._normed(x) if self.training else super().forward(x)))
        return normed

    def _normed(self, x: Tensor) -> Tensor:
        values = x.float()
        variance, mean = torch.var_mean(values, [0, *range(2, x.ndim)], correction=0)
        count = values.new_full((1,), values.numel() / values.shape[1])
        mine = torch.cat([mean, variance, count])[None]
        means, variances, counts = self._processes.gathered(mine, self._processes.count).split(
            [self.num_features, self.num_features, 1], dim=1
        )
        total = counts.sum()
        mean = (counts * means).sum(dim=0) / total
        variance = (counts * (variances + (means - mean) ** 2)).sum(dim=0) / total
        self._count(mean.detach(), variance.detach() * total / (total - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shape = (1, -1, *(1 for _ in range(2, x.ndim)))
        return (values * scale.view(shape) + (self.bias - mean * scale).view(shape)).to(x.dtype)

    @torch.no_grad()
    def _count(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance, self.momentum or 0.0)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any input of two dimensions or more."""


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.start, ctx.size = sum(sizes[:rank]), sizes[rank]
        padded = part.new_zeros((max(sizes), *part.shape[1:]))  # every process must send the same
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(whole)
        return whole[ctx.start : ctx.start + ctx.size], None, None
