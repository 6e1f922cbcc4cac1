"""`precedent evaluate`: figures beside chance, floors, other exports as queries, and every refusal."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from command_line import json_of, refusal
from export_files import planted, save_export

from index.errors import FingerprintMismatch, StudiesError
from index.table.splits import save_parts
from index.table.studies import PATIENTS, PATIENTS_UNKNOWN
from index.vectors import Embeddings
from scripts.verbs.judging import evaluate

PARTS = {"train": False, "test": True}


def run(*words: str | Path) -> dict[str, Any]:
    return json_of("evaluate", *words, "--draws", "500")


@pytest.fixture
def export(studies: pa.Table, rng: np.random.Generator, tmp_path: Path) -> Path:
    """Return an export whose neighbours share Pneumonia."""
    return save_export(tmp_path / "embeddings", studies, planted(studies, "Pneumonia", rng, 3))


def test_neighbours_that_share_a_finding_beat_chance_and_the_floor(
    export: Path, studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    noise = save_export(tmp_path / "noise", studies, unit_vectors, "e")
    spaces = run(export, "--out", tmp_path / "eval", "--floor", f"noise={noise}")["spaces"]
    pneumonia, floor = (
        spaces[name]["findings"]["Pneumonia"]["figures"]["precision@5"] for name in ("embeddings", "noise")
    )
    assert pneumonia["low"] > 0.8
    assert pneumonia["low"] > 2 * pneumonia["chance"]
    assert floor["value"] == pytest.approx(floor["chance"], abs=0.1)
    assert pneumonia["chance"] == floor["chance"]


def test_every_rule_stands_with_its_figures(export: Path, tmp_path: Path) -> None:
    space = run(export, "--out", tmp_path / "eval", "--ks", "1,5")["spaces"]["embeddings"]
    assert set(space["rules"]) == {"any of five", "any finding", "exact set", "jaccard"}
    assert set(space["rules"]["jaccard"]["figures"]) == {"ndcg@1", "ndcg@5"}
    names = {f"{name}@{k}" for name in ("precision", "recall", "map", "ndcg", "mrr") for k in (1, 5)}
    assert set(space["rules"]["any of five"]["figures"]) == names | {"mrr"}
    for told in space["rules"].values():
        for one in told["figures"].values():
            assert one["low"] <= one["value"] <= one["high"]
            assert 0 <= one["chance"] <= 1
    assert len(space["findings"]) == 14
    assert 0 <= space["same_patient_precision@1"]["value"] <= 1


def test_the_same_export_gives_the_same_figures_and_a_seed_moves_intervals_alone(export: Path, tmp_path: Path) -> None:
    first, again = (run(export, "--out", tmp_path / name) for name in "ab")
    other = run(export, "--out", tmp_path / "c", "--seed", "1")
    assert first == again
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()
    one, two = (metrics["spaces"]["embeddings"]["rules"]["any of five"]["figures"] for metrics in (first, other))
    assert [figure["value"] for figure in one.values()] == [figure["value"] for figure in two.values()]
    assert one != two


def test_classes_leave_studies_of_none_out(export: Path, studies: pa.Table, tmp_path: Path) -> None:
    classes = ("--class", "viral:Etiology=virus", "--class", "bacterial:Etiology=bacteria")
    space = run(export, "--out", tmp_path / "eval", *classes)["spaces"]["embeddings"]
    assert set(space["rules"]) == {"same class"}
    assert set(space["findings"]) == {"viral", "bacterial"}
    assert space["rules"]["same class"]["figures"]["precision@5"]["queries"] == 200 - studies["Etiology"].null_count


def test_prefixes_stand_beside_the_full_vectors(studies: pa.Table, rng: np.random.Generator, tmp_path: Path) -> None:
    vectors = rng.normal(size=(200, 512)).astype(np.float32)
    export = save_export(tmp_path / "wide", studies, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    spaces = run(export, "--out", tmp_path / "eval")["spaces"]
    assert {name: space["embedding_dim"] for name, space in spaces.items()} == {
        "embeddings": 512,
        "first 384": 384,
        "first 256": 256,
    }


def test_raw_pixels_are_a_floor(studies: pa.Table, export: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for path in studies["frontal_path"].to_pylist():
        film = cv2.resize(rng.integers(0, 255, (9, 8), dtype=np.uint8), (64, 72), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / path), film)
    spaces = run(export, "--out", tmp_path / "eval", "--pixels", tmp_path)["spaces"]
    assert spaces["raw pixels"]["embedding_dim"] == 1024
    assert "raw pixels" in (tmp_path / "eval" / "report.html").read_text()


def test_studies_that_only_one_export_has_are_left_out(
    export: Path, studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    short = save_export(tmp_path / "short", studies.slice(0, 150), unit_vectors[:150], "e")
    metrics = run(export, "--out", tmp_path / "eval", "--also", f"frontal={short}")
    assert "150 queries, 150 candidates" in metrics["protocol"][1]


def test_another_exports_studies_ask_and_these_answer(
    studies: pa.Table, rng: np.random.Generator, tmp_path: Path
) -> None:
    vectors = planted(studies, "Pneumonia", rng, 3)
    gallery = save_export(tmp_path / "gallery", studies.slice(0, 140), vectors[:140])
    asking = save_export(tmp_path / "asking", studies.slice(140), vectors[140:])
    metrics = run(gallery, "--query-embeddings", asking, "--out", tmp_path / "eval")
    assert "60 queries, 140 candidates" in metrics["protocol"][1]
    other = save_export(tmp_path / "other", studies.slice(140), vectors[140:], "e")
    with pytest.raises(FingerprintMismatch, match="precedent export again"):
        run(gallery, "--query-embeddings", other, "--out", tmp_path / "eval")
    with pytest.raises(StudiesError, match="60 twice"):
        run(asking, "--query-embeddings", asking, "--out", tmp_path / "eval")


def test_parts_of_a_split_ask_and_answer(export: Path, studies: pa.Table, tmp_path: Path) -> None:
    ids = studies["study_id"].to_pylist()
    held = [int(patient[-2:]) >= 60 for patient in studies["patient_id"].to_pylist()]
    parts = {part: [one for one, on in zip(ids, held, strict=True) if on is asks] for part, asks in PARTS.items()}
    save_parts(tmp_path / "split.json", parts)
    words = ("--splits", tmp_path / "split.json", "--query-part", "test", "--gallery-part", "train")
    metrics = run(export, "--out", tmp_path / "eval", *words, "--queries", "20")
    assert f"20 queries, {200 - sum(held)} candidates" in metrics["protocol"][1]
    with pytest.raises(StudiesError, match="no part 'valid'"):
        run(export, "--out", tmp_path / "eval", *words[:2], "--query-part", "valid")


def test_official_parts_ask_and_answer_and_unknown_patients_are_told(
    studies: pa.Table, rng: np.random.Generator, tmp_path: Path
) -> None:
    held = [int(patient[-2:]) >= 60 for patient in studies["patient_id"].to_pylist()]
    place, words = studies.column_names.index("split"), ["test" if on else "train_val" for on in held]
    table = studies.set_column(place, studies.schema.field(place), pa.array(words))
    table = table.append_column(PATIENTS, pa.array(["unknown"] * 200))
    export = save_export(tmp_path / "embeddings", table, planted(table, "Pneumonia", rng, 3))

    parts = ("--splits", "official", "--query-part", "test", "--gallery-part", "train")
    protocol = run(export, "--out", tmp_path / "eval", *parts)["protocol"]

    assert f"{sum(held)} queries, {200 - sum(held)} candidates" in protocol[1]
    assert protocol[-2:] == [f"{PATIENTS_UNKNOWN} (200 of 200 studies)", "split official: test asks, train answers"]
    assert PATIENTS_UNKNOWN in (tmp_path / "eval" / "report.html").read_text()


def test_labels_that_are_all_blank_give_rows_without_numbers(
    studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    names = [field.name for field in studies.schema if field.type == pa.int8()]
    table = pa.table(
        {name: pa.nulls(200, pa.int8()) if name in names else studies[name] for name in studies.column_names}
    )
    export = save_export(tmp_path / "blank", table, unit_vectors)
    space = run(export, "--out", tmp_path / "eval")["spaces"]["embeddings"]
    for told in (*space["rules"].values(), *space["findings"].values()):
        assert "no query has a label" in told["not_defined"]
        assert {one["value"] for one in told["figures"].values()} == {None}
    assert "n/a" in (tmp_path / "eval" / "report.html").read_text()


def test_one_patient_alone_has_no_candidates(studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path) -> None:
    column = studies.schema.get_field_index("patient_id")
    table = studies.set_column(column, studies.schema.field(column), pa.array(["p"] * 200))
    export = save_export(tmp_path / "one", table, unit_vectors)
    told = run(export, "--out", tmp_path / "eval")["spaces"]["embeddings"]["rules"]["any finding"]
    assert told["figures"]["precision@5"]["value"] is None


def test_the_tables_of_the_terminal_show_chance(export: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate.command, [str(export), "--out", str(tmp_path / "eval"), "--draws", "500"])
    assert result.exit_code == 0
    for word in ("any of five", "chance", "same patient", "report.html"):
        assert word in result.output


@pytest.mark.parametrize(
    "words",
    [["--ks", "0,5"], ["--ks", "five"], ["--floor", "nothing"], ["--query-part", "test"], ["--splits", "split.json"]],
)
def test_options_that_mean_nothing_are_refused(export: Path, tmp_path: Path, words: list[str]) -> None:
    result = CliRunner().invoke(evaluate.command, [str(export), "--out", str(tmp_path / "eval"), *words])
    assert result.exit_code == 2


@pytest.mark.parametrize("kind", ["absolute", "..", "link"])
def test_a_film_of_somebody_elses_export_that_leads_out_of_the_folder_is_not_opened(
    studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "films").mkdir()
    cv2.imwrite(str(tmp_path / "secret.png"), np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8))
    (tmp_path / "films" / "link").symlink_to(tmp_path)
    path = {"absolute": str(tmp_path / "secret.png"), "..": "../secret.png", "link": "link/secret.png"}[kind]
    place = studies.column_names.index("frontal_path")
    given = studies.set_column(place, "frontal_path", pa.array([path] * studies.num_rows))
    export = save_export(tmp_path / "embeddings", given, unit_vectors)

    refused = refusal("evaluate", export, "--out", tmp_path / "eval", "--pixels", tmp_path / "films")
    assert "below the image root" in refused
    assert not (tmp_path / "eval").exists()
