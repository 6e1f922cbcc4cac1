"""A collection that somebody else has made: what it names is not followed out of the folders that a user has named."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import done, refusal
from living_world import addition, build_of, unit, units

from index.built.map import build_map
from index.errors import ArtefactError, CollectionError, WriteFailed
from index.living.collection import LivingCollection
from index.living.snapshots import restore_snapshot, save_snapshot
from index.living.verification import verify
from index.storage.files import load_json, save_json, seal_of
from index.storage.folder import CHANGES, CHANGES_MARKER, held_alone
from scripts.cli import precedent


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Return an index of six studies, of which one was deleted."""
    given = [addition(f"patient{one}/study1", vector) for one, vector in enumerate(units(rng, 6))]
    folder = build_of(tmp_path / "index", given)
    with closing(LivingCollection(folder)) as living:
        living.delete(["patient3/study1"])
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "films"
    root.mkdir()
    return root


def say(folder: Path, **said: Any) -> None:
    """Have a collection say other facts, sealed as its author would."""
    with closing(sqlite3.connect(folder / CHANGES)) as connection, connection:
        facts = dict(connection.execute("SELECT name, value FROM facts WHERE name != 'seal'")) | said
        connection.executemany("REPLACE INTO facts VALUES (?, ?)", [*facts.items(), ("seal", seal_of(facts))])


@pytest.mark.parametrize("kind", ["absolute", "..", ".", "", "upper", "long", 7])
def test_a_name_that_is_none_of_ours_is_refused_and_removes_nothing(
    folder: Path, root: Path, tmp_path: Path, kind: Any
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "letter.txt").write_text("mine")
    names = {"absolute": str(victim), "..": "../../victim", "upper": 16 * "A", "long": 17 * "a"}
    say(folder, name=names.get(kind, kind))

    (fault,) = verify(folder, root).faults
    assert "says name" in fault
    assert "says name" in refusal("compact", folder, "--images", root)
    assert (victim / "letter.txt").read_text() == "mine"


@pytest.mark.parametrize("fact", ["fingerprint", "embedding_dim", "cleared", "last", "sum"])
def test_a_fact_of_another_type_is_refused(folder: Path, fact: str) -> None:
    say(folder, **{fact: 1.5})

    with pytest.raises(ArtefactError, match=f"says {fact}"):
        LivingCollection(folder)
    assert verify(folder).faults


def test_a_compaction_removes_files_of_our_own_naming_alone(folder: Path, root: Path) -> None:
    living = LivingCollection(folder)
    ours = root / living.film_path(b"film", ".png")
    ours.parent.mkdir(parents=True)
    others = [ours.with_name(name) for name in ("notes.txt", f"{63 * '0'}.png", f"{64 * '0'}.dcm", ".hidden")]
    left = [ours, ours.with_name(f".{64 * '1'}.jpg.partial"), ours.with_name(f"{64 * '2'}.png")]
    for path in (*others, *left):
        path.write_bytes(b"film")
    strangers = [folder / name for name in ("exact-notes.faiss", "map-of-ward.parquet", f".{CHANGES}.mine.new")]
    for path in strangers:
        path.touch()
    living.compact(root)

    assert all(path.exists() for path in (*others, *strangers))
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("linked", ["added", "name"])
def test_films_are_neither_written_nor_removed_through_a_link(
    folder: Path, root: Path, tmp_path: Path, rng: np.random.Generator, linked: str
) -> None:
    living, elsewhere = LivingCollection(folder), tmp_path / "elsewhere"
    film, path = b"film", living.film_path(b"film", ".png")
    link = root / "added" if linked == "added" else (root / path).parent
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    victim = elsewhere / (Path(path).relative_to("added") if linked == "added" else Path(path).name)
    victim.parent.mkdir(parents=True)
    victim.write_bytes(film)
    with pytest.raises(WriteFailed, match="is a link"):
        living.add([addition("patient9/study1", unit(rng))], films={path: film}, image_root=root)
    living.compact(root)

    assert [one for one in elsewhere.rglob("*") if one.is_file()] == [victim]


