"""`precedent bench search`: the model it draws from, the truth it judges by, and what it prints."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from scripts.benches.drawn import Drawn, share_found, true_neighbours
from scripts.benches.measured import interleaved, markdown_table, medians, resident_bytes
from scripts.verbs import bench

SMALL = ["search", "--rows", "2000", "--dim", "16", "--queries", "10", "--batch", "20", "--repeat", "1"]


def test_rows_are_drawn_alike_each_time_and_queries_are_no_rows() -> None:
    drawn = Drawn(60_000, 16)
    first, again = np.concatenate(list(drawn.blocks())), np.concatenate(list(drawn.blocks()))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (60_000, 16)
    assert len(np.unique(first[:, 0])) > 59_000  # the second block does not repeat the first
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert (drawn.queries(5) @ first.T).max() < 0.99999


def test_few_directions_hold_most_of_what_is_drawn() -> None:
    values = next(Drawn(3000, 512).blocks())
    spectrum = np.linalg.svd(values - values.mean(0), compute_uv=False) ** 2
    held = np.cumsum(spectrum) / spectrum.sum()
    assert held[9] == pytest.approx(0.73, abs=0.02)
    assert held[49] == pytest.approx(0.91, abs=0.02)
    assert values.mean(0) @ values.mean(0) == pytest.approx(0.19, abs=0.01)


def test_the_truth_is_that_of_a_full_sort_for_every_mask() -> None:
    drawn = Drawn(50_100, 8)
    rows, queries = np.concatenate(list(drawn.blocks())), drawn.queries(4)
    masks = [np.ones(50_100, dtype=bool), np.arange(50_100) > 50_080, np.arange(50_100) < 3]
    for mask, found in zip(masks, true_neighbours(drawn.blocks(), queries, masks, 5), strict=True):
        similarities = np.where(mask, queries @ rows.T, -2)
        expected = np.argsort(-similarities, axis=1, kind="stable")[:, :5]
        kept = min(5, int(mask.sum()))
        np.testing.assert_array_equal(found[:, :kept], expected[:, :kept])
        assert (found[:, kept:] == -1).all()


def test_the_share_found_leaves_out_what_cannot_be_found() -> None:
    truth, found = np.array([[1, 2], [3, -1]]), np.array([[2, 7], [3, -1]])
    assert share_found(truth, found) == 0.75


def test_the_bench_states_speed_memory_recall_and_every_filter() -> None:
    figures = json.loads(CliRunner().invoke(bench.command, [*SMALL, "--kind", "ivf-half", "--json"]).stdout)
    size = figures["sizes"][0]
    assert (size["rows"], size["kind"], size["precision"]) == (2000, "ivf-half", "fp16")
    assert size["recall_at_10"] >= 0.9
    assert set(size["milliseconds"]) == {"one query", "batch", "FAISS flat", "codes read once", "vectors read once"}
    assert size["bytes_a_vector"]["exact"] == pytest.approx(2 * 16, rel=0.1)
    assert [cell["passing"] for cell in size["filters"]] == [2, 2, 20, 20, 200, 200, 1000, 1000]
    assert all(cell["recall_at_10"] >= 0.9 for cell in size["filters"])
    assert [cell["exact"] for cell in size["filters"]] == [True] * 4 + [False] * 4
    assert set(figures["versions"]) == {"faiss-cpu", "numpy"}


def test_the_bench_prints_a_table_with_a_line_for_each_size() -> None:
    result = CliRunner().invoke(bench.command, [*SMALL, "--rows", "300"])
    assert result.exit_code == 0
    assert [line.split()[1:4:2] for line in result.stdout.splitlines()[2:4]] == [["2,000", "flat"], ["300", "flat"]]
    assert "0.1% by chance" in result.stdout


def test_subjects_take_turns_and_warm_up_is_not_counted() -> None:
    order: list[str] = []
    subjects = {name: lambda name=name: order.append(name) or len(order) for name in ("a", "b")}
    seconds, answers = interleaved(subjects, 2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert {name: len(runs) for name, runs in seconds.items()} == {"a": 2, "b": 2}
    assert answers == {"a": 5, "b": 6}
    assert medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}


def test_memory_is_split_into_our_own_and_what_is_mapped() -> None:
    before = resident_bytes()
    block = np.ones(8_000_000, dtype=np.uint64)
    assert resident_bytes()["anonymous"] - before["anonymous"] == pytest.approx(block.nbytes, rel=0.1)


def test_a_table_is_markdown_and_aligned() -> None:
    lines = ["| rows  |   ms |", "| ----- | ---: |", "| 10    | 1.50 |", "| 1,000 |    2 |"]
    assert markdown_table(["rows", "ms"], [["10", "1.50"], ["1,000", "2"]]).split("\n") == lines
