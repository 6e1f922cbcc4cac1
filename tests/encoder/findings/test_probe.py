"""The probe against scikit-learn and scipy; calibration, operating points, scores, files and refusals."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from encoder.errors import CheckpointError, EncoderError
from encoder.files import load_tensors, save_tensors
from encoder.findings.calibration import Evidence, calibration, operating_points, sigmoid
from encoder.findings.logistic import Problem, scaled_rows, solve_logistic
from encoder.findings.probe import DETAILS, WEIGHTS, LinearProbe
from encoder.findings.scores import auroc, called_scores, interval, macro, ranked_scores

NAMES = ("one", "two", "three")
ADDED = ("evidence", "labels", "set_on")
"""Keys that versions before this one did not write."""


@pytest.fixture
def made(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings (900, 32), targets (900, 3) with gaps, and 3 folds."""
    values = rng.normal(size=(900, 32)) * np.logspace(0, -1.5, 32)
    embeddings = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    logits = 5 * embeddings @ rng.normal(size=(32, 3)) - [0, 1, 3]
    targets = (rng.random((900, 3)) < sigmoid(logits)).astype(np.float32)
    targets[rng.random((900, 3)) < 0.2] = np.nan
    return embeddings, targets, np.arange(900) // 10 % 3


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_a_probe_ranks_as_scikit_learns_regressions_do(made: tuple, class_weight: str) -> None:
    embeddings, targets, folds = made
    train, test = np.arange(600), np.arange(600, 900)
    probe = LinearProbe.fit(
        embeddings[train], targets[train], NAMES, folds=folds[train], fingerprint="f", class_weight=class_weight
    )
    rows, mean, scale = scaled_rows(embeddings[train])
    for column, strength in enumerate(probe.strengths):
        used = ~np.isnan(targets[train, column])
        model = LogisticRegression(
            C=strength, class_weight=None if class_weight == "none" else "balanced", max_iter=2000
        )
        model.fit(rows.values.numpy()[used], targets[train, column][used])
        theirs = auroc(model.decision_function((embeddings[test] - mean) / scale), targets[test, column])
        assert auroc(probe.logits(embeddings[test])[:, column], targets[test, column]) == pytest.approx(
            theirs, abs=0.002
        )


def objective(rows: np.ndarray, targets: np.ndarray, solution: np.ndarray, strength: float) -> float:
    """Return what scikit-learn minimises, divided by the number of rows, in float64."""
    logits = rows.astype(np.float64) @ solution[:-1] + solution[-1]
    penalty = (solution[:-1] ** 2).sum() / (2 * strength * len(rows))
    return float(np.mean(np.logaddexp(0, logits) - targets * logits) + penalty)


def test_the_solver_finds_scikit_learns_coefficients(made: tuple) -> None:
    embeddings, targets, _ = made
    rows = scaled_rows(embeddings)[0]
    wanted = np.nan_to_num(targets)
    decay = torch.tensor([1.0, 10.0, 100.0]) / 900
    problem = Problem(rows, torch.from_numpy(wanted), torch.full((900, 3), 1 / 900), decay)
    solution = solve_logistic(problem, tolerance=1e-6).numpy()
    for column, strength in enumerate((1.0, 0.1, 0.01)):
        model = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(rows.values.numpy(), wanted[:, column])
        theirs = np.append(model.coef_[0], model.intercept_)
        ours, best = (
            objective(rows.values.numpy(), wanted[:, column], one, strength) for one in (solution[:, column], theirs)
        )
        assert solution[:, column] == pytest.approx(theirs, abs=0.02)
        assert ours - best < 1e-6


def test_rows_without_a_target_change_nothing(made: tuple) -> None:
    embeddings, targets, folds = made
    used = ~np.isnan(targets[:, :1])
    whole = LinearProbe.fit(embeddings, targets[:, :1], NAMES[:1], folds=folds, fingerprint="f", strengths=(0.1,))
    rows = used[:, 0]
    part = LinearProbe.fit(
        embeddings[rows], targets[rows, :1], NAMES[:1], folds=folds[rows], fingerprint="f", strengths=(0.1,)
    )
    assert np.abs(whole.logits(embeddings) - part.logits(embeddings)).max() < 0.05
    assert auroc(whole.logits(embeddings)[:, 0], targets[:, 0]) == pytest.approx(
        auroc(part.logits(embeddings)[:, 0], targets[:, 0]), abs=0.001
    )


