"""What every report says of itself: the policy, the counts, chance, intervals by patient; and that it stands alone."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from command_line import done
from export_files import planted, save_export

from encoder.findings.probe import LinearProbe
from index.judging.bootstrap import Draws, patient_draws
from index.table.splits import require_disjoint_patients
from scripts.reports.probe_scores import POINTS
from scripts.verbs.judging import evaluate, probe
from scripts.work.learning import Learning

FAST = ("--findings", "Pneumonia,Edema", "--draws", "500")
VERBS = ("probe", "evaluate")
POLICIES = {
    ("--policy", "ignore", "--blank", "ignore"): "uncertain (-1) is ignored; blank is ignored",
    ("--policy", "zeros", "--blank", "zeros"): "uncertain (-1) counts as absent; blank counts as absent",
    ("--policy", "ones", "--blank", "ones"): "uncertain (-1) counts as present; blank counts as present",
    (): "uncertain (-1) is ignored; in Edema it counts as present; in Atelectasis it counts as present; in "
    "Consolidation it counts as absent; blank counts as absent",
    ("--policy", "zeros,Edema=ones", "--blank", "zeros,Edema=ignore"): "uncertain (-1) counts as absent; in Edema it "
    "counts as present; blank counts as absent; in Edema it is ignored",
}


@pytest.fixture
def export(studies: pa.Table, rng: np.random.Generator, tmp_path: Path) -> Path:
    return save_export(tmp_path / "embeddings", studies, planted(studies, "Pneumonia", rng))


def written(verb: str, export: Path, out: Path, *words: str) -> tuple[dict[str, Any], str, str]:
    """Return metrics.json, report.html and what the terminal showed."""
    shown = done(verb, export, "--out", out, *FAST, *words).stdout
    return json.loads((out / "metrics.json").read_text()), (out / "report.html").read_text(), shown


def flat(text: str) -> str:
    """Return a text without the line breaks of a terminal."""
    return " ".join(text.split())


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("words", POLICIES)
def test_every_report_prints_its_policy(verb: str, words: tuple[str, ...], export: Path, tmp_path: Path) -> None:
    metrics, page, shown = written(verb, export, tmp_path / "out", *words)
    sentence = f"labels: {POLICIES[words]}"
    assert metrics["protocol"][0] == sentence
    assert f"<li>{sentence}</li>" in page
    assert f"* {sentence}" in flat(shown)


@pytest.mark.parametrize("verb", VERBS)
def test_a_page_asks_nothing_of_the_outside(verb: str, export: Path, tmp_path: Path) -> None:
    page = written(verb, export, tmp_path / "out")[1]
    named = set(re.findall(r"""(?:href|src|action|data)\s*=\s*["']([^"']*)""", page))
    assert all(one.startswith("#") for one in named)
    assert not re.search(r"<(?:script|link|iframe|img|object|embed)\b|@import|url\((?!#)", page)
    assert "<svg" in page


def test_a_finding_has_its_four_pictures_its_counts_and_chance(export: Path, studies: pa.Table, tmp_path: Path) -> None:
    metrics, page, shown = written("probe", export, tmp_path / "out", "--cv", "5", "--policy", "zeros")
    for name in ("Pneumonia", "Edema"):
        picture = page[page.index(f"ROC and other curves of {name}") :].partition("</svg>")[0]
        for title in ("ROC", "precision and recall", "reliability", "probabilities"):
            assert f">{title}<" in picture
        positives, entry = studies[name].to_pylist().count(1), metrics["findings"][name]
        assert (entry["positives"], entry["negatives"]) == (positives, 200 - positives)
        assert entry["chance"]["auprc"] == pytest.approx(positives / 200)
        row = re.search(rf"<td>{name}</td><td>(\d+)</td><td>(\d+)</td><td>([\d.]+)</td>", page)
        assert row is not None
        assert row.groups() == (str(positives), str(200 - positives), f"{positives / 200:.3f}")
        assert re.search(rf"{name} +{positives} +{200 - positives} ", shown)


def test_every_finding_is_judged_at_three_points_that_the_probe_keeps(export: Path, tmp_path: Path) -> None:
    metrics, page, _ = written("probe", export, tmp_path / "out")
    loaded = LinearProbe.load(tmp_path / "out")
    assert loaded.fingerprint == metrics["fingerprint"] == "f" * 64
    for name, point in loaded.points.items():
        assert metrics["findings"][name]["thresholds"] == pytest.approx(vars(point))
        for figures in metrics["findings"][name]["points"].values():
            assert set(figures) == {"sensitivity", "specificity", "ppv", "npv", "f1", "accuracy"}
    assert set(vars(loaded.points["Pneumonia"])) == set(POINTS)
    assert all(word in page for word in ("Youden", "rule out", "rule in"))


def test_five_folds_judge_every_study_once_and_part_no_patient(
    export: Path, studies: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patients, usual, seen = studies["patient_id"].to_pylist(), Learning.probe, []

    def spied(self: Learning, embedded: Any, wanted: Any, train: Any, valid: Any) -> LinearProbe:
        seen.append((train, valid))
        return usual(self, embedded, wanted, train, valid)

    monkeypatch.setattr(Learning, "probe", spied)
    metrics = written("probe", export, tmp_path / "out", "--cv", "5")[0]

    tested = []
    for train, valid in seen[:5]:
        test = np.setdiff1d(np.arange(200), np.concatenate([train, valid]))
        require_disjoint_patients(patients, {"train": train, "valid": valid, "test": test})
        tested += test.tolist()
    assert sorted(tested) == list(range(200))
    assert sum(fold["studies"] for fold in metrics["folds"]) == 200
    assert len(metrics["folds"]) == 5


@pytest.mark.parametrize(("verb", "room", "words"), [("probe", probe, ("--cv", "3")), ("evaluate", evaluate, ())])
def test_intervals_draw_the_patients_of_what_was_judged(
    verb: str,
    room: ModuleType,
    words: tuple[str, ...],
    export: Path,
    studies: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[list[str]] = []

    def spied(patient_ids: list[str], count: int, seed: int) -> Draws:
        drawn.append(patient_ids)
        return patient_draws(patient_ids, count, seed)

    monkeypatch.setattr(room, "patient_draws", spied)
    metrics, page, shown = written(verb, export, tmp_path / "out", *words)
    assert drawn == [studies["patient_id"].to_pylist()]
    for text in (" ".join(metrics["protocol"]), page, flat(shown)):
        assert "bootstrap over the" in text
        assert "500 draws, seed 0" in text


def test_dealing_patients_anew_stays_within_the_printed_interval(export: Path, tmp_path: Path) -> None:
    words = ("--cv", "5", "--split-seed")
    first, *others = (written("probe", export, tmp_path / seed, *words, seed)[0] for seed in "012")
    for name, entry in first["findings"].items():
        interval = entry["figures"]["auroc"]
        values = [other["findings"][name]["figures"]["auroc"]["value"] for other in others]
        assert all(interval["low"] <= value <= interval["high"] for value in values)
        assert {*values} != {interval["value"]}
