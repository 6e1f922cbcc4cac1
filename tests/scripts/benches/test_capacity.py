"""`precedent bench capacity`: each figure against one reckoned by hand, and what it says where one was not measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import done, refusal

EXPORT = {
    "kinds": {"small": {"films_per_second": {"precedent export": 200.0}}},
    "cores": 4, "runtime": "openvino-bf16", "backbone": "efficientnet_b0", "side": 224,
}  # fmt: skip
FLAT = {"rows": 1_000, "kind": "flat", "bytes_a_vector": {"exact": 400.0}, "recall_at_10": 1.0}
LISTS = {
    "rows": 1_000_000, "kind": "ivf-half", "precision": "fp16", "bytes_a_vector": {"exact": 200.0, "codes": 20.0},
    "recall_at_10": 0.99, "milliseconds": {"plain": 100.0}, "queries_a_second": {"ours, batch": 1000.0},
}  # fmt: skip
SEARCH = {"dim": 100, "threads": 2, "k": 10, "sizes": [FLAT, LISTS]}
ENCODE = {
    "device": "cuda",
    "ways": {"torch eager fp32": {"studies_per_second": 500.0, "one_study_ms": 2.0}, "encoder alone": {"studies_per_second": 9000.0}},
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return figures as `--json` prints them, an export's and a search's."""
    return [written(tmp_path / "export.json", EXPORT), written(tmp_path / "search.json", SEARCH)]


def written(path: Path, figures: dict[str, Any]) -> Path:
    path.write_text(json.dumps(figures))
    return path


def table(*words: str | Path) -> dict[str, list[str]]:
    """Return the cells of each line of both tables, by their number, the name first."""
    rows = [line.strip("| ").split(" | ") for line in done("bench", "capacity", *words).stdout.splitlines()]
    named = {row[0].partition(" [")[0]: row for row in rows if "[" in row[0] and len(row) > 3}
    sources = {row[0]: row for row in rows if row[0].startswith("[")}
    return {name: [*row[1:], *sources[f"[{row[0].partition(' [')[2]}"][1:]] for name, row in named.items()}


def test_every_figure_is_the_one_that_a_hand_reckons(files: list[Path]) -> None:
    words = ["--machines", "2", "--cores", "8", "--node-gib", "10", "--node-share", "0.5", "--film-mb", "1"]
    cells = {name: row[:3] for name, row in table(*files, *words, "--shard-rows", "1000").items()}
    assert cells == {
        "encoder, core-hours, films to shards": ["11", "1,111", "11,111"],  # 4 cores / 100 studies a second
        "re-embedding all of it, 2 machines of 8 cores": ["42 min", "2.9 days", "29 days"],
        "encoder, GPU-hours, films in memory": ["not measured"] * 3,
        "films": ["2.0 TB", "200 TB", "2.0 PB"],
        "shards": ["1,000", "100,000", "1,000,000"],
        "vectors in the shards": ["400 MB", "40 GB", "400 GB"],
        "memory: flat, fp32": ["400 MB", "40 GB", "400 GB"],
        "Milvus query nodes: flat, fp32": ["1", "8", "75"],  # 5 GiB = 5.37 GB of vectors a node
        "memory: IVF or HNSW, fp16 in memory": ["220 MB", "22 GB", "220 GB"],
        "Milvus query nodes: IVF or HNSW, fp16 in memory": ["1", "5", "41"],
        "memory: codes in memory, vectors on disk (PQ, DISKANN)": ["20 MB", "2.0 GB", "20 GB"],
        "Milvus query nodes: codes in memory, vectors on disk (PQ, DISKANN)": ["1", "1", "4"],
        "core-seconds a query: flat": ["0.20", "20.00", "200.00"],
        "core-seconds a query: ivf-half": ["0.0020", "0.0500", "0.5000"],  # 1,024 lists, then 4,096
    }


def test_each_line_names_the_file_the_key_and_what_is_assumed(files: list[Path]) -> None:
    cells = table(*files)
    assert cells["encoder, core-hours, films to shards"][3] == (
        "export.json: kinds.small.films_per_second['precedent export'] = 200.0"
    )
    assert cells["core-seconds a query: ivf-half"][3].startswith(
        "search.json: sizes[rows = 1,000,000].queries_a_second"
    )
    assert "0.990" in cells["core-seconds a query: ivf-half"][4]
    assert "64 GiB a node, 70% of it" in cells["Milvus query nodes: flat, fp32"][4]


def test_hours_of_a_gpu_are_told_only_where_one_was_measured(files: list[Path], tmp_path: Path) -> None:
    cells = table(*files, written(tmp_path / "encode.json", ENCODE))["encoder, GPU-hours, films in memory"]
    assert cells[:3] == ["0.6", "56", "556"]
    assert cells[3] == "encode.json: ways['torch eager fp32'].studies_per_second = 500.0"
    on_cpu = written(tmp_path / "cpu.json", ENCODE | {"device": "cpu"})
    assert table(*files, on_cpu)["encoder, GPU-hours, films in memory"][:3] == ["not measured"] * 3


def test_figures_that_are_none_or_do_not_suffice_are_refused(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("way studies/s")
    assert "run the bench with --json" in refusal("bench", "capacity", tmp_path / "text.json")
    assert "encode, export, search" in refusal("bench", "capacity", written(tmp_path / "other.json", {"rows": []}))
    assert "bench export --json` of dicom films" in refusal("bench", "capacity", *files, "--kind", "dicom")
    assert "bench search --json`, got none" in refusal("bench", "capacity", files[0])
