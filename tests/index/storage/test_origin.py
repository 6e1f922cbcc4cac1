"""A collection that lies elsewhere than it was made: a copy leaves the other's films alone, and its image root is asked for."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from command_line import done
from export_files import save_export
from living_world import FINGERPRINT, SCHEMA, addition, unit, units

from index.built.collection import build_collection, save_collection
from index.built.vector_index import VectorIndex
from index.errors import UntrustedRoot
from index.living.added_films import changed_films
from index.living.additions import as_rows
from index.living.collection import LivingCollection
from index.living.snapshots import restore_snapshot, save_snapshot
from index.living.verification import verify
from index.storage import origin
from index.storage.files import load_json, save_json
from index.storage.origin import remembered_root, rooted
from index.vectors import Embeddings
from scripts.verbs.running.doctor import index_checks


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "films"
    root.mkdir()
    return root


@pytest.fixture
def folder(tmp_path: Path, root: Path, rng: np.random.Generator) -> Path:
    """Return an index made here, to which three studies were added with a film each."""
    given = [addition(f"patient{one}/study1", vector) for one, vector in enumerate(units(rng, 6))]
    table, folder = pa.Table.from_pylist(as_rows(given, SCHEMA), SCHEMA), tmp_path / "index"
    folder.mkdir()
    facts: dict[str, Any] = {"fingerprint": FINGERPRINT, "image_root": str(root)}
    index = VectorIndex.build(np.stack([one.embedding for one in given]))
    save_collection(folder, index, table, None, **facts, **rooted(folder, facts))
    for number in range(3):
        add(folder, root, f"added{number}/study1", rng)
    return folder


def add(folder: Path, root: Path, name: str, rng: np.random.Generator) -> Path:
    """Add a study with a film of its own; return the film."""
    film, new = f"film of {name}".encode(), addition(name, unit(rng))
    with closing(LivingCollection(folder)) as living:
        path = living.film_path(film, ".png")
        living.add([replace(new, study=replace(new.study, frontal_path=path))], films={path: film}, image_root=root)
    return root / path


def films(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def copied(folder: Path, root: Path, how: str) -> Path:
    """Return a copy of a folder as users make them."""
    copy = folder.with_name("copy")
    if how == "cp":
        subprocess.run(["cp", "-a", folder, copy], check=True)
    elif how == "tar":
        copy.mkdir()
        packed = subprocess.run(["tar", "-C", folder, "-c", "."], check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-C", copy, "-x"], check=True, input=packed)
    else:  # another folder takes the place of the first, under its name
        shutil.copytree(folder, copy)
        folder.rename(folder.with_name("first"))
        copy.rename(folder)
        return folder
    return copy


@pytest.mark.parametrize("how", ["cp", "tar", "in its place"])
def test_a_copy_that_is_compacted_leaves_every_film_and_says_so(folder: Path, root: Path, how: str) -> None:
    before = films(root)
    copy = copied(folder, root, how)
    first = folder.with_name("first") if copy == folder else folder
    done("delete", copy, "added0/study1", "added1/study1")
    printed = done("compact", copy, "--images", root)

    assert films(root) == before
    assert "2 added films that no study here names are left" in printed.stderr
    assert "--moved removes them" in printed.stderr
    assert [note.split(":")[0] for note in verify(copy, root).notes] == [printed.stderr[len("note: ") :].split(":")[0]]
    assert (verify(first, root).faults, verify(first, root).studies) == ([], 9)


def test_clones_that_add_films_neither_meet_nor_remove_each_other_s(
    folder: Path, root: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    clones = [folder, *(Path(shutil.copytree(folder, tmp_path / name)) for name in ("second", "third"))]
    clones.append(Path(shutil.copytree(clones[1], tmp_path / "fourth")))  # of a clone, before it has added any
    own = [[add(clone, root, f"own{number}/study1", rng) for number in range(2)] for clone in clones]
    clones.append(Path(shutil.copytree(clones[2], tmp_path / "fifth")))  # and of one that has
    own.append([add(clones[-1], root, f"late{number}/study1", rng) for number in range(2)])

    assert len({path.parent for paths in own for path in paths}) == 5
    for clone, (gone, kept) in zip(clones, own, strict=True):
        before = films(root)
        done("delete", clone, "late0/study1" if clone == clones[-1] else "own0/study1", "added0/study1")
        done("compact", clone, "--images", root)
        lost = before - films(root)
        assert gone in lost
        assert kept.exists()
        assert len(lost) == (2 if clone == folder else 1)  # the film that all were copied with is the first one's
    assert all(verify(clone, root).faults == [] for clone in clones[:1])


def test_a_folder_that_was_renamed_keeps_its_films(folder: Path, root: Path, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "elsewhere")
    done("delete", moved, "added0/study1")
    printed = done("compact", moved)  # by the image root that it remembers

    assert printed.stderr == ""
    assert len(films(root)) == 2


def test_after_a_start_of_the_machine_the_disk_may_have_another_number(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def renumbered(path: Any, **words: Any) -> os.stat_result:
        found = real(path, **words)
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:]))

    monkeypatch.setattr(os, "stat", renumbered)
    with closing(LivingCollection(folder)) as living:
        assert living.remembered_root() == root
        living.delete(["added0/study1"])
        living.compact(root)
    assert len(films(root)) == 2


def test_on_another_machine_or_disk_with_the_same_paths_a_clone_leaves_the_films(
    folder: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(origin, "_MACHINE", tmp_path / "machine-id")
    done("delete", folder, "added0/study1")
    printed = done("compact", folder)

    assert "no added films are removed" in printed.stderr  # nor is its image root taken
    assert "1 added films that no study here names are left" in done("compact", folder, "--images", root).stderr
    assert len(films(root)) == 3


def test_what_was_moved_to_another_disk_owns_its_films_once_that_is_said(
    folder: Path, root: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "disk" / "index"))
    shutil.rmtree(folder)
    new = add(moved, root, "new/study1", rng)  # before it was said: into a folder of its own
    done("delete", moved, "added0/study1", "new/study1")
    assert "--moved" in done("compact", moved, "--images", root).stderr
    assert (len(films(root)), new.exists()) == (3, False)
    assert done("compact", moved, "--images", root, "--moved").stderr == ""

    assert len(films(root)) == 2
    assert (verify(moved, root).faults, verify(moved, root).notes) == ([], [])


def test_a_restored_snapshot_takes_the_films_of_the_first_once_that_is_said(
    folder: Path, root: Path, tmp_path: Path
) -> None:
    save_snapshot(folder, tmp_path / "snapshot")
    restore_snapshot(tmp_path / "snapshot", tmp_path / "again")
    done("delete", tmp_path / "again", "added0/study1")
    assert "--moved" in done("compact", tmp_path / "again").stderr
    assert len(films(root)) == 3
    shutil.rmtree(folder)
    done("compact", tmp_path / "again", "--moved")

    assert len(films(root)) == 2
    assert changed_films(root, [str(path.relative_to(root)) for path in films(root)]) == []


def is_trusted(folder: Path) -> bool:
    with closing(LivingCollection(folder)) as living:
        try:
            return living.remembered_root() is not None
        except UntrustedRoot:
            return False


def test_the_image_root_is_taken_where_it_was_named_and_follows_what_is_made_of_it_here(
    folder: Path, root: Path, tmp_path: Path
) -> None:
    done("delete", folder, "added0/study1")
    done("compact", folder)
    save_snapshot(folder, tmp_path / "snapshot")
    restore_snapshot(tmp_path / "snapshot", tmp_path / "again")
    assert all(map(is_trusted, (folder, tmp_path / "again")))

    shutil.copytree(tmp_path / "snapshot", tmp_path / "given")
    restore_snapshot(tmp_path / "given", tmp_path / "foreign")
    assert not is_trusted(tmp_path / "foreign")
    assert not is_trusted(Path(shutil.copytree(folder, tmp_path / "copy")))


def other_root(folder: Path, secret: Path | str) -> None:
    manifest = load_json(folder / "manifest.json", "", "") | {"image_root": str(secret)}
    save_json(folder / "manifest.json", manifest, sealed=True)


def no_origin(folder: Path, _secret: Path) -> None:
    manifest = load_json(folder / "manifest.json", "", "")
    save_json(folder / "manifest.json", manifest | {"origin": {"path": str(folder), "marks": "0"}}, sealed=True)


def other_owner(folder: Path, _secret: Path) -> None:
    os.chown(folder / "manifest.json", 12345, 12345)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
@pytest.mark.parametrize("change", [other_root, no_origin, other_owner])
def test_an_image_root_that_somebody_else_may_have_named_is_refused_with_the_two_ways(
    folder: Path, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    change(folder, secret)
    with closing(LivingCollection(folder)) as living:
        with pytest.raises(UntrustedRoot, match=r"films lie below .*--images, or .*--trust-collection"):
            living.remembered_root()
        assert living.remembered_root(trusted=True) == Path(living.manifest["image_root"])


def test_an_export_that_was_given_to_us_names_no_image_root_for_the_index(
    tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    export = save_export(tmp_path / "made" / "embeddings", studies, unit_vectors)
    manifest = load_json(export / "_manifest.json", "", "") | {"image_root": str(tmp_path)}
    save_json(export / "_manifest.json", manifest | rooted(export, manifest), sealed=True)
    build_collection(export, tmp_path / "own")
    build_collection(Path(shutil.copytree(export, tmp_path / "given")), tmp_path / "foreign")

    assert (is_trusted(tmp_path / "own"), is_trusted(tmp_path / "foreign")) == (True, False)
    done("index", tmp_path / "given", "--out", tmp_path / "foreign", "--images", tmp_path)
    assert is_trusted(tmp_path / "foreign")


@pytest.fixture
def host() -> Iterator[socket.socket]:
    """Yield a socket that hears whether anybody connects to it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        yield listener


def test_no_verb_connects_to_a_host_that_a_collection_names(folder: Path, root: Path, host: socket.socket) -> None:
    address = f"http://127.0.0.1:{host.getsockname()[1]}/films"
    other_root(folder, address)
    printed = [done(verb, folder) for verb in ("verify", "compact")]

    assert all(address in one.output and "--trust-collection" in one.output for one in printed)
    assert address in " ".join(check.detail for check in index_checks(folder))
    with pytest.raises(BlockingIOError):
        host.accept()


def test_an_address_is_trusted_as_the_machine_that_it_was_built_from_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = {"image_root": "s3://radiology/films"}
    told = manifest | rooted("s3://radiology/index", manifest)

    assert str(remembered_root("s3://radiology/index", told)) == "s3://radiology/films"
    for where, given in (("s3://other/index", told), ("s3://radiology/index", told | {"image_root": "s3://evil/x"})):
        with pytest.raises(UntrustedRoot):
            remembered_root(where, given)
    monkeypatch.setattr(origin, "_MACHINE", tmp_path / "none")
    with pytest.raises(UntrustedRoot):
        remembered_root("s3://radiology/index", told)
