"""`precedent bench search`: the model it draws from, the truth it judges by, and what it prints."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from gpu_world import StandIn, play_gpu

from index.built.vector_index import VectorIndex
from scripts.benches.drawn import Drawn, share_found, true_neighbours
from scripts.benches.measured import interleaved, markdown_table, medians, resident_bytes
from scripts.benches.other_indexes import ENOUGH, ways_of
from scripts.verbs.running import bench

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
    assert "FAISS on a GPU, FAISS sees none" in result.stdout
    alone = CliRunner().invoke(bench.command, [*SMALL, "--alone"]).stdout
    assert "Not measured" not in alone


def test_other_indexes_stand_beside_ours_at_equal_recall_and_those_that_are_absent_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play_gpu(monkeypatch, StandIn(name="NVIDIA H100"))
    for module in ("scann", "svs"):
        monkeypatch.setitem(sys.modules, module, None)
    size = json.loads(CliRunner().invoke(bench.command, [*SMALL, "--kind", "ivf", "--json"]).stdout)["sizes"][0]
    ours, on_gpu = size["others"]
    assert size["absent"] == {"ScaNN": "scann is not installed", "SVS": "svs is not installed"}
    assert ours["index"] == "Precedent, ivf"
    assert re.fullmatch(r"Precedent on NVIDIA H100, \d{4}-\d\d-\d\d", on_gpu["index"])
    assert (on_gpu["recall_at_10"], ours["recall_at_10"] >= ENOUGH) == (1, True)


def test_another_index_is_asked_with_the_least_effort_that_finds_enough() -> None:
    vectors = next(Drawn(500, 8).blocks())
    module, asked = SimpleNamespace(), []

    def build(*_args: object, **_options: object) -> SimpleNamespace:
        return SimpleNamespace(search_window_size=0, num_threads=0, search=search)

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, None]:
        asked.append(len(queries))
        return (truth if len(asked) == 3 else truth[::-1]), None

    truth = np.arange(40).reshape(4, 10)
    module.Vamana, module.DistanceType = SimpleNamespace(build=build), SimpleNamespace(MIP="mip")
    module.VamanaBuildParameters = dict
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "svs", module)
        patch.setitem(sys.modules, "scann", None)
        ways, absent = ways_of(VectorIndex.build(vectors), vectors, vectors[:4], truth, 1)
    assert ways[1].name == "SVS Vamana, window 30"
    assert ways[1].recall == 1
    assert asked == [4, 4, 4]
    assert set(absent) == {"ScaNN", "FAISS on a GPU"}


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
