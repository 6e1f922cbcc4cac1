"""Joining the other processes of a run that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from encoder.training.processes import Processes

_PATIENCE = timedelta(days=1)
"""The first process may read all films before the others go on; torchrun itself notices one that has ended."""


@contextmanager
def joined_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """Yield the processes that torchrun started, this one's place among them and its device; alone without torchrun.

    Args:
        device: cpu, or cuda, of which each process of a machine takes one.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(), device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("gloo" if device == "cpu" else "nccl", timeout=_PATIENCE)
    yield Processes(distributed.get_rank(), count, device), device
    distributed.destroy_process_group()  # not after an exception: the others may wait in a message that never comes