def test_inner_validation_holds_noise_down_and_lets_signal_through(rng: np.random.Generator) -> None:
    embeddings = rng.normal(size=(400, 64)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    noise, signal = rng.integers(2, size=400), embeddings[:, 0] > 0
    targets = np.stack([noise, signal], axis=1).astype(np.float32)
    probe = LinearProbe.fit(embeddings, targets, ["noise", "signal"], folds=np.arange(400) % 4, fingerprint="f")
    assert probe.strengths[0] < probe.strengths[1]


def test_a_finding_that_cannot_be_learnt_is_skipped_with_its_reason(made: tuple) -> None:
    embeddings, targets, folds = made
    targets = targets.copy()
    targets[:, 0], targets[:, 1] = np.nan, np.where(np.isnan(targets[:, 1]), np.nan, 0)
    probe = LinearProbe.fit(embeddings, targets, NAMES, folds=folds, fingerprint="f")
    assert probe.findings == ("three",)
    assert probe.skipped["one"] == "no study has a label for it that counts"
    assert probe.skipped["two"].startswith("no positives among")
    with pytest.raises(EncoderError, match="no positives"):
        LinearProbe.fit(embeddings, targets[:, :2], NAMES[:2], folds=folds, fingerprint="f")


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_calibration_lowers_the_error_and_keeps_the_order(method: str, rng: np.random.Generator) -> None:
    truth = rng.normal(size=4000)
    targets = (rng.random(4000) < sigmoid(truth)).astype(float)
    logits = 4 * truth + (1.5 if method == "platt" else 0)  # far too sure of itself
    slope, offset = calibration(logits, targets, method)
    assert slope == pytest.approx(0.25, rel=0.1)
    before, after = (
        ranked_scores(chance, targets, np.ones((1, 4000), np.uint8))
        for chance in (sigmoid(logits), sigmoid(slope * logits + offset))
    )
    assert after["ece"][0] < before["ece"][0] / 2
    assert after["auroc"][0] == pytest.approx(before["auroc"][0])


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_calibration_never_turns_an_order_round(method: str) -> None:
    logits, targets = np.linspace(-3, 3, 50), np.repeat([1.0, 0.0], 25)
    slope, offset = calibration(logits, targets, method)
    assert slope > 0
    assert abs(sigmoid(slope * logits + offset).mean() - 0.5) < 0.02
    assert calibration(logits, np.ones(50), method) == (1, 0)


def test_operating_points_reach_what_they_promise(rng: np.random.Generator) -> None:
    targets = (rng.random(500) < 0.3).astype(float)
    chances = np.round(sigmoid(rng.normal(size=500) + 1.5 * targets), 2)  # with ties
    points = operating_points(chances, targets)
    one = np.ones((1, 500), np.uint8)
    values = {
        name: {figure: value[0] for figure, value in called_scores(chances >= point, targets, one).items()}
        for name, point in vars(points).items()
    }
    assert values["rule_out"]["sensitivity"] >= 0.9 > np.mean((chances > points.rule_out)[targets == 1])
    assert values["rule_in"]["specificity"] >= 0.9
    lower = chances >= chances[chances < points.rule_in].max()
    assert np.mean(~lower[targets == 0]) < 0.9
    sums = [np.mean(chances[targets == 1] >= cut) + np.mean(chances[targets == 0] < cut) for cut in set(chances)]
    assert values["youden"]["sensitivity"] + values["youden"]["specificity"] == pytest.approx(max(sums))
    assert operating_points(chances, np.ones(500)) is None


def test_scores_equal_scikit_learns_in_every_draw(rng: np.random.Generator) -> None:
    targets = (rng.random(300) < 0.3).astype(float)
    chances = np.round(sigmoid(rng.normal(size=300) + targets), 2)
    draws = rng.multinomial(300, np.full(300, 1 / 300), size=130).astype(np.uint8)
    ranked, called = ranked_scores(chances, targets, draws), called_scores(chances >= 0.5, targets, draws)
    for place, draw in enumerate(draws):
        assert ranked["auroc"][place] == pytest.approx(roc_auc_score(targets, chances, sample_weight=draw))
        assert ranked["auprc"][place] == pytest.approx(average_precision_score(targets, chances, sample_weight=draw))
        assert ranked["brier"][place] == pytest.approx(brier_score_loss(targets, chances, sample_weight=draw))
        assert called["f1"][place] == pytest.approx(f1_score(targets, chances >= 0.5, sample_weight=draw))


def test_a_score_without_both_outcomes_is_no_number() -> None:
    chances, draws = np.array([0.1, 0.9]), np.array([[1, 1], [2, 0], [0, 2]], np.uint8)
    scores = ranked_scores(chances, np.array([0.0, 1.0]), draws)
    assert np.isnan(scores["auroc"]).tolist() == [False, True, True]
    assert np.isnan(scores["auprc"]).tolist() == [False, True, True]
    assert np.isnan(called_scores(chances > 2, np.zeros(2), draws)["ppv"]).all()
    assert np.isnan(auroc(chances, np.array([1.0, np.nan])))
    assert np.isnan(interval(np.array([np.nan, 1.0])).value)
    biased = interval(np.array([0.03, 0.05, 0.06, 0.07]), centred=True)
    assert biased.low < biased.value < biased.high
    assert macro([{"f1": np.array([0.2, np.nan])}, {"f1": np.array([0.4, 0.6])}])["f1"] == pytest.approx([0.3, 0.6])


def test_a_probe_comes_back_from_its_files(made: tuple, tmp_path: Path) -> None:
    embeddings, targets, folds = made
    probe = LinearProbe.fit(embeddings, targets, NAMES, folds=folds, fingerprint="f" * 64)
    probe = probe.calibrated(embeddings, targets)
    probe.save(tmp_path)
    loaded = LinearProbe.load(tmp_path)
    assert np.array_equal(loaded.probabilities(embeddings), probe.probabilities(embeddings))
    assert (loaded.points, loaded.strengths, loaded.findings) == (probe.points, probe.strengths, NAMES)
    used = ~np.isnan(targets[:, 0])
    assert loaded.set_on["one"] == (int(targets[used, 0].sum()), int((1 - targets[used, 0]).sum()))


def test_how_well_it_tells_and_how_labels_were_read_travel_with_a_probe(made: tuple, tmp_path: Path) -> None:
    embeddings, targets, folds = made
    probe = LinearProbe.fit(embeddings, targets, NAMES, folds=folds, fingerprint="f" * 64)
    told = replace(probe, evidence={"one": Evidence(3, 9, 0.8, 0.7, None)}, labels={"classes": {}})
    told.save(tmp_path)

    loaded = LinearProbe.load(tmp_path)
    assert (loaded.evidence, loaded.labels) == (told.evidence, told.labels)


def test_a_probe_of_an_older_version_loads_and_tells_neither(made: tuple, tmp_path: Path) -> None:
    embeddings, targets, folds = made
    LinearProbe.fit(embeddings, targets, NAMES, folds=folds, fingerprint="f" * 64).save(tmp_path)
    forge(tmp_path, lambda details: {key: one for key, one in details.items() if key not in ADDED})

    loaded = LinearProbe.load(tmp_path)
    assert (loaded.findings, loaded.evidence, loaded.labels, loaded.set_on) == (NAMES, None, None, {})


@pytest.mark.parametrize(
    "forged",
    [
        {"evidence": {"one": {"positives": -1, "negatives": 2, "auroc": 0.5, "low": 0.5, "high": 0.5}}},
        {"evidence": {"one": {"positives": 1, "negatives": 2, "auroc": "high", "low": 0.5, "high": 0.5}}},
        {"evidence": {"one": {"positives": 1, "negatives": 2, "auroc": 1.5, "low": 0.5, "high": 0.5}}},
        {"evidence": {"one": 0.9}},
        {"evidence": ["one"]},
        {"labels": "zeros"},
        {"set_on": {"one": 3}},
        {"operating_points": {"one": {"youden": 1}}},
    ],
)
def test_figures_that_are_none_are_refused_in_a_sentence(
    forged: dict[str, object], made: tuple, tmp_path: Path
) -> None:
    embeddings, targets, folds = made
    LinearProbe.fit(embeddings, targets, NAMES, folds=folds, fingerprint="f" * 64).save(tmp_path)
    forge(tmp_path, lambda details: details | forged)

    with pytest.raises(CheckpointError, match="no readable probe"):
        LinearProbe.load(tmp_path)


def forge(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a probe anew with other details."""
    metadata, tensors = load_tensors(folder / WEIGHTS, "")
    details = change(json.loads(metadata["details"]))
    kept = {name: metadata[name] for name in ("format", "fingerprint")} | {"details": json.dumps(details)}
    save_tensors(folder / WEIGHTS, tensors, kept)


def test_a_probe_that_is_missing_or_cut_is_refused_and_its_readable_half_does_not_count(
    made: tuple, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no probe in"):
        LinearProbe.load(tmp_path)
    embeddings, targets, folds = made
    LinearProbe.fit(embeddings, targets, NAMES, folds=folds, fingerprint="f" * 64).save(tmp_path)
    details = json.loads((tmp_path / DETAILS).read_text())
    (tmp_path / DETAILS).write_text(json.dumps(details | {"fingerprint": "e" * 64}))
    assert LinearProbe.load(tmp_path).fingerprint == "f" * 64
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:50])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        LinearProbe.load(tmp_path)


def test_what_does_not_fit_is_refused(made: tuple) -> None:
    embeddings, targets, folds = made
    probe = LinearProbe.fit(embeddings, targets, NAMES, folds=folds, fingerprint="f", strengths=(0.1,))
    with pytest.raises(EncoderError, match=r"\(N, 32\).*\(900, 16\).*another encoder"):
        probe.logits(embeddings[:, :16])
    with pytest.raises(EncoderError, match="trained on vectors of encoder f"):
        probe.require_fingerprint("e")
    for bad, what in ((embeddings * np.nan, "finite"), (embeddings[:5], r"targets \(N, 3\)")):
        with pytest.raises(EncoderError, match=what):
            LinearProbe.fit(bad, targets, NAMES, folds=folds, fingerprint="f")
    with pytest.raises(EncoderError, match="1, 0 or NaN"):
        LinearProbe.fit(embeddings, targets - 1, NAMES, folds=folds, fingerprint="f")
