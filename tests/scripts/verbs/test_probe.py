"""`precedent probe` and `precedent bench probe`: figures, files, repeatability, and every refusal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from command_line import json_of
from export_files import planted, save_export

from encoder.errors import EncoderError
from encoder.findings.probe import LinearProbe
from index.errors import FingerprintMismatch, StudiesError
from index.table.labels import Labelling, LabelPolicy
from index.table.splits import save_parts
from index.table.studies import PATIENTS, PATIENTS_UNKNOWN
from scripts.verbs.judging import probe
from scripts.verbs.running import bench

CLASSES = ("--class", "viral:Etiology=virus", "--class", "bacterial:Etiology=bacteria")


def run(*words: str | Path) -> dict[str, Any]:
    return json_of("probe", *words, "--draws", "500")


@pytest.fixture
def export(studies: pa.Table, rng: np.random.Generator, tmp_path: Path) -> Path:
    """Return an export in which Pneumonia can be read from the vectors and nothing else can."""
    return save_export(tmp_path / "embeddings", studies, planted(studies, "Pneumonia", rng))


def test_a_planted_finding_is_found_and_the_others_are_not(export: Path, studies: pa.Table, tmp_path: Path) -> None:
    found = run(export, "--out", tmp_path / "probe", "--cv", "5")["findings"]
    pneumonia, others = found["Pneumonia"], [entry for name, entry in found.items() if name != "Pneumonia"]
    assert pneumonia["figures"]["auroc"]["low"] > 0.85
    assert pneumonia["positives"] + pneumonia["negatives"] == 200 - studies["Pneumonia"].to_pylist().count(-1)
    assert np.mean([entry["figures"]["auroc"]["value"] for entry in others]) == pytest.approx(0.5, abs=0.1)


def test_every_promised_figure_stands_with_its_interval(export: Path, tmp_path: Path) -> None:
    metrics = run(export, "--out", tmp_path / "probe", "--findings", "Pneumonia")
    pneumonia = metrics["findings"]["Pneumonia"]
    assert set(pneumonia["figures"]) == {"auroc", "auprc", "brier", "ece"}
    assert set(pneumonia["points"]) == set(pneumonia["thresholds"]) == {"youden", "rule_out", "rule_in"}
    for figures in (pneumonia["figures"], *pneumonia["points"].values()):
        for one in figures.values():
            assert one["value"] is None or one["low"] <= one["value"] <= one["high"]
    assert set(metrics["macro"]) == {
        "findings",
        "auroc",
        "auprc",
        "brier",
        "ece",
        "sensitivity",
        "specificity",
        "ppv",
        "npv",
        "f1",
        "accuracy",
    }
    assert pneumonia["chance"]["auprc"] == pytest.approx(
        pneumonia["positives"] / (pneumonia["positives"] + pneumonia["negatives"])
    )
    assert any("uncertain (-1) is ignored" in sentence for sentence in metrics["protocol"])


def test_the_page_stands_alone_and_the_probe_loads(export: Path, tmp_path: Path) -> None:
    metrics = run(export, "--out", tmp_path / "probe", "--findings", "Pneumonia,Fracture")
    page = (tmp_path / "probe" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "<link" not in page
    assert json.loads((tmp_path / "probe" / "metrics.json").read_text()) == metrics
    assert LinearProbe.load(tmp_path / "probe").findings == ("Pneumonia", "Fracture")


def test_a_saved_probe_says_how_well_it_tells_each_finding_and_how_labels_were_read(
    export: Path, studies: pa.Table, tmp_path: Path
) -> None:
    words = ["--findings", "Pneumonia,Fracture", "--policy", "zeros,Fracture=ones", "--blank", "ignore"]
    figures = run(export, "--out", tmp_path / "probe", *words, "--cv", "5")["findings"]
    probe = LinearProbe.load(tmp_path / "probe")

    for name, one in probe.evidence.items():
        assert (one.positives, one.negatives) == (figures[name]["positives"], figures[name]["negatives"])
        assert vars(one)["auroc"] == pytest.approx(figures[name]["figures"]["auroc"]["value"], abs=6e-4)
    assert probe.evidence["Pneumonia"].above_chance
    assert not probe.evidence["Fracture"].above_chance
    assert Labelling.from_object(probe.labels).policy == LabelPolicy.parse("zeros,Fracture=ones", "ignore")
    assert probe.set_on["Pneumonia"] == (figures["Pneumonia"]["positives"], figures["Pneumonia"]["negatives"])


def test_thresholds_of_a_split_are_set_on_its_validation_part(export: Path, tmp_path: Path) -> None:
    run(export, "--out", tmp_path / "probe", "--findings", "Pneumonia")

    set_on, judged = LinearProbe.load(tmp_path / "probe").set_on["Pneumonia"], 200
    assert 0 < sum(set_on) < judged / 5


def test_a_probe_of_classes_tells_the_words_of_its_classes(export: Path, tmp_path: Path) -> None:
    run(export, "--out", tmp_path / "probe", *CLASSES, "--cv", "3")

    labelling = Labelling.from_object(LinearProbe.load(tmp_path / "probe").labels)
    assert labelling.classes == {"viral": ["Etiology=virus"], "bacterial": ["Etiology=bacteria"]}


def test_the_same_export_gives_the_same_figures_and_a_seed_moves_intervals_alone(export: Path, tmp_path: Path) -> None:
    first, again = (run(export, "--out", tmp_path / name, "--findings", "Fracture") for name in "ab")
    other = run(export, "--out", tmp_path / "c", "--findings", "Fracture", "--seed", "1")
    assert first == again
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()
    one, two = (metrics["findings"]["Fracture"]["figures"]["auroc"] for metrics in (first, other))
    assert one["value"] == two["value"]
    assert (one["low"], one["high"]) != (two["low"], two["high"])


def test_exclusive_classes_have_an_accuracy(export: Path, studies: pa.Table, tmp_path: Path) -> None:
    metrics = run(export, "--out", tmp_path / "probe", *CLASSES, "--cv", "3")
    classes = metrics["classes"]
    assert classes["accuracy"]["low"] <= classes["chance"] + 0.1
    assert classes["studies"] == 200 - studies["Etiology"].null_count


def test_a_finding_without_positives_is_a_row_without_numbers(
    studies: pa.Table, rng: np.random.Generator, tmp_path: Path
) -> None:
    column = studies.schema.get_field_index("Fracture")
    table = studies.set_column(column, studies.schema.field(column), pa.array([0] * 200, pa.int8()))
    export = save_export(tmp_path / "embeddings", table, planted(table, "Pneumonia", rng))
    found = run(export, "--out", tmp_path / "probe", "--findings", "Pneumonia,Fracture")["findings"]["Fracture"]
    assert "no positives among" in found["not_defined"]
    assert "figures" not in found
    assert "n/a" in (tmp_path / "probe" / "report.html").read_text()
    with pytest.raises(EncoderError, match="Fracture: no positives"):
        run(export, "--out", tmp_path / "probe", "--findings", "Fracture")


def test_another_export_is_judged_by_this_probe(studies: pa.Table, rng: np.random.Generator, tmp_path: Path) -> None:
    vectors = planted(studies, "Pneumonia", rng)
    held = np.array([int(patient[-2:]) >= 60 for patient in studies["patient_id"].to_pylist()])
    seen = save_export(tmp_path / "seen", studies.filter(pa.array(~held)), vectors[~held])
    unseen = save_export(tmp_path / "unseen", studies.filter(pa.array(held)), vectors[held])
    metrics = run(seen, "--test-embeddings", unseen, "--out", tmp_path / "probe", "--findings", "Pneumonia")
    assert metrics["folds"][0]["studies"] == held.sum()
    assert metrics["findings"]["Pneumonia"]["figures"]["auroc"]["value"] > 0.85


def test_embeddings_of_another_encoder_are_refused(export: Path, studies: pa.Table, tmp_path: Path) -> None:
    other = save_export(tmp_path / "other", studies, planted(studies, "Pneumonia", np.random.default_rng(1)), "e")
    with pytest.raises(FingerprintMismatch, match=r"ffffffffffff.*eeeeeeeeeeee"):
        run(export, "--test-embeddings", other, "--out", tmp_path / "probe")


def test_a_split_that_shares_a_patient_is_refused(export: Path, studies: pa.Table, tmp_path: Path) -> None:
    by_patient = sorted(zip(studies["patient_id"].to_pylist(), studies["study_id"].to_pylist(), strict=True))
    ids = [study for _, study in by_patient]
    save_parts(tmp_path / "bad.json", {"train": ids[0::2], "test": ids[1::2]})
    with pytest.raises(StudiesError, match=r"no patient in two parts, got 'patient\d+'"):
        run(export, "--splits", tmp_path / "bad.json", "--out", tmp_path / "probe")
    save_parts(tmp_path / "none.json", {"train": ids})
    with pytest.raises(StudiesError, match="part 'test', got none"):
        run(export, "--splits", tmp_path / "none.json", "--out", tmp_path / "probe")


def test_the_column_split_decides_where_it_is_asked_to(
    studies: pa.Table, rng: np.random.Generator, tmp_path: Path
) -> None:
    column = studies.schema.get_field_index("split")
    parts = ["test" if int(patient[-2:]) >= 60 else "train" for patient in studies["patient_id"].to_pylist()]
    table = studies.set_column(column, studies.schema.field(column), pa.array(parts))
    export = save_export(tmp_path / "embeddings", table, planted(table, "Pneumonia", rng))
    for words in (("--use-split",), ("--splits", "official")):
        metrics = run(export, *words, "--out", tmp_path / "probe", "--findings", "Pneumonia")
        assert metrics["folds"][0]["studies"] == parts.count("test")
        assert any(f"test {parts.count('test')} of" in sentence for sentence in metrics["protocol"])


def test_where_patients_are_unknown_the_report_says_so(
    studies: pa.Table, rng: np.random.Generator, tmp_path: Path
) -> None:
    table = studies.append_column(PATIENTS, pa.array([None] * 50 + ["unknown"] * 150))
    export = save_export(tmp_path / "embeddings", table, planted(table, "Pneumonia", rng))

    metrics = run(export, "--out", tmp_path / "probe", "--findings", "Pneumonia")

    assert f"{PATIENTS_UNKNOWN} (150 of 200 studies)" in metrics["protocol"]
    assert PATIENTS_UNKNOWN in (tmp_path / "probe" / "report.html").read_text()


def test_one_patient_alone_is_refused(studies: pa.Table, rng: np.random.Generator, tmp_path: Path) -> None:
    column = studies.schema.get_field_index("patient_id")
    table = studies.set_column(column, studies.schema.field(column), pa.array(["p"] * 200))
    export = save_export(tmp_path / "embeddings", table, planted(table, "Pneumonia", rng))
    with pytest.raises(StudiesError, match="at least 3 patients"):
        run(export, "--out", tmp_path / "probe")


def test_labels_that_are_all_blank_are_refused(studies: pa.Table, rng: np.random.Generator, tmp_path: Path) -> None:
    column = studies.schema.get_field_index("Pneumonia")
    table = studies.set_column(column, studies.schema.field(column), pa.nulls(200, pa.int8()))
    export = save_export(tmp_path / "embeddings", table, planted(table, "Fracture", rng))
    with pytest.raises(EncoderError, match="Pneumonia: no study has a label for it that counts"):
        run(export, "--out", tmp_path / "probe", "--findings", "Pneumonia", "--blank", "ignore")


def test_the_table_of_the_terminal_names_what_is_not_defined(export: Path, tmp_path: Path) -> None:
    words = [str(export), "--out", str(tmp_path / "probe"), "--findings", "Pneumonia", "--draws", "500"]
    result = CliRunner().invoke(probe.command, words)
    assert result.exit_code == 0
    assert "macro" in result.output
    assert "report.html" in result.output


def test_the_bench_measures_both_and_they_agree() -> None:
    words = ["probe", "--rows", "2000", "--dim", "32", "--findings", "3", "--repeat", "1", "--json"]
    figures = json.loads(CliRunner().invoke(bench.command, words).stdout)
    assert figures["largest_auroc_difference"] < 0.002
    assert set(figures["median_seconds"]) == {"ours", "scikit-learn"}
    assert figures["cores"] >= 1


def test_a_probe_can_be_kept_to_the_studies_of_which_something_holds(
    export: Path, studies: pa.Table, tmp_path: Path
) -> None:
    metrics = run(export, "--out", tmp_path, "--cv", "2", "--where", "sex=Female", "--findings", "Pneumonia")

    females = [
        label
        for sex, label in zip(studies["sex"].to_pylist(), studies["Pneumonia"].to_pylist(), strict=True)
        if sex == "Female"
    ]
    judged = metrics["findings"]["Pneumonia"]
    assert judged["positives"] + judged["negatives"] == sum(label != -1 for label in females)
    assert "only studies of which sex=Female holds" in metrics["protocol"]
