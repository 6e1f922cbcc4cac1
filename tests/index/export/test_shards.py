"""Shards that a killed export can go on with, and that are refused when they are not what they were."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit_vectors_world import DIM

from index.built.collection import build_collection, load_collection
from index.errors import ArtefactError, FingerprintMismatch, VectorsError
from index.export.shards import ExportPlan, Failure, ShardFolder, load_embeddings, load_shards, sample_layouts
from index.storage.files import load_json, save_json
from index.vectors import Embeddings

PLAN = ExportPlan(fingerprint="a" * 64, embedding_dim=DIM, studies_sha256="b" * 64, rows=200, shard_rows=64)


def write(folder: ShardFolder, shard: int, studies: pa.Table, vectors: Embeddings) -> None:
    """Write a shard whose first row failed."""
    rows = folder.plan.slice_of(shard)
    table = studies.slice(rows.start + 1, rows.stop - rows.start - 1)
    views = [["frontal"]] * table.num_rows
    failure = Failure(studies["study_id"][rows.start].as_py(), "torn")
    folder.save_shard(shard, table, views, vectors[rows.start + 1 : rows.stop], [failure])


@pytest.fixture
def export(tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings) -> Path:
    folder = ShardFolder(tmp_path / "embeddings", PLAN)
    for shard in folder.unfinished():
        write(folder, shard, studies, unit_vectors)
    folder.finish(image_root="/films")
    return folder.folder


def test_what_was_written_is_read_row_for_row(export: Path, studies: pa.Table, unit_vectors: Embeddings) -> None:
    table, vectors = load_embeddings(export)
    kept = [row for row in range(200) if row % 64]
    assert table.drop_columns(["views"]).to_pylist() == studies.take(kept).to_pylist()
    assert np.array_equal(vectors, unit_vectors[kept])


def test_failures_are_listed_and_counted(export: Path, studies: pa.Table) -> None:
    manifest = json.loads((export / "_manifest.json").read_text())
    assert (manifest["rows"], manifest["failed"]) == (196, 4)
    failed = pq.read_table(export / "_failed.parquet").to_pylist()
    assert failed[1] == {"study_id": studies["study_id"][64].as_py(), "reason": "torn"}


def test_only_unfinished_shards_are_left_to_write(tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings) -> None:
    folder = ShardFolder(tmp_path, PLAN)
    write(folder, 1, studies, unit_vectors)
    (tmp_path / ".shard-00002.parquet.partial").write_bytes(b"what a kill leaves")
    assert ShardFolder(tmp_path, PLAN).unfinished() == [0, 2, 3]
    with pytest.raises(ArtefactError, match="precedent export again"):
        load_embeddings(tmp_path)


def test_the_embedding_column_is_read_without_a_copy(export: Path) -> None:
    column = pq.read_table(export / "shard-00000.parquet")["embedding"]
    assert column.type == pa.list_(pa.float32(), DIM)
    assert column.chunk(0).flatten().to_numpy(zero_copy_only=True).dtype == np.float32


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"fingerprint": "c" * 64}, FingerprintMismatch, "export to another folder"),
        ({"studies_sha256": "c" * 64}, ArtefactError, "studies_sha256"),
        ({"shard_rows": 32}, ArtefactError, "shard_rows"),
        ({"views": "frontal"}, ArtefactError, "views"),
        ({"reading": 2}, ArtefactError, "reading"),
    ],
)
def test_another_export_is_not_mixed_into_the_folder(
    change: dict[str, object], error: type[Exception], sentence: str, export: Path
) -> None:
    with pytest.raises(error, match=sentence):
        ShardFolder(export, ExportPlan(**(vars(PLAN) | change)))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "foreign"])
def test_a_damaged_shard_is_refused_with_the_remedy(damage: str, export: Path) -> None:
    path = export / "shard-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"truncate": bytes(content[:-9]), "flip": bytes(content), "foreign": b"no Parquet", "remove": b""}[damage]
    path.unlink() if damage == "remove" else path.write_bytes(damaged)
    with pytest.raises(ArtefactError, match=r"shard-00001.*run precedent export again"):
        list(load_shards(export))


def test_a_vector_that_is_not_of_unit_norm_is_never_written(tmp_path: Path, studies: pa.Table) -> None:
    folder = ShardFolder(tmp_path, PLAN)
    with pytest.raises(VectorsError, match="unit norm"):
        folder.save_shard(0, studies.slice(0, 1), [["frontal"]], np.full((1, DIM), 0.5, np.float32), [])
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_shard_in_which_all_failed_is_finished(tmp_path: Path, studies: pa.Table) -> None:
    folder = ShardFolder(tmp_path, ExportPlan("a" * 64, DIM, "b" * 64, 1, 64))
    folder.save_shard(0, studies.slice(0, 0), [], np.empty((0, DIM), np.float32), [Failure("x", "torn")])
    assert folder.finish()["failed"] == 1
    assert load_embeddings(tmp_path)[1].shape == (0, DIM)


def as_older(export: Path) -> Path:
    """Return the export with its side files as older versions called them."""
    (export / "_manifest.json").rename(export / "manifest.json")
    (export / "_failed.parquet" / "failed.pq").rename(export / "failed.parquet")
    (export / "_failed.parquet").rmdir()
    return export


def test_an_export_of_an_older_version_opens_and_goes_on_under_the_new_names(export: Path) -> None:
    table, vectors = load_embeddings(as_older(export))
    assert (table.num_rows, len(vectors)) == (196, 196)

    ShardFolder(export, PLAN).finish(image_root="/films")

    names = {path.name for path in export.iterdir() if not path.name.startswith("shard-")}
    assert names == {"_manifest.json", "_failed.parquet"}
    assert load_embeddings(export)[0].equals(table)


def test_the_manifest_of_another_thing_is_not_removed(export: Path) -> None:
    save_json(export / "manifest.json", {"format": "precedent-index"})
    ShardFolder(export, PLAN).finish()
    assert load_json(export / "manifest.json", "manifest", "")["format"] == "precedent-index"


def by_polars(folder: Path) -> Any:
    return pytest.importorskip("polars").read_parquet(f"{folder}/*.parquet")


def by_duckdb(folder: Path) -> Any:
    return pytest.importorskip("duckdb").sql(f"from read_parquet('{folder}/*.parquet')").arrow().read_all()


@pytest.mark.parametrize("opened", [pd.read_parquet, pq.read_table, by_polars, by_duckdb])
def test_the_folder_of_an_export_opens_as_a_table(opened: Callable[[Path], Any], export: Path) -> None:
    assert len(opened(export)) == 196
    assert len(pq.read_table(export / "_failed.parquet")) == 4


def save_with_layouts(folder: Path, studies: pa.Table, vectors: Embeddings, layouts: list[list[bytes] | None]) -> Path:
    """Write an export of two shards; one without any layout is as older versions wrote it."""
    plan = ExportPlan("f" * 64, vectors.shape[1], "0" * 64, studies.num_rows, studies.num_rows // 2)
    shards = ShardFolder(folder, plan)
    for shard in range(plan.shard_count):
        part = plan.slice_of(shard)
        rows = studies.slice(part.start, part.stop - part.start)
        films = [film for film in layouts[part] if film is not None] or None
        views = [["frontal", "lateral"][: len(film or "one")] for film in layouts[part]]
        shards.save_shard(shard, rows, views, vectors[part], [], films)
    shards.finish(image_root="")
    return folder


def test_a_collection_keeps_the_films_of_a_sample_and_no_column_of_them(
    tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    layouts: list[list[bytes] | None] = [[bytes([n, 1]), bytes([n, 2])][: 1 + n % 2] for n in range(200)]
    folder = save_with_layouts(tmp_path / "export", studies, unit_vectors, layouts)
    built = build_collection(folder, tmp_path / "index")
    loaded = load_collection(tmp_path / "index").layouts
    owners = {(row[0], studies["patient_id"][row[0]].as_py()) for films in layouts for row in films or ()}
    few = sample_layouts(folder, sample=50)

    assert loaded is not None
    assert loaded.equals(built.layouts)
    assert {(row["layout"][0], row["patient_id"]) for row in loaded.to_pylist()} == owners
    assert loaded.num_rows == 300
    assert all(row["view"] == ("frontal" if row["layout"][1] == 1 else "lateral") for row in loaded.to_pylist())
    assert few is not None
    assert len({row["layout"][0] for row in few.to_pylist()}) == 50
    assert "layouts" not in load_embeddings(folder)[0].column_names


@pytest.mark.parametrize(("without", "kept"), [(100, 100), (200, None)])
def test_shards_of_an_older_export_have_no_layouts(
    tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings, without: int, kept: int | None
) -> None:
    layouts: list[list[bytes] | None] = [None if n < without else [bytes([n])] for n in range(200)]
    found = build_collection(save_with_layouts(tmp_path / "export", studies, unit_vectors, layouts), tmp_path / "index")

    assert (found.layouts and found.layouts.num_rows) == kept
    assert ("layouts" in found.manifest["files"]) is (kept is not None)
    assert load_collection(tmp_path / "index").manifest == found.manifest
