"""What each option of a recipe does to a step, an epoch or a run, held against its definition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_films import PLAIN, STILL, save_films, trainer_of

from encoder.training.run_folder import CLASSIFIER, ENCODER, RunFolder
from encoder.training.trainer import Trainer


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    return save_films(tmp_path)


def gradients_of_an_epoch(trainer: Trainer, *, still: bool = True) -> list[dict[str, Tensor]]:
    """Return the gradients that each step of one epoch takes; `still` holds batch statistics and dropout."""
    taken: list[dict[str, Tensor]] = []

    def keep(*_: object) -> None:
        named = trainer.network.named_parameters()
        taken.append({name: one.grad.clone() for name, one in named if one.grad is not None})

    trainer.optimizer.register_step_pre_hook(keep)
    if still:
        trainer._set_mode = trainer.network.eval  # type: ignore[method-assign,assignment]
    trainer.epoch()
    return taken


def norm_of(gradients: dict[str, Tensor]) -> float:
    return float(torch.stack([one.square().sum() for one in gradients.values()]).sum().sqrt())


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [one for one in module.modules() if isinstance(one, nn.BatchNorm2d)]


def test_two_accumulated_batches_have_the_gradient_of_one_twice_as_big(films: list[Path]) -> None:
    words = (*STILL, *PLAIN, "optimizer.clip_norm=0.0")
    (whole,) = gradients_of_an_epoch(trainer_of(films, *words, "run.batch_size=18"))
    (parts,) = gradients_of_an_epoch(trainer_of(films, *words, "run.batch_size=9", "optimizer.accumulation=2"))

    assert whole.keys() == parts.keys()
    assert norm_of(whole) > 0
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], rtol=1e-3, atol=1e-6 * norm_of(whole)), name


def test_a_last_step_of_fewer_batches_has_their_mean_gradient(films: list[Path]) -> None:
    words = (*STILL, *PLAIN, "optimizer.clip_norm=0.0", "optimizer.lr=1e-9", "run.batch_size=6")
    alone = gradients_of_an_epoch(trainer_of(films, *words))
    *_, last = gradients_of_an_epoch(trainer_of(films, *words, "optimizer.accumulation=2"))

    assert norm_of(last) == pytest.approx(norm_of(alone[2]), rel=1e-3)


@pytest.mark.parametrize("clip", [1e-3, 1e-1])
def test_clipping_bounds_the_norm_of_every_steps_gradient(films: list[Path], clip: float) -> None:
    free, clipped = (
        [norm_of(step) for step in gradients_of_an_epoch(trainer_of(films, f"optimizer.clip_norm={bound}"))]
        for bound in (0.0, clip)
    )

    assert min(free) > clip
    assert max(clipped) <= clip * 1.001


def test_checkpointing_changes_memory_and_nothing_else(films: list[Path]) -> None:
    words = ("optimizer.clip_norm=0.0", "run.batch_size=18")
    usual, recomputed = (trainer_of(films, *words, f"optimizer.checkpointing={on}") for on in ("false", "true"))
    assert any(getattr(one, "grad_checkpointing", False) for one in recomputed.network.modules())

    (expected,), (found,) = (gradients_of_an_epoch(trainer, still=False) for trainer in (usual, recomputed))

    assert recomputed.progress.history[0]["loss"] == pytest.approx(usual.progress.history[0]["loss"], rel=1e-5)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.allclose(gradient, found[name], rtol=1e-3, atol=1e-6 * norm_of(expected)), name
    state = recomputed.network.state_dict()
    for name, value in usual.network.state_dict().items():
        assert "running" not in name or torch.allclose(value, state[name], rtol=1e-4, atol=1e-6), name


def test_frozen_stages_stay_until_they_thaw(films: list[Path]) -> None:
    trainer = trainer_of(films, "optimizer.frozen_stages=2", "optimizer.unfreeze_epoch=1", "optimizer.weight_decay=0.1")
    backbone = trainer.network.encoder.backbones[0]

    def frozen() -> dict[str, Tensor]:
        state = backbone.state_dict()
        names = [name for name in state if name.startswith(("conv_stem", "bn1", "blocks.0"))]
        return {name: state[name].clone() for name in names}

    loaded = frozen()
    trainer.epoch()
    kept = frozen()
    trainer.epoch()
    thawed = frozen()

    assert all(torch.equal(loaded[name], kept[name]) for name in loaded)
    assert any(name.endswith("running_mean") for name in loaded)
    assert not any(torch.equal(kept[name], thawed[name]) for name in kept)


def test_the_backbone_learns_at_its_own_rate_through_every_epoch(films: list[Path]) -> None:
    trainer = trainer_of(films, "optimizer.lr=2e-3", "optimizer.backbone_lr_factor=0.1", "schedule.kind=cosine")
    backbone = {id(one) for one in trainer.network.encoder.backbones.parameters()}

    trainer.epoch()

    rates = {(id(one) in backbone): group["lr"] for group in trainer.optimizer.param_groups for one in group["params"]}
    assert rates[False] < 2e-3
    assert rates[True] == pytest.approx(rates[False] / 10)
    grouped = [id(one) for group in trainer.optimizer.param_groups for one in group["params"]]
    assert sorted(grouped) == sorted(id(one) for one in trainer.network.parameters())


def test_weight_decay_spares_biases_and_normalisation(films: list[Path]) -> None:
    trainer = trainer_of(films, "optimizer.weight_decay=0.1")

    decays = {id(one): group["weight_decay"] for group in trainer.optimizer.param_groups for one in group["params"]}

    for one in trainer.network.parameters():
        assert decays[id(one)] == (0.1 if one.ndim > 1 else 0)


def test_half_precision_learns_about_the_same_and_keeps_whole_weights(films: list[Path]) -> None:
    whole, half = (trainer_of(films, *STILL, f"optimizer.precision={kind}") for kind in ("fp32", "bf16"))

    for trainer in (whole, half):
        trainer.epoch()

    assert half.progress.history[0]["loss"] == pytest.approx(whole.progress.history[0]["loss"], rel=0.05)
    assert half.progress.history[0]["loss"] != whole.progress.history[0]["loss"]
    assert {one.dtype for one in half.network.parameters()} == {torch.float32}


def test_a_plateau_lowers_the_rate_that_the_next_epoch_learns_at(films: list[Path]) -> None:
    words = ("schedule.kind=plateau", "schedule.patience=2", "schedule.factor=0.5", "run.epochs=5", "run.patience=9")
    trainer = trainer_of(films, *words, "optimizer.lr=1e-3")
    trainer.progress.best = 10.0

    while not trainer.finished:
        trainer.epoch()

    assert [row["lr"] for row in trainer.progress.history] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])


def test_a_later_worse_epoch_does_not_replace_the_best_encoder(films: list[Path], tmp_path: Path) -> None:
    trainer = trainer_of(films, "run.patience=1")
    folder = RunFolder(tmp_path / "run", trainer.recipe, {})
    folder.save(trainer, best=trainer.epoch())
    best = [(folder.path / name).read_bytes() for name in (ENCODER, CLASSIFIER)]
    trainer.progress.best = 10.0

    folder.save(trainer, best=trainer.epoch())

    assert [(folder.path / name).read_bytes() for name in (ENCODER, CLASSIFIER)] == best
    assert trainer.progress.best_epoch == 1
    assert trainer.finished


def test_a_lateral_that_is_always_hidden_teaches_nothing(films: list[Path]) -> None:
    words = (*STILL, "augmentation.hide_lateral=1.0", "encoder.use_shared_weights=false")
    with_laterals = trainer_of(films, *words)
    without = trainer_of(films, *words, lateral_rows=np.full(24, -1))

    losses = []
    for trainer in (with_laterals, without):
        trainer._set_mode = trainer.network.eval  # type: ignore[method-assign,assignment]
        trainer.epoch()
        losses.append(trainer.progress.history[0]["loss"])

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    seen = trainer_of(films, *STILL, "encoder.use_shared_weights=false")
    seen._set_mode = seen.network.eval  # type: ignore[method-assign,assignment]
    seen.epoch()
    assert seen.progress.history[0]["loss"] != pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("option", ["run.seed=2", "loss.label_smoothing=0.1", "loss.class_weights=balanced"])
def test_an_option_of_the_recipe_changes_the_curve_and_the_same_recipe_repeats_it(
    films: list[Path], option: str
) -> None:
    targets = np.stack([np.arange(24) % 6 == 0, np.full(24, np.nan)], axis=1).astype(np.float32)
    usual, again, other = (trainer_of(films, *words, targets=targets) for words in ((), (), (option,)))

    for trainer in (usual, again, other):
        trainer.epoch()

    first, second, third = (trainer.progress.history[0]["loss"] for trainer in (usual, again, other))
    assert first == pytest.approx(second, rel=1e-5)
    assert third != pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        ("schedule.kind=plateau", "schedule.patience=1", "run.patience=9"),
        ("schedule.kind=cosine_restarts", "schedule.t_0=1.0", "optimizer.ema_decay=0.9"),
        ("optimizer.frozen_stages=2", "optimizer.unfreeze_epoch=2", "optimizer.kind=adam"),
        ("optimizer.accumulation=2", "optimizer.checkpointing=true"),
    ],
)
def test_whatever_the_options_a_resumed_run_has_the_curve_of_a_whole_one(
    films: list[Path], tmp_path: Path, words: tuple[str, ...]
) -> None:
    whole = trainer_of(films, *words)
    while not whole.finished:
        whole.epoch()

    again = trainer_of(films, *words)
    folder = RunFolder(tmp_path / "run", again.recipe, {})
    while not again.finished:
        folder.save(again, best=again.epoch())
        again = trainer_of(films, *words)
        assert RunFolder(tmp_path / "run", again.recipe, {}).resume(again)

    for row, resumed in zip(whole.progress.history, again.progress.history, strict=True):
        for name in ("loss", "valid_loss", "lr", "valid_auroc"):
            assert resumed[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), name
