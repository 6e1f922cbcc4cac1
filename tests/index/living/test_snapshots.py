"""Compaction, snapshots and verification of a folder: what each leaves behind, and what each refuses."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from living_world import addition, build, ids_of, unit

from index.built.collection import build_collection
from index.built.map import build_map, load_map
from index.errors import ArtefactError, CollectionError, FingerprintMismatch
from index.living.collection import LivingCollection
from index.living.generation import Generation
from index.living.snapshots import restore_snapshot, save_snapshot
from index.living.verification import verify
from index.storage.files import load_json, save_json
from index.storage.folder import CHANGES, CHANGES_MARKER, held_alone
from index.vectors import Embeddings


@pytest.fixture
def living(
    tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings, rng: np.random.Generator
) -> Iterator[LivingCollection]:
    """Yield a collection of 200 with a map, of which 5 were deleted and to which 3 were added, a compaction between."""
    folder = build(tmp_path / "index", studies, unit_vectors, "hnsw")
    build_map(folder)
    living = LivingCollection(folder)
    ids = studies["study_id"].to_pylist()
    living.add([addition("patient90001/study1", unit(rng))])
    living.delete(ids[:2])
    living.compact()
    living.add([addition(f"patient90002/study{one}", unit(rng)) for one in (1, 2)])
    living.delete(ids[2:5])
    yield living
    living.close()


def contents(living: LivingCollection | Generation) -> dict[str, list[float]]:
    now = living.now()
    return {one: [vars(now.study(one)), now.embedding(one).tolist()] for one in ids_of(now)}


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir() if not path.name.startswith(CHANGES)}


def test_a_compacted_collection_holds_the_same_in_an_index_alone(living: LivingCollection) -> None:
    before, old = contents(living), living.now()
    manifest = living.compact()

    assert contents(living) == before == contents(old)
    assert (manifest["rows"], len(living.now()._parts), living.moved) == (198, 1, frozenset())
    assert contents(LivingCollection(living.folder)) == before
    with sqlite3.connect(living.folder / CHANGES) as connection:
        assert connection.execute("SELECT count(*) FROM changes").fetchone() == (0,)
    connection.close()


def test_compacting_again_writes_nothing(living: LivingCollection) -> None:
    living.compact()
    before = files(living.folder)
    living.compact()

    assert files(living.folder) == before


def test_a_map_keeps_its_places_through_a_compaction_and_takes_the_new_studies_in(living: LivingCollection) -> None:
    before = load_map(living.folder)
    living.compact()
    after = load_map(living.folder)

    assert before is not None
    assert after is not None
    places = [
        dict(zip(*(found.points[name].to_pylist() for name in ("study_id", "x")), strict=True))
        for found in (before, after)
    ]
    assert {one: places[1][one] for one in places[1] if one in places[0]}.items() <= places[0].items()
    assert "patient90002/study1" in places[1]
    assert (len(places[0]), len(places[1])) == (199, 198)


def test_only_one_at_a_time_may_rebuild_or_copy_a_folder(living: LivingCollection, tmp_path: Path) -> None:
    for work in (living.compact, lambda: save_snapshot(living.folder, tmp_path / "copy")):
        with held_alone(living.folder), pytest.raises(CollectionError, match="by another process"):
            work()
    assert not (tmp_path / "copy").exists()


def test_an_index_that_has_changed_is_not_built_over(
    living: LivingCollection, tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    from export_files import save_export

    with pytest.raises(CollectionError, match="the export lacks those changes"):
        build_collection(save_export(tmp_path / "again", studies, unit_vectors), living.folder)
    assert len(LivingCollection(living.folder)) == 198


def test_a_collection_keeps_its_last_study(tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings) -> None:
    living = LivingCollection(build(tmp_path / "one", studies.slice(0, 1), unit_vectors[:1]))
    living.delete(studies["study_id"].to_pylist()[:1])

    assert living.search(unit_vectors[0], 3).hits == []
    with pytest.raises(CollectionError, match="at least one study"):
        living.compact()


def test_changes_of_another_encoder_are_refused(living: LivingCollection) -> None:
    manifest = load_json(living.folder / "manifest.json", "", "")
    save_json(living.folder / "manifest.json", manifest | {"fingerprint": "0" * 64}, sealed=True)

    with pytest.raises(FingerprintMismatch, match="were added to its folder by encoder ffff"):
        LivingCollection(living.folder)


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(200)])
def test_a_file_of_changes_that_is_none_is_refused(living: LivingCollection, content: bytes) -> None:
    living.close()
    for path in living.folder.glob(f"{CHANGES}*"):
        path.unlink()
    (living.folder / CHANGES).write_bytes(content)

    with pytest.raises(ArtefactError, match=r"changes\.sqlite"):
        LivingCollection(living.folder)


def test_after_the_changes_were_given_up_new_ones_are_kept(living: LivingCollection, rng: np.random.Generator) -> None:
    living.close()
    (living.folder / CHANGES).unlink()
    with pytest.raises(ArtefactError, match=rf"{CHANGES} is missing.*move {CHANGES}\* and {CHANGES_MARKER} away"):
        LivingCollection(living.folder)
    (living.folder / CHANGES_MARKER).unlink()
    again = LivingCollection(living.folder)
    again.add([addition("patient90003/study1", unit(rng))])

    assert len(again) == len(LivingCollection(living.folder)) == 200


def test_a_restored_snapshot_is_the_collection_as_it_was_then(
    living: LivingCollection, tmp_path: Path, rng: np.random.Generator
) -> None:
    before = contents(living)
    save_snapshot(living.folder, tmp_path / "snapshot")
    living.add([addition("patient90003/study1", unit(rng))])
    living.compact()
    restore_snapshot(tmp_path / "snapshot", tmp_path / "restored")
    restored = LivingCollection(tmp_path / "restored")

    assert contents(restored) == before
    assert load_map(tmp_path / "restored") is not None
    assert verify(tmp_path / "restored").faults == []
    assert restored.film_path(b"film", ".png") != living.film_path(b"film", ".png")
    restored.add([addition("patient90003/study1", unit(rng))])
    restored.compact()
    assert len(restored) == len(living) == 199


def test_a_snapshot_with_a_flipped_bit_restores_nothing(living: LivingCollection, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    save_snapshot(living.folder, snapshot)
    for path in sorted(snapshot.iterdir()):
        whole = path.read_bytes()
        flip(path, len(whole) // 2)
        with pytest.raises(ArtefactError):
            restore_snapshot(snapshot, tmp_path / "restored")
        path.write_bytes(whole)
    assert not (tmp_path / "restored").exists()
    with pytest.raises(CollectionError, match="new or empty folder"):
        restore_snapshot(snapshot, living.folder)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)


def test_verify_finds_nothing_wrong_with_what_is_right(living: LivingCollection) -> None:
    found = verify(living.folder)

    assert (found.studies, found.faults, found.notes) == (198, [], [])


def test_verify_finds_a_flipped_bit_in_every_file(living: LivingCollection, rng: np.random.Generator) -> None:
    living.close()  # its last connection: the changes are in one file now
    for path in sorted({*living.folder.iterdir()} - {living.folder / CHANGES_MARKER}):  # whose name says all
        whole = path.read_bytes()
        places = [whole.index(b"patient90002/study1")] if path.name == CHANGES else rng.integers(len(whole), size=5)
        for position in places:
            flip(path, int(position))
            assert verify(living.folder).faults, (path.name, position)
            path.write_bytes(whole)
    assert verify(living.folder).faults == []


def test_a_flipped_bit_of_the_changes_is_found_or_changes_nothing(
    living: LivingCollection, rng: np.random.Generator
) -> None:
    before = contents(living)
    living.close()
    path = living.folder / CHANGES
    whole, found = path.read_bytes(), 0
    for position in rng.integers(len(whole), size=60):
        flip(path, int(position))
        if verify(living.folder).faults:
            found += 1
        else:
            again = LivingCollection(living.folder)
            assert contents(again) == before
            again.close()
        path.write_bytes(whole)
    assert found


def test_verify_names_what_a_kill_left_and_a_film_that_is_not_what_it_was(
    living: LivingCollection, tmp_path: Path, rng: np.random.Generator
) -> None:
    from dataclasses import replace

    film, new = b"\x89PNG film", addition("patient90009/study1", unit(rng))
    path = living.film_path(film, ".png")
    named = replace(new, study=replace(new.study, frontal_path=path))
    living.add([named], films={path: film}, image_root=tmp_path)
    (living.folder / ".exact.new").write_bytes(b"torn")
    left = (tmp_path / path).with_name(f"{64 * '0'}.png")
    left.write_bytes(b"left")
    found = verify(living.folder, tmp_path)

    assert found.faults == []
    assert [note.split()[0].rsplit("/", 1)[-1] for note in found.notes] == [left.name, ".exact.new"]
    flip(tmp_path / path, 3)
    assert [path in fault for fault in verify(living.folder, tmp_path).faults] == [True]
    living.compact(tmp_path)
    assert [one.name for one in (tmp_path / path).parent.iterdir()] == [Path(path).name]