@pytest.mark.parametrize("name", [CHANGES, f"{CHANGES}-wal", f"{CHANGES}-shm", f"{CHANGES}-journal", CHANGES_MARKER])
def test_changes_are_not_written_through_a_link(folder: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(victim if name != CHANGES_MARKER else tmp_path / "dangling")

    for verb in (["compact", folder], ["delete", folder, "patient1/study1"], ["search", folder, "--study", "x"]):
        assert "got a link" in refusal(*verb)
    assert victim.read_bytes() == b"mine"
    assert not (tmp_path / "dangling").exists()


def test_a_planted_journal_of_sqlite_removes_no_file_that_it_names(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine" * 1000)
    name = os.fsencode(victim)
    summed = sum(name).to_bytes(4, "big")  # as SQLite ends the journal of a transaction over several files
    ending = bytes(4) + name + len(name).to_bytes(4, "big") + summed + bytes.fromhex("d9d505f920a163d7")
    for verb in (["search", folder, "--study", "x"], ["verify", folder], ["compact", folder]):
        (folder / f"{CHANGES}-journal").write_bytes(b"\1" * 512 + ending)
        CliRunner().invoke(precedent, [str(word) for word in verb])
        assert victim.exists(), verb

    assert "which Precedent did not write" in refusal("compact", folder)
    assert verify(folder).faults


def test_no_file_is_written_through_a_link_that_lay_in_the_folder(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    build_map(folder)
    for name in (".manifest.json.partial", ".map.json.partial", ".map.new", ".exact.new", ".studies.new"):
        (folder / name).symlink_to(victim)
    done("compact", folder)
    done("map", folder)

    assert victim.read_bytes() == b"mine"
    assert not any(path.is_symlink() for path in folder.iterdir())


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.faiss", "..", "manifest.json", ""])
def test_a_manifest_that_names_other_files_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    manifest = load_json(folder / "manifest.json", "", "")
    manifest["files"]["exact"]["name"] = name
    save_json(folder / "manifest.json", manifest, sealed=True)

    for verb in (["search", folder, "--study", "x"], ["snapshot", folder, tmp_path / "copy"]):
        assert "expected the name of a file of an index" in refusal(*verb)


@pytest.mark.parametrize("name", ["../victim", "..", ".bashrc", f"{CHANGES}-wal"])
def test_a_snapshot_that_names_other_files_is_not_restored(folder: Path, tmp_path: Path, name: str) -> None:
    save_snapshot(folder, tmp_path / "snapshot")
    content = load_json(tmp_path / "snapshot" / "snapshot.json", "", "")
    content["files"][name] = {"sha256": 64 * "0", "bytes": 1}
    save_json(tmp_path / "snapshot" / "snapshot.json", content, sealed=True)

    with pytest.raises(ArtefactError, match="expected files of a collection"):
        restore_snapshot(tmp_path / "snapshot", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "snapshot"]


KILLED = """
import os, signal, sys
from pathlib import Path
import index.living.snapshots as snapshots
snapshots.save_json = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
snapshots.save_snapshot(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_what_a_killed_snapshot_left_goes_with_the_next_one_beside_it(folder: Path, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(snapshots / "monday")], env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    (left,) = snapshots.iterdir()
    stranger, kept = snapshots / ".other.precedent-copy", snapshots / ".held.precedent-copy"
    for path in (stranger, kept):
        path.mkdir()
        (path / "manifest.json").touch()
    (stranger / "diary.txt").touch()
    with held_alone(kept):
        save_snapshot(folder, snapshots / "tuesday")

    assert not left.exists()
    assert [path.name for path in stranger.iterdir()] == ["diary.txt"]
    assert [path.name for path in kept.iterdir()] == ["manifest.json"]
    with held_alone(kept), pytest.raises(CollectionError, match="expected nobody else"):
        save_snapshot(folder, snapshots / "held")
    assert (kept / "manifest.json").exists()
