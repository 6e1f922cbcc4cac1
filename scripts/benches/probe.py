"""`precedent bench probe`: fitting all findings together, beside one scikit-learn fit a finding.

precedent bench probe --rows 190000 --dim 512 --findings 14 --repeat 3
"""

from typing import Any

import click
import numpy as np
import torch

from encoder.findings.logistic import Floats, scaled_rows
from encoder.findings.probe import LinearProbe
from encoder.findings.scores import auroc
from scripts.benches.measured import interleaved, json_option, machine_facts, medians, repeat_option
from scripts.terminal import say, say_json

_SEED = 0
_SPECTRUM_DECADES = 2
"""Standard deviations of the simulated vectors fall by so many powers of ten, as those of a trained encoder do."""


@click.command("probe")
@click.option("--rows", type=click.IntRange(100), default=190_000, show_default=True, help="Vectors to learn from.")
@click.option("--dim", type=click.IntRange(2), default=512, show_default=True, help="Length of a vector.")
@click.option("--findings", type=click.IntRange(1), default=14, show_default=True, help="Findings to learn.")
@repeat_option(3)
@click.option(
    "--strength",
    type=float,
    default=0.01,
    show_default=True,
    help="Inverse strength of regularisation, the C of scikit-learn, for both.",
)
@json_option
def command(rows: int, dim: int, findings: int, repeat: int, strength: float, json_wanted: bool) -> None:
    """Train the probe of all findings at once, and with scikit-learn one finding after the other, on simulated vectors.

    \b
    precedent bench probe --rows 20000 --repeat 1
    """
    embeddings, targets = made_embeddings(rows, dim, findings)
    names = [f"finding {number}" for number in range(findings)]
    folds = np.zeros(rows, dtype=np.int64)

    def ours() -> Floats:
        fitted = LinearProbe.fit(embeddings, targets, names, folds=folds, fingerprint="", strengths=(strength,))
        return fitted.logits(embeddings)

    def theirs() -> Floats:
        return _sklearn_logits(embeddings, targets, strength)

    seconds, logits = interleaved({"ours": ours, "scikit-learn": theirs}, repeat, description="probe")
    figures = _figures(seconds, logits, targets) | {
        "rows": rows,
        "dim": dim,
        "findings": findings,
        "strength": strength,
        "repeat": repeat,
        "torch_threads": torch.get_num_threads(),
        **machine_facts("torch", "numpy", "scikit-learn"),
    }
    if json_wanted:
        say_json(figures)
    else:
        say(*_sentence(figures).split("\n"))


def made_embeddings(rows: int, dim: int, findings: int) -> tuple[Floats, Floats]:
    """Return unit vectors (N, D) with a falling spectrum and targets (N, C) that depend on them."""
    rng = np.random.default_rng(_SEED)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * np.logspace(0, -_SPECTRUM_DECADES, dim)[:, None]
    values = (rng.standard_normal((rows, dim), dtype=np.float32) @ axes.astype(np.float32)).astype(np.float32)
    embeddings = values / np.linalg.norm(values, axis=1, keepdims=True)
    logits = 6 * embeddings @ rng.normal(size=(dim, findings)) - rng.uniform(1, 3, findings)
    return embeddings, (rng.random((rows, findings)) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def _sklearn_logits(embeddings: Floats, targets: Floats, strength: float) -> Floats:
    try:
        from sklearn.linear_model import LogisticRegression  # only this measurement needs it
    except ModuleNotFoundError as error:
        raise click.ClickException("expected scikit-learn to measure against; run: pip install scikit-learn") from error
    rows = scaled_rows(embeddings)[0].values.numpy()
    model = LogisticRegression(C=strength, max_iter=1000)
    return np.stack([model.fit(rows, target).decision_function(rows) for target in targets.T], axis=1)


def _figures(seconds: dict[str, list[float]], logits: dict[str, Floats], targets: Floats) -> dict[str, Any]:
    areas = {
        name: [auroc(column, target) for column, target in zip(values.T, targets.T, strict=True)]
        for name, values in logits.items()
    }
    gaps = np.abs(np.subtract(areas["ours"], areas["scikit-learn"]))
    middle = medians(seconds)
    return {
        "seconds": seconds,
        "median_seconds": middle,
        "ratio": middle["scikit-learn"] / middle["ours"],
        "mean_auroc": {name: float(np.mean(values)) for name, values in areas.items()},
        "largest_auroc_difference": float(gaps.max()),
    }


def _sentence(figures: dict[str, Any]) -> str:
    middle = figures["median_seconds"]
    return (
        f"{figures['rows']:,} x {figures['dim']} x {figures['findings']}: ours {middle['ours']:.2f} s, "
        f"scikit-learn {middle['scikit-learn']:.2f} s, ratio {figures['ratio']:.1f} (medians of {figures['repeat']}); "
        f"largest AUROC difference {figures['largest_auroc_difference']:.5f}; {figures['cores']} cores, "
        + ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    )
