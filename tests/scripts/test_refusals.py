"""Exports that mean nothing to `probe` or `evaluate`: one line of refusal, or a row without numbers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from command_line import done, refusal
from export_files import planted, save_export

from index.table.splits import save_parts
from index.table.studies import FINDINGS
from index.vectors import Embeddings

VERBS = ("probe", "evaluate")


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    if name not in table.column_names:
        return table.append_column(name, values)
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(place).with_type(values.type), values)


def judged(verb: str, out: Path, *words: str | Path) -> dict[str, Any]:
    return json.loads(done(verb, *words, "--out", out, "--json", "--draws", "500").stdout)


def figures_in(told: Any) -> list[float]:
    """Return every number of a part of a report that is not a count."""
    if isinstance(told, dict):
        counts = ("queries", "left_out", "positives", "negatives", "findings")
        return figures_in([value for key, value in told.items() if key not in counts])
    if isinstance(told, list):
        return [one for value in told for one in figures_in(value)]
    return [told] if isinstance(told, float) else []


@pytest.mark.parametrize("verb", VERBS)
def test_a_label_that_is_no_number_is_refused(
    verb: str, studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    mass = pa.array([float("nan") if row == 7 else row % 2 for row in range(200)], pa.float32())
    export = save_export(tmp_path / "export", with_column(studies, "Mass", mass), unit_vectors)
    line = refusal(verb, export, "--out", tmp_path / "out", "--findings", "Mass")
    assert "Mass: expected a label of 1, 0, -1 or blank, got nan at row 7" in line
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_finding_without_positives_has_a_row_and_no_number(
    verb: str, studies: pa.Table, rng: np.random.Generator, tmp_path: Path
) -> None:
    table = with_column(studies, "Fracture", pa.array([0] * 200, pa.int8()))
    export = save_export(tmp_path / "export", table, planted(table, "Pneumonia", rng))
    told = judged(verb, tmp_path / "out", export, "--findings", "Pneumonia,Fracture")
    findings = told["findings"] if verb == "probe" else told["spaces"]["embeddings"]["findings"]
    assert findings["Fracture"]["not_defined"]
    assert figures_in(findings["Fracture"]) == []
    assert figures_in(findings["Pneumonia"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.search(r"Fracture</td>.*n/a", page)
    assert "nan" not in page.lower()
    shown = done(verb, export, "--findings", "Pneumonia,Fracture", "--out", tmp_path / "again").stdout
    assert re.search(r"Fracture .*n/a", shown)
    assert re.search(r"n/a: Fracture: no ", shown)
    assert "nan" not in shown


def test_one_patient_alone_is_refused_or_has_rows_without_numbers(
    studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    table = with_column(studies, "patient_id", pa.array(["p"] * 200))
    export = save_export(tmp_path / "export", table, unit_vectors)
    for words in ((), ("--cv", "5")):
        assert "patients" in refusal("probe", export, "--out", tmp_path / "probe", *words)
    space = judged("evaluate", tmp_path / "eval", export)["spaces"]["embeddings"]
    for told in (*space["rules"].values(), *space["findings"].values()):
        assert "another patient" in told["not_defined"]
        assert figures_in(told) == []


def test_labels_that_are_all_blank_are_refused_or_have_rows_without_numbers(
    studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    table = studies
    for name in FINDINGS:
        table = with_column(table, name, pa.nulls(200, pa.int8()))
    export = save_export(tmp_path / "export", table, unit_vectors)
    assert "no study has a label" in refusal("probe", export, "--out", tmp_path / "probe", "--blank", "ignore")
    assert "no positives among" in refusal("probe", export, "--out", tmp_path / "probe")
    for blank in ("ignore", "zeros"):
        space = judged("evaluate", tmp_path / blank, export, "--blank", blank)["spaces"]["embeddings"]
        assert figures_in([space["rules"], space["findings"]]) == []
        assert all("not_defined" in told for told in (*space["rules"].values(), *space["findings"].values()))


@pytest.mark.parametrize(("verb", "option"), [("probe", "--test-embeddings"), ("evaluate", "--query-embeddings")])
def test_embeddings_of_another_encoder_are_refused(
    verb: str, option: str, studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    export = save_export(tmp_path / "export", studies.slice(0, 100), unit_vectors[:100])
    other = save_export(tmp_path / "other", studies.slice(100), unit_vectors[100:], "e")
    line = refusal(verb, export, option, other, "--out", tmp_path / "out")
    assert "was made by encoder ffffffffffff" in line
    assert "by eeeeeeeeeeee; run precedent export again with one encoder" in line


@pytest.mark.parametrize("verb", VERBS)
def test_a_split_that_shares_a_patient_is_refused(
    verb: str, studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    export = save_export(tmp_path / "export", studies, unit_vectors)
    ids = studies["study_id"].to_pylist()
    save_parts(tmp_path / "split.json", {"train": ids[:100], "test": ids[100:]})
    parts = ["--query-part", "test"] if verb == "evaluate" else []
    line = refusal(verb, export, "--splits", tmp_path / "split.json", *parts, "--out", tmp_path / "out")
    assert re.search(r"expected no patient in two parts, got 'patient\d+' in \w+ and test; split by patient", line)


def test_another_export_to_judge_on_must_be_of_other_patients(
    studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    first = save_export(tmp_path / "first", studies.slice(0, 100), unit_vectors[:100])
    second = save_export(tmp_path / "second", studies.slice(100), unit_vectors[100:])
    line = refusal("probe", first, "--test-embeddings", second, "--out", tmp_path / "out")
    assert "expected no patient in two parts" in line


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_policy_finding_or_class_is_refused(
    verb: str, studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    export = save_export(tmp_path / "export", studies, unit_vectors)
    for words, sentence in {
        ("--policy", "perhaps"): "expected a policy of ignore, zeros, ones, known-good, got 'perhaps'",
        ("--blank", "zeros,Gout=ones"): "expected findings of this table, got 'Gout'",
        ("--findings", "Gout"): "expected findings of this table, got 'Gout'",
        ("--class", "a:age>=18", "--class", "b:age>=60"): "expected classes that exclude each other",
    }.items():
        assert sentence in refusal(verb, export, "--out", tmp_path / "out", *words)


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_is_no_export_is_refused(verb: str, tmp_path: Path) -> None:
    assert "precedent export" in refusal(verb, tmp_path, "--out", tmp_path / "out")
