import re
from pathlib import Path

import numpy as np
import pytest
import torch
from training_films import load_metrics, save_films

from encoder.errors import CheckpointError, EncoderError, RecipeError
from encoder.files import load_tensors, save_tensors
from encoder.network.checkpoint import load_encoder
from encoder.training.depthwise import DepthwiseConv2d
from encoder.training.film_store import FilmStore, TrainingStudies
from encoder.training.recipe import Recipe
from encoder.training.run_folder import ENCODER, METRICS, STATE, RunFolder
from encoder.training.trainer import Trainer

SMALL = [
    "encoder.backbone=test_efficientnet",
    "preprocessing.size=64",
    "run.batch_size=9",
    "run.epochs=3",
    "optimizer.precision=fp32",
    "targets.findings=['Lung Lesion', 'Edema']",
]


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """Return 24 noisy films; a bright disc in the even ones."""
    return save_films(tmp_path)


def _trainer(films: list[Path], *changes: str) -> Trainer:
    recipe = Recipe.load("phantom", [*SMALL, *changes])
    rows = np.arange(24)
    targets = np.stack([rows % 2 == 0, np.full(24, np.nan)], axis=1).astype(np.float32)
    lateral = np.where(rows % 3, -1, (rows + 2) % 24)
    data = TrainingStudies(rows, lateral, targets, ("Lung Lesion", "Edema"), rows, rows[:18], rows[18:])
    return Trainer(recipe, FilmStore(films, recipe.preprocessing), data)


def test_the_loss_falls_and_the_disc_is_found(films: list[Path]) -> None:
    trainer = _trainer(films, "run.epochs=6", "schedule.warmup_epochs=0.1", "optimizer.ema_decay=0.0")

    while not trainer.finished:
        trainer.epoch()

    history = trainer.progress.history
    assert min(row["loss"] for row in history) < 0.7 * history[0]["loss"]
    assert max(row["valid_auroc"] for row in history) > 0.9


def test_a_run_killed_between_epochs_goes_on_to_the_same_curve(films: list[Path], tmp_path: Path) -> None:
    whole = _trainer(films)
    while not whole.finished:
        whole.epoch()

    first = _trainer(films)
    folder = RunFolder(tmp_path / "run", first.recipe, {})
    folder.save(first, best=first.epoch())
    second = _trainer(films)
    assert folder.resume(second)
    while not second.finished:
        folder.save(second, best=second.epoch())

    for row, again in zip(whole.progress.history, load_metrics(tmp_path / "run"), strict=True):
        assert row["loss"] == pytest.approx(again["loss"], rel=1e-4)
        assert row["valid_loss"] == pytest.approx(again["valid_loss"], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        ("run.batch_size=3", "optimizer.ema_decay=0.9", "schedule.kind=cosine_restarts"),
        ("run.batch_size=2", "optimizer.accumulation=4", "optimizer.precision=bf16", "optimizer.frozen_stages=1"),
        ("run.batch_size=3", "schedule.kind=plateau", "schedule.patience=1", "optimizer.checkpointing=true"),
    ],
)
@pytest.mark.parametrize(("epoch", "rest"), [(0, 0), (1, 1), (1, -1)])
def test_a_run_killed_within_an_epoch_goes_on_bit_for_bit(
    films: list[Path], tmp_path: Path, changes: tuple[str, ...], epoch: int, rest: int
) -> None:
    whole = _trainer(films, "run.epochs=2", *changes)
    while not whole.finished:
        whole.epoch()

    killed = _trainer(films, "run.epochs=2", *changes)
    for _ in range(epoch):
        killed.epoch()
    _killed_at(killed, RunFolder(tmp_path / "run", killed.recipe, {}), rest)
    again = _trainer(films, "run.epochs=2", *changes)
    assert RunFolder(tmp_path / "run", again.recipe, {}).resume(again)
    assert again.progress.batches
    while not again.finished:
        again.epoch()

    assert _without_seconds(again) == _without_seconds(whole)
    for state, expected in (
        (again.validated.state_dict(), whole.validated.state_dict()),
        (again.head_state(), whole.head_state()),
    ):
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_a_state_from_before_the_average_counted_batches_is_gone_on_from(films: list[Path], tmp_path: Path) -> None:
    first, second = (_trainer(films, "optimizer.ema_decay=0.9") for _ in range(2))
    folder = RunFolder(tmp_path / "run", first.recipe, {})
    folder.save(first, best=first.epoch())
    metadata, tensors = load_tensors(folder.path / STATE, "")
    older = {name: value for name, value in tensors.items() if not re.match(r"average\..*num_batches_tracked", name)}
    save_tensors(folder.path / STATE, older, metadata)

    assert len(older) < len(tensors)
    assert folder.resume(second)
    for one, other in zip(second.validated.parameters(), first.validated.parameters(), strict=True):
        assert torch.equal(one, other)


