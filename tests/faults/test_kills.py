"""Exports and index builds killed at random moments: what was finished is kept, and nothing torn is ever read."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import done
from export_files import save_export
from killing import Killer

from encoder.embedder import Embedder
from encoder.network.checkpoint import save_encoder
from index.built.collection import build_collection, load_collection
from index.errors import ArtefactError
from index.export.shards import load_embeddings
from index.table.studies import save_studies
from index.vectors import Embeddings
from scripts.cli import precedent

SHORT, LONG = 6, 500
KINDS = ("flat", "hnsw", "ivf", "ivf-half", "ivf-pq4")
counts = pytest.mark.parametrize(
    "count", [pytest.param(SHORT, marks=pytest.mark.slow), pytest.param(LONG, marks=pytest.mark.long)]
)


def build(export: Path, out: Path, kind: str) -> None:
    """Index an export; what a child does."""
    build_collection(export, out, kind=kind)


@counts
def test_an_index_whose_build_is_killed_is_the_old_one_or_the_new_one(
    count: int, tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    exports = {
        rows: save_export(tmp_path / f"{rows}", studies.slice(0, rows), unit_vectors[:rows]) for rows in (200, 150)
    }
    killer, index = Killer(seed=count), tmp_path / "index"
    killer.run_whole(build, exports[200], index, "ivf")
    held = 200
    for number in range(count):
        rows, kind = (150, 200)[number % 2], KINDS[number % len(KINDS)]
        finished = killer.run(build, exports[rows], index, kind)
        collection = load_collection(index)
        assert len(collection.vectors) in ({rows} if finished else {held, rows})
        held = len(collection.vectors)
        query = unit_vectors[:held]
        assert np.array_equal(collection.vectors.search(query, 1, exact=True)[1][:, 0], np.arange(held))
        assert collection.studies["study_id"].equals(studies["study_id"].slice(0, held))
        collection.vectors.search(query[:1], 5)
    print(killer.sentence())
    assert killer.killed > count / 4
    build_collection(exports[200], index, kind="flat")
    kept = {entry["name"] for entry in load_collection(index).manifest["files"].values()}
    assert {path.name for path in index.iterdir() if path.suffix in (".faiss", ".parquet", ".new", ".partial")} == kept


@pytest.fixture
def films(tmp_path: Path, studies: pa.Table, tiny_embedder: Embedder) -> list[str | Path]:
    """Return the words that export 24 films in shards of two, but for the folder."""
    rng = np.random.default_rng(0)
    table = studies.slice(0, 24)
    for path in filter(None, table["frontal_path"].to_pylist() + table["lateral_path"].to_pylist()):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / path), rng.integers(0, 255, (80, 72), dtype=np.uint8))
    save_studies(table, tmp_path / "studies.parquet")
    save_encoder(tmp_path / "encoder.safetensors", tiny_embedder.encoder, tiny_embedder.preprocessing)
    words = [
        "export",
        tmp_path / "studies.parquet",
        "--images",
        tmp_path,
        "--encoder",
        tmp_path / "encoder.safetensors",
    ]
    return [*words, "--shard-rows", "2", "--batch", "2", "--runtime", "torch"]


def export(words: list[str | Path], out: Path) -> None:
    """Run `precedent export`; what a child does."""
    precedent.main([*map(str, words), "--out", str(out)], standalone_mode=False)


@counts
def test_shards_of_a_killed_export_are_whole_and_are_kept(count: int, films: list[str | Path], tmp_path: Path) -> None:
    killer, out, whole = Killer(seed=count), tmp_path / "out", tmp_path / "whole"
    killer.run_whole(export, films, whole)
    tables = {path.name: pq.read_table(path) for path in whole.glob("*.parquet")}
    kept: dict[str, int] = {}
    for _ in range(count):
        finished = killer.run(export, films, out)
        found = {path.name: path for path in out.glob("*.parquet") if path.is_file()}  # the failed lie in a folder
        assert all(pq.read_table(path).equals(tables[name]) for name, path in found.items())
        assert {name: found[name].stat().st_mtime_ns for name in kept} == kept  # never lost, never done again
        if finished:
            assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
            assert load_embeddings(out)[0].num_rows == 24
            shutil.rmtree(out)
        elif not (out / "_manifest.json").exists():
            with pytest.raises(ArtefactError, match="continues where it stopped"):
                load_embeddings(out)
        kept = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.parquet")}
    print(killer.sentence())
    assert killer.killed > count / 4
    done(*films, "--out", out)
    assert pa.concat_tables(map(pq.read_table, sorted(out.glob("shard-*")))).num_rows == 24
