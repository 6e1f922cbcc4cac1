"""`precedent neighbours`: files of pairs in three forms, what is printed, and every refusal."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from command_line import done, json_of, refusal
from living_world import addition, build, unit

from index.living.collection import LivingCollection
from index.search.neighbours import PAIRS
from index.table.studies import PATIENTS, PATIENTS_UNKNOWN
from index.vectors import Embeddings
from scripts.verbs.asking import neighbours


@pytest.fixture
def index(studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path) -> Path:
    """Return an index in which studies 0, 100 and 150 are of one film."""
    unit_vectors[[100, 150]] = unit_vectors[0]
    return build(tmp_path / "index", studies, unit_vectors)


def test_pairs_that_are_nearly_the_same_are_listed_and_written_in_each_form(
    index: Path, studies: pa.Table, tmp_path: Path
) -> None:
    shown = done("neighbours", index, "--at-least", "0.98").stdout
    told = json_of("neighbours", index, "--at-least", "0.98", "--out", tmp_path / "pairs.csv")
    for name in ("pairs.parquet", "pairs.jsonl"):
        done("neighbours", index, "--at-least", "0.98", "--out", tmp_path / name)

    parquet = pq.read_table(tmp_path / "pairs.parquet")
    assert parquet.schema.equals(PAIRS)
    assert pa_csv.read_csv(tmp_path / "pairs.csv").cast(PAIRS).to_pylist() == parquet.to_pylist()
    assert [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().split("\n")[:-1]] == parquet.to_pylist()
    assert (told["pairs"], told["exact"], told["recall_at_10"]) == (3, True, 1.0)
    assert sorted(told["most_similar"], key=str) == sorted(parquet.to_pylist(), key=str)
    for row in (0, 100, 150):
        assert studies["study_id"][row].as_py() in shown
    assert "3 pairs" in shown


def test_a_graph_has_k_neighbours_of_every_study_and_an_index_as_it_searches_its_recall(
    studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    unknown = studies.append_column(PATIENTS, pa.array(["unknown"] * 200))
    index = build(tmp_path / "approximate", unknown, unit_vectors, "hnsw")
    told = json_of("neighbours", index, "-k", "3", "--approximate", "--out", tmp_path / "graph.parquet")
    assert pq.read_table(tmp_path / "graph.parquet").num_rows == told["pairs"] == 600
    assert not told["exact"]
    assert told["recall_at_10"] > 0.9
    assert PATIENTS_UNKNOWN in told["warning"]
    assert len(told["most_similar"]) == neighbours.SHOWN


def test_studies_added_since_are_not_left_out_in_silence(index: Path, rng: np.random.Generator) -> None:
    living = LivingCollection(index)
    living.add([addition("patient99999/study1", unit(rng), rng)])
    assert "precedent compact" in refusal("neighbours", index, "-k", "3")
    living.compact()
    assert json_of("neighbours", index, "-k", "3")["studies"] == 201


def test_too_many_pairs_are_refused_and_no_file_is_left(index: Path, tmp_path: Path) -> None:
    words = ("--at-least", "-0.9", "--most", "100", "--out", tmp_path / "pairs.csv")
    assert "at most 100 pairs" in refusal("neighbours", index, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize(
    "words",
    [[], ["-k", "3", "--at-least", "0.9"], ["--at-least", "0.9", "--approximate"], ["-k", "3", "--out", "graph.txt"]],
    ids=["neither", "both", "approximate-pairs", "suffix"],
)
def test_options_that_mean_nothing_are_refused(index: Path, words: list[str]) -> None:
    assert CliRunner().invoke(neighbours.command, [str(index), *words]).exit_code == 2
