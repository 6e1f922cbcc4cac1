"""Both views beside the frontal alone, shorter vectors, and floors: one table, from real films and encoders."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import done
from training_films import save_collection

from index.export.shards import load_embeddings

SPACES = ("embeddings", "frontal only", "untrained", "first 384", "first 256", "raw pixels")
FLOORS = ["untrained", "raw pixels"]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with exports of both views, of the frontal alone, and of another encoder."""
    root = save_collection(tmp_path_factory.mktemp("views"))
    words = ["--backbone", "test_efficientnet", "--dim", "512", "--weights", "none", "--size", "64"]
    for name, seed in (("encoder", "1"), ("untrained", "2")):
        done("encoder", "create", *words, "--seed", seed, "--out", root / f"{name}.safetensors")
    for out, encoder, more in (
        ("both", "encoder", ()),
        ("frontal", "encoder", ("--views", "frontal")),
        ("other", "untrained", ()),
    ):
        table = ("export", root / "studies.parquet", "--images", root, "--out", root / out)
        done(*table, "--encoder", root / f"{encoder}.safetensors", "--device", "cpu", *more)
    return root


def evaluated(root: Path, out: Path, *words: str) -> tuple[dict[str, Any], str]:
    """Return metrics.json and what the terminal showed."""
    named = ("--also", f"frontal only={root / 'frontal'}", "--floor", f"untrained={root / 'other'}", "--pixels", root)
    labels = ("--findings", "Lung Lesion", "--blank", "ignore")
    shown = done("evaluate", root / "both", "--out", out, *named, *labels, "--draws", "500", *words).stdout
    return json.loads((out / "metrics.json").read_text()), shown


def test_all_spaces_stand_in_one_table_with_floors_told_apart(exports: Path, tmp_path: Path) -> None:
    metrics, shown = evaluated(exports, tmp_path)
    assert set(metrics["spaces"]) == set(SPACES)
    assert metrics["floors"] == FLOORS
    page = (tmp_path / "report.html").read_text()
    table = page[page.index("Spaces side by side") :].partition("</table>")[0]
    headings = [f"{name} (floor)" if name in FLOORS else name for name in SPACES]
    assert all(f"<th>{heading}</th>" in table for heading in headings)
    for heading in headings:
        assert heading in shown
    for name, space in metrics["spaces"].items():
        value = space["rules"]["any finding"]["figures"]["precision@5"]["value"]
        assert f"<td>{value:.3f} (" in table, name
    assert re.search(r"<td>any finding</td><td>mrr</td>", table)
    assert "nearest other study is of the same patient" in table


def test_each_space_is_what_it_is_called(exports: Path, tmp_path: Path) -> None:
    spaces = evaluated(exports, tmp_path)[0]["spaces"]
    assert [spaces[name]["embedding_dim"] for name in SPACES] == [512, 512, 512, 384, 256, 1024]
    chances = {space["rules"]["any finding"]["figures"]["precision@5"]["chance"] for space in spaces.values()}
    assert len(chances) == 1


def test_a_frontal_export_sees_no_lateral(exports: Path) -> None:
    (both, with_laterals), (frontal, without) = (load_embeddings(exports / name) for name in ("both", "frontal"))
    views = both["views"].to_pylist()
    assert {tuple(one) for one in frontal["views"].to_pylist()} == {("frontal",)}
    for row, seen in enumerate(views):
        assert np.allclose(with_laterals[row], without[row], atol=1e-5) == (list(seen) == ["frontal"])
    assert {len(seen) for seen in views} == {1, 2}


def test_a_prefix_is_what_an_export_cut_to_it_would_be(exports: Path, tmp_path: Path) -> None:
    table, vectors = load_embeddings(exports / "both")
    spaces = evaluated(exports, tmp_path)[0]["spaces"]
    patients = np.array(table["patient_id"].to_pylist())
    present = np.array([label == 1 for label in table["Lung Lesion"].to_pylist()])
    for dim in (384, 256):
        short = vectors[:, :dim] / np.linalg.norm(vectors[:, :dim], axis=1, keepdims=True)
        similar = np.where(patients[:, None] == patients, -np.inf, np.round(short.astype(float) @ short.T, 6))
        nearest = np.argsort(-similar[present], axis=1, kind="stable")[:, :5]
        value = spaces[f"first {dim}"]["findings"]["Lung Lesion"]["figures"]["precision@5"]["value"]
        assert value == pytest.approx(present[nearest].mean(), abs=0.02)
