"""The probe beside scikit-learn on the same folds by patient: fourteen findings, every fold judged unseen."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from encoder.findings.calibration import sigmoid
from encoder.findings.logistic import scaled_rows
from encoder.findings.probe import LinearProbe
from index.table.splits import folds_by_patient

FINDINGS = [f"finding {number}" for number in range(14)]


@pytest.fixture
def made(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return embeddings (1500, 48), targets (1500, 14) from rare to common, and about 500 patients."""
    values = rng.normal(size=(1500, 48)) * np.logspace(0, -1.5, 48)
    embeddings = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    logits = 5 * embeddings @ rng.normal(size=(48, 14)) - np.linspace(3, 0, 14)
    targets = (rng.random((1500, 14)) < sigmoid(logits)).astype(np.float32)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    return embeddings, targets, [f"p{number}" for number in rng.integers(500, size=1500)]


def test_every_finding_of_every_fold_ranks_as_scikit_learns_does(made: tuple) -> None:
    embeddings, targets, patients = made
    differences = []
    for test in folds_by_patient(patients, 5, 0, targets):
        train = np.setdiff1d(np.arange(1500), test)
        inner = np.arange(len(train)) % 3
        probe = LinearProbe.fit(embeddings[train], targets[train], FINDINGS, folds=inner, fingerprint="f")
        rows, mean, scale = scaled_rows(embeddings[train])
        answers = probe.logits(embeddings[test])
        for column, strength in enumerate(probe.strengths):
            known, judged = (~np.isnan(targets[part, column]) for part in (train, test))
            model = LogisticRegression(C=strength, max_iter=3000)
            model.fit(rows.values.numpy()[known], targets[train, column][known])
            theirs = model.decision_function((embeddings[test] - mean) / scale)
            truth = targets[test, column][judged]
            areas = [roc_auc_score(truth, scores[judged]) for scores in (answers[:, column], theirs)]
            differences.append(areas[0] - areas[1])
    assert len(differences) == 70
    assert np.abs(differences).max() < 0.002
