"""What a run leaves behind: enough to see how it went, to repeat it, and to go on with it after a kill."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import done
from training_films import load_metrics, save_collection, train_words

from encoder.training import run_curves
from encoder.training.recipe import Recipe
from index.storage.files import sha256_of
from scripts.verbs.preparing import train

CURVE = ("loss", "label_loss", "neighbour_loss", "lr", "valid_loss", "valid_auroc", "valid_precision_at_5")


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return save_collection(tmp_path)


def assert_same_curve(one: Path, other: Path) -> None:
    first, second = load_metrics(one), load_metrics(other)
    assert len(first) == len(second)
    for row, again in zip(first, second, strict=True):
        for name in CURVE:
            assert row[name] == pytest.approx(again[name], rel=1e-4, abs=1e-6, nan_ok=True), name


def test_the_folders_recipe_and_table_repeat_the_run(collection: Path) -> None:
    first, again = collection / "run", collection / "again"
    done(*train_words(collection, "schedule.kind=cosine"), "--out", first)

    words = ("--images", collection, "--recipe", first / "recipe.toml", "--threads", "1")
    done("train", first / "studies.parquet", *words, "--out", again)

    assert_same_curve(first, again)
    assert json.loads((first / "splits.json").read_text()) == json.loads((again / "splits.json").read_text())
    assert (first / "recipe.toml").read_text() == (again / "recipe.toml").read_text()


def test_a_run_writes_down_its_seed_its_inputs_and_its_policy(collection: Path) -> None:
    words = ("run.seed=7", "run.epochs=1", "targets.per_label={Edema='ones'}", "targets.uncertain=zeros")
    report = json.loads(done(*train_words(collection, *words), "--out", collection / "run", "--json").stdout)

    assert "seed = 7" in (collection / "run" / "recipe.toml").read_text()
    inputs = json.loads((collection / "run" / "inputs.json").read_text())
    assert inputs["studies_sha256"] == sha256_of(collection / "studies.parquet")
    policy = "uncertain (-1) counts as absent; in Edema it counts as present; blank is ignored"
    assert policy in report["policy"]
    assert policy in json.loads((collection / "run" / "report.json").read_text())["policy"]


def test_another_seed_deals_and_learns_otherwise(collection: Path) -> None:
    for seed in (1, 2):
        done(*train_words(collection, f"run.seed={seed}", "run.epochs=1"), "--out", collection / str(seed))

    one, two = ((collection / str(seed) / "splits.json").read_text() for seed in (1, 2))
    assert one != two


def test_curves_are_drawn_and_the_best_epoch_is_the_reports(collection: Path) -> None:
    report = json.loads(done(*train_words(collection), "--out", collection / "run", "--json").stdout)

    assert (collection / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = load_metrics(collection / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    best = max(rows, key=lambda row: (row["valid_auroc"] + row["valid_precision_at_5"]) / 2)
    assert report["best"]["valid_loss"] == pytest.approx(best["valid_loss"], rel=1e-4)


def test_tensorboard_reads_every_figure_of_every_epoch(collection: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done(*train_words(collection, "run.epochs=2"), "--out", collection / "run")

    events = EventAccumulator(str(collection / "run" / "tensorboard")).Reload()
    rows = load_metrics(collection / "run")
    for name in CURVE:
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in read] == [1, 2]
        for (_, value), row in zip(read, rows, strict=True):
            assert value == pytest.approx(row[name], rel=1e-4, nan_ok=True) or math.isnan(value)


def test_progress_is_shown_beside_the_answer_and_tensorboard_can_be_missing(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (run_curves, train):
        monkeypatch.setattr(room, "has_tensorboard", lambda: False)
    result = done(*train_words(collection, "run.epochs=1"), "--out", collection / "run", "--json")

    assert json.loads(result.stdout)["epochs"] == 1
    for word in ("read films", "54/54", "epoch 1", "TensorBoard is not installed"):
        assert word in result.stderr
    assert not (collection / "run" / "tensorboard").exists()
    assert (collection / "run" / "curves.png").is_file()


@pytest.mark.slow
def test_a_run_killed_within_its_first_epoch_ends_with_the_same_weights(collection: Path) -> None:
    words = train_words(collection, "run.epochs=2", "run.batch_size=2", "optimizer.ema_decay=0.9")
    done(*words, "--out", collection / "whole")

    _kill_once(words, collection / "killed", "last.safetensors", "--save-steps", "2")
    assert not (collection / "killed" / "metrics.csv").exists()
    told = done(*words, "--out", collection / "killed").stderr

    assert "going on after epoch 0 and " in told
    whole, killed = (json.loads((collection / name / "report.json").read_text()) for name in ("whole", "killed"))
    assert killed["fingerprint"] == whole["fingerprint"]
    assert_same_curve(collection / "whole", collection / "killed")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_curve_of_one_that_was_left_alone(collection: Path) -> None:
    words = train_words(collection, "run.epochs=6", "run.patience=6", "schedule.kind=cosine", "optimizer.ema_decay=0.9")
    done(*words, "--out", collection / "whole")

    _kill_once(words, collection / "killed", "metrics.csv")
    before = len(load_metrics(collection / "killed"))
    told = done(*words, "--out", collection / "killed").stderr

    assert 1 <= before < 6
    assert f"going on after epoch {before}" in told
    assert_same_curve(collection / "whole", collection / "killed")


def _kill_once(words: list[str], out: Path, file: str, *options: str) -> None:
    """Kill a run as soon as a file is in its folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *words, "--out", str(out), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (out / file).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_larger_batch_comes_with_a_larger_rate_and_both_stand_in_the_recipe(collection: Path) -> None:
    words = train_words(collection, "run.epochs=1", "optimizer.lr=0.001", "run.batch_size=4")
    done(*words, "--batch", "16", "--out", collection / "run")

    recipe = Recipe.load(str(collection / "run" / "recipe.toml"))
    assert recipe.run.batch_size == 16
    assert recipe.optimizer.lr == pytest.approx(0.002)


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_one_of_them_writes(collection: Path) -> None:
    """Unequal parts of a batch, accumulation, a neighbour term over the whole batch, and batch statistics of all."""
    words = train_words(
        collection,
        *("run.epochs=2", "run.batch_size=7", "optimizer.accumulation=2", "optimizer.ema_decay=0.9"),
        "optimizer.lr=1e-5",  # Adam makes a rounding of a gradient near 0 into a whole step
        *("loss.contrastive=0.7", "encoder.dropout=0.0", "augmentation.mix_up=0.3", "augmentation.erasing=0.5"),
    )
    done(*words, "--out", collection / "one")

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told = subprocess.run(
        [*torchrun, "-m", "scripts.cli", *words, "--out", str(collection / "two"), "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["epochs"] == 2
    for row, again in zip(load_metrics(collection / "one"), load_metrics(collection / "two"), strict=True):
        for name in ("loss", "label_loss", "neighbour_loss", "lr", "valid_loss"):  # ranks may change by a rounding
            assert row[name] == pytest.approx(again[name], rel=2e-3), name
    assert len(list((collection / "two").glob("films-*.npy"))) == 1