class Killed(Exception):
    """Stands for SIGKILL."""


def _killed_at(trainer: Trainer, folder: RunFolder, rest: int) -> None:
    """Do an epoch up to one of its rests, the last for -1, write the state there, and come no further than a batch."""
    rests = 0

    def on_rest(done: int, total: int) -> None:
        nonlocal rests
        if rests == rest or (rest < 0 and done == total):
            folder.save_state(trainer)
            if done == total:
                raise Killed
        elif rests > rest >= 0:
            raise Killed
        rests += 1

    with pytest.raises(Killed):
        trainer.epoch(on_rest=on_rest)


def _without_seconds(trainer: Trainer) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in trainer.progress.history]


def test_a_run_that_cannot_go_on_says_in_what_it_differs(films: list[Path], tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", _trainer(films).recipe, {"images": "a", "studies_sha256": "1"})

    with pytest.raises(RecipeError) as refused:
        RunFolder(tmp_path / "run", _trainer(films, "optimizer.lr=0.5", "run.seed=7").recipe, {})
    for sentence in ("optimizer.lr was", "is now 0.5", "run.seed was 1 and is now 7"):
        assert sentence in str(refused.value)
    assert "run.epochs" not in str(refused.value)
    with pytest.raises(RecipeError, match='images was "a" and is now "b"; give another --out'):
        RunFolder(tmp_path / "run", _trainer(films).recipe, {"images": "b", "studies_sha256": "1"})


def test_a_recipe_from_before_an_option_goes_on_and_one_that_is_torn_is_told(films: list[Path], tmp_path: Path) -> None:
    recipe = _trainer(films).recipe
    RunFolder(tmp_path / "run", recipe, {})
    path = tmp_path / "run" / "recipe.toml"

    path.write_text(path.read_text().replace("max_minutes = 0.0\n", ""))
    RunFolder(tmp_path / "run", recipe, {})

    path.write_text("[run")
    with pytest.raises(RecipeError, match=r"recipe\.toml cannot be read"):
        RunFolder(tmp_path / "run", recipe, {})


def test_the_curves_that_a_kill_left_behind_are_caught_up_with(films: list[Path], tmp_path: Path) -> None:
    trainer = _trainer(films)
    folder = RunFolder(tmp_path / "run", trainer.recipe, {})
    folder.save(trainer, best=trainer.epoch())
    (tmp_path / "run" / METRICS).unlink()

    folder.resume(_trainer(films))

    assert [row["epoch"] for row in load_metrics(tmp_path / "run")] == [1]


def test_the_kept_encoder_is_the_one_that_was_validated(films: list[Path], tmp_path: Path) -> None:
    trainer = _trainer(films)
    RunFolder(tmp_path / "run", trainer.recipe, {}).save(trainer, best=trainer.epoch())

    encoder, preprocessing = load_encoder(tmp_path / "run" / ENCODER)

    films_in = torch.randn(4, 3, 64, 64)
    trainer.network.load_state_dict(trainer.validated.state_dict())
    with torch.inference_mode():
        expected = trainer.network.encoder.eval()(films_in)
        assert torch.allclose(encoder(films_in), expected, atol=1e-5)
    assert preprocessing == trainer.recipe.preprocessing


def test_another_recipe_does_not_go_on_in_the_same_folder(films: list[Path], tmp_path: Path) -> None:
    recipe = _trainer(films).recipe
    RunFolder(tmp_path / "run", recipe, {})

    RunFolder(tmp_path / "run", recipe, {})
    with pytest.raises(RecipeError, match=r"another recipe\.toml"):
        RunFolder(tmp_path / "run", Recipe.load("phantom"), {})
    with pytest.raises(RecipeError, match=r"another inputs\.json"):
        RunFolder(tmp_path / "run", recipe, {"studies": "other"})


def test_a_torn_state_is_refused_in_a_sentence(films: list[Path], tmp_path: Path) -> None:
    trainer = _trainer(films)
    folder = RunFolder(tmp_path / "run", trainer.recipe, {})
    (tmp_path / "run" / STATE).write_bytes(b"torn")

    with pytest.raises(CheckpointError, match="cannot be continued"):
        folder.resume(trainer)


def test_frozen_stages_neither_learn_nor_count_batches(films: list[Path]) -> None:
    trainer = _trainer(films, "optimizer.frozen_stages=2", "optimizer.weight_decay=0.1")
    before = {name: value.clone() for name, value in trainer.network.encoder.state_dict().items()}

    trainer.epoch()

    changed = {
        name for name, value in trainer.network.encoder.state_dict().items() if not torch.equal(value, before[name])
    }
    assert not any(
        name.startswith(("backbones.0.conv_stem", "backbones.0.bn1", "backbones.0.blocks.0")) for name in changed
    )
    assert any(name.startswith("backbones.0.blocks.1") for name in changed)


def test_accumulation_takes_one_step_for_several_batches(films: list[Path]) -> None:
    trainer = _trainer(films, "optimizer.accumulation=2")

    trainer.epoch()

    steps = {int(state["step"]) for state in trainer.optimizer.state.values()}
    assert steps == {1}


def test_a_plateau_lowers_the_rate_and_patience_ends_the_run(films: list[Path]) -> None:
    trainer = _trainer(
        films, "schedule.kind=plateau", "schedule.patience=1", "schedule.factor=0.5", "run.patience=2", "run.epochs=50"
    )
    trainer.progress.best = 10.0

    while not trainer.finished:
        trainer.epoch()

    assert trainer.progress.epoch == 2
    assert trainer.progress.reduction == pytest.approx(0.25)


@pytest.mark.parametrize(("size", "stride", "side"), [(3, 1, 8), (3, 2, 9), (5, 1, 8), (5, 2, 8)])
def test_quick_depthwise_gradients_are_those_of_pytorch(size: int, stride: int, side: int) -> None:
    original = torch.nn.Conv2d(6, 6, size, stride, size // 2, groups=6, bias=False)
    film = torch.randn(2, 6, side, side, requires_grad=True)
    wanted = original(film)
    gradient = torch.randn_like(wanted)

    quick = DepthwiseConv2d(original)(film)

    pairs = [torch.autograd.grad(out, [film, original.weight], gradient) for out in (wanted, quick)]
    for expected, found in zip(*pairs, strict=True):
        assert torch.allclose(expected, found, atol=1e-5)


@pytest.mark.parametrize(
    ("patients", "targets", "sentence"),
    [
        ([0, 1, 1, 2], [1, 0, 1, 0], "no patient in both"),
        ([0, 1, 2, 3], [np.nan, np.nan, 1, 0], "known labels in train"),
        ([0, 1, 2, 3], [0, 0, 1, 0], "positive label"),
    ],
)
def test_studies_that_nothing_can_be_learnt_from_are_refused(
    patients: list[int], targets: list[float], sentence: str
) -> None:
    rows = np.arange(4)
    with pytest.raises(EncoderError, match=sentence):
        TrainingStudies(
            rows, rows, np.array(targets, np.float32)[:, None], ("a",), np.array(patients), rows[:2], rows[2:]
        )


def test_a_head_start_keeps_the_dense_layers_gradient_from_the_backbone(films: list[Path]) -> None:
    network = _trainer(films).network.train()
    rows = torch.arange(4)

    for apart in (True, False):
        network.zero_grad(set_to_none=True)
        embeddings, _ = network.learn_rows(torch.randn(4, 3, 64, 64), rows, rows, apart=apart)
        embeddings[:, 0].sum().backward()

        reached = any(parameter.grad is not None for parameter in network.encoder.backbones.parameters())
        assert reached is not apart


def test_mix_up_erasing_and_smaller_films_lose_nothing_by_a_kill_within_an_epoch(
    films: list[Path], tmp_path: Path
) -> None:
    changes = ["augmentation.mix_up=0.4", "augmentation.erasing=0.5", "schedule.first_size=32"]
    changes += ["run.batch_size=3", "run.epochs=2"]
    whole, killed, again = (_trainer(films, *changes) for _ in range(3))
    while not whole.finished:
        whole.epoch()

    _killed_at(killed, RunFolder(tmp_path / "run", killed.recipe, {}), 2)
    assert RunFolder(tmp_path / "run", again.recipe, {}).resume(again)
    while not again.finished:
        again.epoch()

    assert _without_seconds(again) == _without_seconds(whole)


def test_losses_are_read_where_a_run_rests_and_nowhere_else(films: list[Path]) -> None:
    plain, seldom = _trainer(films, "run.batch_size=2"), _trainer(films, "run.batch_size=2")
    seldom._rest_steps = 4
    rests: list[int] = []

    plain.epoch()
    seldom.epoch(on_rest=lambda done, _: rests.append(done))

    assert rests == [4, 8, 9]
    assert _without_seconds(plain) == _without_seconds(seldom)
