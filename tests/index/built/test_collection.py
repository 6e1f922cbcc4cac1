"""Collections on disk: what comes back, what is refused, and that the old one stays until the new one is whole."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from unit_vectors_world import DIM

from index.built import kinds
from index.built.collection import build_collection, build_vectors, load_collection, with_enough_effort
from index.built.effort import EFFORTS, Effort
from index.built.kinds import KINDS, resolve_kind
from index.built.vector_index import VectorIndex
from index.errors import ArtefactError, CollectionError
from index.export.shards import ExportPlan, ShardFolder
from index.search.retriever import Retriever
from index.vectors import Embeddings


def export(folder: Path, studies: pa.Table, vectors: Embeddings) -> Path:
    plan = ExportPlan("a" * 64, DIM, "b" * 64, len(vectors), 64)
    shards = ShardFolder(folder, plan)
    for shard in shards.unfinished():
        rows = plan.slice_of(shard)
        table = studies.slice(rows.start, rows.stop - rows.start)
        shards.save_shard(shard, table, [["frontal"]] * table.num_rows, vectors[rows], [])
    shards.finish(image_root="/films")
    return folder


@pytest.fixture
def embeddings(tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings) -> Path:
    return export(tmp_path / "embeddings", studies, unit_vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_collection_answers_as_the_built_one(kind: str, embeddings: Path, tmp_path: Path) -> None:
    built = Retriever(build_collection(embeddings, tmp_path / "index", kind=kind))
    loaded = Retriever.load(tmp_path / "index")
    for study_id in list(built._studies["study_id"].to_pylist())[:20]:
        assert loaded.similar(study_id, 5) == built.similar(study_id, 5)
    assert loaded.manifest["kind"] == kind
    assert loaded.manifest["image_root"] == "/films"
    assert 0.9 <= loaded.manifest["recall_at_10"] <= 1


def test_auto_is_exact_for_a_small_collection(embeddings: Path, tmp_path: Path) -> None:
    manifest = build_collection(embeddings, tmp_path / "index").manifest
    assert (manifest["kind"], manifest["recall_at_10"]) == ("flat", 1.0)


@pytest.mark.parametrize(
    ("rows", "kind"), [(1, "flat"), (50_000, "flat"), (50_001, "ivf-pq4"), (500_001, "ivf-pq4-half")]
)
def test_auto_leaves_exactness_beyond_fifty_thousand_rows(rows: int, kind: str) -> None:
    assert resolve_kind("auto", rows) == kind
    assert resolve_kind("flat", rows) == "flat"


def test_measured_recall_is_the_share_found(unit_vectors: Embeddings) -> None:
    index = VectorIndex.build(unit_vectors, "hnsw")
    truth = index.search(unit_vectors, 10, exact=True)[1]
    found = index.search(unit_vectors, 10)[1]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(truth, found, strict=True)]) >= 9.5


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
@pytest.mark.parametrize("role", ["exact", "approximate", "studies"])
def test_a_damaged_file_is_refused_before_it_is_parsed(
    role: str, damage: str, embeddings: Path, tmp_path: Path
) -> None:
    manifest = build_collection(embeddings, tmp_path / "index", kind="hnsw").manifest
    path = tmp_path / "index" / manifest["files"][role]["name"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.unlink() if damage == "remove" else path.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(ArtefactError, match=r"precedent index"):
        load_collection(tmp_path / "index")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": "other"}'])
def test_a_folder_without_a_manifest_of_ours_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ArtefactError, match="precedent index"):
        load_collection(tmp_path)


def test_a_rebuilt_collection_replaces_the_old_one_and_its_files(
    embeddings: Path, tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    build_collection(embeddings, tmp_path / "index", kind="hnsw")
    old = Retriever.load(tmp_path / "index")
    build_collection(export(tmp_path / "other", studies.slice(0, 50), unit_vectors[:50]), tmp_path / "index")
    assert len(Retriever.load(tmp_path / "index")) == 50
    assert len(list((tmp_path / "index").iterdir())) == 3
    assert len(old.search(unit_vectors[0], 200).hits) == 200  # the reader keeps what it had open


def test_a_build_that_dies_leaves_the_old_collection(embeddings: Path, tmp_path: Path) -> None:
    build_collection(embeddings, tmp_path / "index")
    before = (tmp_path / "index" / "manifest.json").read_text()
    code = (
        "import os, pathlib, index.built.collection as c; c.save_json = lambda *_, **__: os._exit(9);"
        f"c.build_collection(pathlib.Path({str(embeddings)!r}), pathlib.Path({str(tmp_path / 'index')!r}), kind='hnsw')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / "index" / "manifest.json").read_text() == before
    assert len(load_collection(tmp_path / "index").vectors) == 200


def test_an_unfinished_or_empty_export_is_refused(tmp_path: Path, studies: pa.Table) -> None:
    with pytest.raises(ArtefactError, match="precedent export again"):
        build_collection(tmp_path, tmp_path / "index")
    with pytest.raises(CollectionError, match="no embedded study"):
        build_collection(export(tmp_path / "none", studies.slice(0, 0), np.empty((0, DIM), "f4")), tmp_path / "index")


def test_an_unknown_kind_is_refused(embeddings: Path, tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="auto, flat, ivf"):
        build_collection(embeddings, tmp_path / "index", kind="best")


def test_the_manifest_states_kind_precision_and_effort(embeddings: Path, tmp_path: Path) -> None:
    manifest = build_collection(embeddings, tmp_path / "index", kind="ivf-half").manifest
    assert (manifest["kind"], manifest["precision"]) == ("ivf-half", "fp16")
    assert load_collection(tmp_path / "index").vectors.effort == Effort(**manifest["effort"])


def test_a_collection_from_before_efforts_still_loads_and_an_unknown_kind_does_not(
    embeddings: Path, tmp_path: Path
) -> None:
    manifest = build_collection(embeddings, tmp_path / "index", kind="hnsw").manifest
    older = {key: value for key, value in manifest.items() if key not in ("effort", "precision")}
    (tmp_path / "index" / "manifest.json").write_text(json.dumps(older))
    assert load_collection(tmp_path / "index").vectors.effort == Effort()
    (tmp_path / "index" / "manifest.json").write_text(json.dumps(manifest | {"kind": "tree"}))
    with pytest.raises(ArtefactError, match=r"'tree', unknown to this version; run: precedent index"):
        load_collection(tmp_path / "index")


def test_a_build_takes_the_least_effort_that_finds_enough(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(6000, DIM)).astype(np.float32)
    index = VectorIndex.build(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), "ivf")
    assert with_enough_effort(index)[0].effort in EFFORTS[1:]  # nearest among the shapeless need a long shortlist
    chosen, recall = with_enough_effort(VectorIndex.build(index.vectors(np.arange(150)), "ivf"))
    assert (chosen.effort, recall) == (EFFORTS[0], 1.0)


def test_auto_takes_one_bit_codes_where_four_bits_find_too_little(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "EXACT_UP_TO", 1000)
    shapeless = rng.normal(size=(4000, 256)).astype(np.float32)
    shaped = shapeless[:, :8] @ rng.normal(size=(8, 256)).astype(np.float32)
    for vectors, kind in ((shapeless, "ivf"), (shaped, "ivf-pq4")):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        index = build_vectors(iter([vectors]), "auto", len(vectors))
        assert index.kind == kind
        assert np.array_equal(index.vectors(np.arange(9)), vectors[:9])


def test_the_manifest_names_each_file_with_its_digest(embeddings: Path, tmp_path: Path) -> None:
    build_collection(embeddings, tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert set(manifest["files"]) == {"exact", "studies"}
    assert all(entry["sha256"][:16] in entry["name"] for entry in manifest["files"].values())


def test_the_index_wing_works_where_torch_is_absent(embeddings: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['timm'] = None\n"
        "import index.importing.mapped, index.importing.dicom\n"
        "from index.built.collection import build_collection; from index.search.retriever import Retriever; from pathlib import Path\n"
        f"r = Retriever(build_collection(Path({str(embeddings)!r}), Path({str(tmp_path / 'index')!r})))\n"
        "print(len(r.similar(r._studies['study_id'][0].as_py(), 3).hits))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"
