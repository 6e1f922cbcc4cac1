"""Several processes take the gradient of one, and what each does alone is theirs together."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from training_films import save_films, trainer_of

from encoder.training.processes import Processes
from encoder.training.trainer import Trainer

CHANGES = ("run.batch_size=7", "encoder.dropout=0.0", "loss.contrastive=0.7", "augmentation.erasing=0.5")
ONE_VIEW = np.full(24, -1)
"""Each film belongs to one study: one that two processes need would count twice in the statistics of a batch."""


@pytest.mark.parametrize(("length", "sizes"), [(7, [3, 2, 2]), (3, [1, 1, 1]), (9, [3, 3, 3])])
def test_parts_of_a_batch_cover_it_once(length: int, sizes: list[int]) -> None:
    rows = np.arange(length)
    parts = [rows[Processes(rank, 3).part(length)] for rank in range(3)]

    assert [len(part) for part in parts] == Processes(0, 3).sizes(length) == sizes
    assert np.array_equal(np.concatenate(parts), rows)


def test_a_batch_with_fewer_studies_than_processes_is_left_out(tmp_path: Path) -> None:
    films = save_films(tmp_path)
    alone = trainer_of(films, "run.batch_size=8")
    shared = Trainer(alone.recipe, alone.films, alone.studies, processes=Processes(0, 3))

    sizes = [[len(batch.rows) for batch in one._batches(torch.Generator())] for one in (alone, shared)]

    assert sizes == [[8, 8, 2], [8, 8]]


def gradients_of(films: list[Path], processes: Processes, changes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return a first step's losses, gradients and batch statistics."""
    one = trainer_of(films, *CHANGES, *changes, lateral_rows=ONE_VIEW)
    trainer = Trainer(one.recipe, one.films, one.studies, processes=processes)
    trainer._set_mode()
    chance = torch.Generator().manual_seed(1)
    batch = next(trainer._batches(chance))
    [planes] = trainer._planes_of([batch.films])
    losses = trainer._loss(batch, planes, chance)
    losses[0].backward()
    processes.average_gradients(trainer.network)
    found = {name: one.grad for name, one in trainer.network.named_parameters() if one.grad is not None}
    buffers = {name: one for name, one in trainer.network.named_buffers() if one.is_floating_point()}
    every = {**found, **buffers, "losses": torch.stack(losses).detach()}
    return {name: value.contiguous().clone() for name, value in every.items()}


def share(rank: int, folder: Path, films: list[Path], changes: tuple[str, ...]) -> None:
    """Be one of two processes, and save what it has found."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    save_file(gradients_of(films, Processes(rank, 2), changes), folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [("encoder.use_shared_weights=false",), ("augmentation.mix_up=0.3",)])
def test_two_processes_take_the_gradient_of_one(tmp_path: Path, changes: tuple[str, ...]) -> None:
    films = save_films(tmp_path)
    context = multiprocessing.get_context("forkserver")
    pair = [context.Process(target=share, args=(rank, tmp_path, films, changes)) for rank in range(2)]
    for process in pair:
        process.start()
    one = gradients_of(films, Processes(), changes)
    for process in pair:
        process.join()

    assert [process.exitcode for process in pair] == [0, 0]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys() == one.keys()
    assert all(torch.equal(first[name], second[name]) for name in one)
    torch.testing.assert_close(first["losses"], one["losses"], rtol=1e-3, atol=0)
    of_one, of_two = (torch.cat([each[name].reshape(-1) for name in one]) for each in (one, first))
    assert float((of_one - of_two).norm() / of_one.norm()) < 0.01
