"""What is read from memory of Python's, and who lets go of it."""

import io
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from folders import ROOT

from index.export.shards import ExportPlan, ShardFolder, load_embeddings
from index.importing.mapping import SourceTable
from index.importing.source_files import read_source
from index.storage.parquet import read_parquet
from index.table.studies import load_rows, save_studies
from index.vectors import Embeddings

UNGUARDED = re.compile(r"\bread_table\(|\bParquetFile\(|\bBufferReader\(|\bread_parquet\(\s*[\"']")


@pytest.fixture
def export(studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path) -> Path:
    """Return an export of 8 shards."""
    folder = ShardFolder(tmp_path / "export", ExportPlan("f" * 64, unit_vectors.shape[1], "0" * 64, 200, 25))
    for shard in range(folder.plan.shard_count):
        rows = folder.plan.slice_of(shard)
        folder.save_shard(shard, studies[rows], [["frontal"]] * 25, unit_vectors[rows], [])
    folder.finish()
    save_studies(studies, tmp_path / "studies.parquet")
    return folder.folder


def test_no_thread_of_arrow_keeps_what_was_read(export: Path) -> None:
    here, elsewhere = threading.get_native_id(), []

    class Told(bytes):
        def __del__(self) -> None:
            elsewhere.extend({threading.get_native_id()} - {here})

    class Content(io.BytesIO):
        def read(self, size: int | None = -1) -> Told:
            return Told(super().read(size))

    content = (export / "shard-00000.parquet").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("io.BytesIO", Content)
        for _ in range(50):
            read_parquet(content, "shard", "")
    assert elsewhere == []


@pytest.mark.parametrize(
    "read", [load_embeddings, lambda export: load_rows(export.parent / "studies.parquet", slice(3, 9))]
)
def test_all_is_read_by_the_one_thread(
    export: Path, read: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    for name in ("read", "read_row_groups"):
        plain = getattr(pq.ParquetFile, name)
        monkeypatch.setattr(
            pq.ParquetFile,
            name,
            lambda *words, plain=plain, **options: asked.append(options) or plain(*words, **options),
        )

    read(export)

    assert asked
    assert all(options["use_threads"] is False for options in asked)


def test_parquet_is_read_in_one_module_alone() -> None:
    rooms = ("encoder", "index", "service", "scripts")
    users = [
        path.name
        for room in rooms
        for path in sorted((ROOT / room).rglob("*.py"))
        if UNGUARDED.search(path.read_text())
    ]
    assert users == ["parquet.py"]


def test_a_csv_is_read_by_the_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source.csv").write_text("Path\na\n")
    plain, asked = pacsv.read_csv, []
    monkeypatch.setattr(
        pacsv,
        "read_csv",
        lambda file, options, **others: asked.append(options.use_threads) or plain(file, options, **others),
    )

    assert len(read_source(SourceTable(file=["source.csv"]), tmp_path)[0]) == 1

    assert asked == [False]


@pytest.mark.slow
def test_a_refusal_after_reading_an_export_never_aborts(export: Path) -> None:
    refused = (
        "import pathlib, sys; from index.export.shards import load_embeddings; "
        "found = load_embeddings(pathlib.Path(sys.argv[1])); sys.exit('refused')"
    )
    for _ in range(24):
        done = subprocess.run([sys.executable, "-c", refused, export], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "refused\n")
