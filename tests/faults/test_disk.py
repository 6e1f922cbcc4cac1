"""A disk that is full or read-only while an artefact is written: a plain refusal, and what was there is as it was."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from artefacts import KINDS, REFUSALS, World
from full_disk import files_up_to
from living_world import addition, build_of, ids_of, unit
from service_world import build_client

from encoder.embedder import Embedder
from index.errors import WriteFailed
from index.living.collection import LivingCollection
from index.living.verification import verify
from index.vectors import Embeddings
from scripts.benches.clients import film_request

TOLD = (*REFUSALS, OSError)
"""What `precedent` ends with in one line."""
FREE = (0, 4096, 12_288, 40_960)
Made = tuple[Callable[[], bool], Callable[[], Any]]
"""What makes an artefact again, and what it answers."""


def made_again(make: Callable[[World], Any], world: World) -> bool:
    """Write the artefact again; return whether it could be written, and fail on any error but a plain one."""
    try:
        make(world)
    except TOLD:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_an_artefact_that_cannot_be_written_whole_leaves_the_old_one(
    kind: str, tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings, tiny_embedder: Embedder
) -> None:
    make, answer = KINDS[kind]
    world = World(tmp_path, studies, unit_vectors, tiny_embedder)
    sizes = [(tmp_path / name).stat().st_size for name in make(world)]
    expected, names = answer(tmp_path), {path.name for path in tmp_path.rglob("*")}
    written = []
    for size in (0, min(sizes) - 1, max(sizes) // 2, max(sizes) - 1):
        with files_up_to(max(size, 0)):
            written.append(made_again(make, world))
        assert answer(tmp_path) == expected
        assert {path.name for path in tmp_path.rglob("*")} == names
    assert not any(written[:2]) or kind in ("export", "run")  # whose finished files are not written again


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder that is a disk of 64 megabytes; only root may have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(params=KINDS)
def made(
    request: pytest.FixtureRequest,
    disk: Path,
    studies: pa.Table,
    unit_vectors: Embeddings,
    tiny_embedder: Embedder,
) -> Made:
    """Make an artefact of each kind on the disk."""
    make, answer = KINDS[request.param]
    world = World(disk, studies, unit_vectors, tiny_embedder)
    make(world)
    return partial(made_again, make, world), partial(answer, disk)


def test_on_a_full_disk_the_old_artefact_stays_and_the_refusal_is_plain(made: Made, disk: Path) -> None:
    again, answer = made
    expected = answer()
    for free in FREE:
        usage = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(max(usage.f_bavail * usage.f_frsize - free, 0)))
        again()
        assert answer() == expected
        (disk / "filler").unlink()
    assert again()
    assert answer() == expected


def test_a_read_only_folder_is_read_and_refuses_to_be_written(made: Made, disk: Path) -> None:
    again, answer = made
    expected = answer()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    assert not again()
    assert answer() == expected


def test_a_collection_that_changed_is_refused_in_a_read_only_folder_with_a_remedy(
    disk: Path, rng: np.random.Generator
) -> None:
    folder = build_of(disk / "index", [addition(f"patient{one}/study1", unit(rng)) for one in range(9)])
    with closing(LivingCollection(folder)) as living:
        living.delete(["patient3/study1"])
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    with pytest.raises(WriteFailed, match="let this user write to the folder, or compact"):
        LivingCollection(folder)


def grow(living: LivingCollection, root: Path, name: str, rng: np.random.Generator) -> list[str]:
    """Add a study with a film after another until the disk takes no more; return the ids of those that it took."""
    for number in range(1_000):
        film = rng.bytes(3_000)
        new = addition(f"{name}/study{number}", unit(rng))
        try:
            living.add([new], films={living.film_path(film, ".png"): film}, image_root=root)
        except WriteFailed:
            return [f"{name}/study{before}" for before in range(number)]
    raise AssertionError("expected a disk that is full at some time, got none")


def holds_exactly(folder: Path, ids: list[str]) -> None:
    """Fail unless a collection opens, is whole, and holds these studies and no other."""
    with closing(LivingCollection(folder)) as living:
        assert ids_of(living) == sorted(ids)
    assert verify(folder).faults == []


def _full_at_each(folder: Path, root: Path, full: Callable[[int], Any], rng: np.random.Generator) -> None:
    held = [f"patient0/study{one}" for one in range(20)]
    build_of(folder, [addition(one, unit(rng)) for one in held])
    root.mkdir()
    with closing(LivingCollection(folder)) as living:
        for free in (0, 12_288, 250_000):
            with full(free):
                held += grow(living, root, f"patient{free}", rng)
                holds_exactly(folder, held)
            again = addition(f"again{free}/study1", unit(rng))
            assert living.add([again]) == [True]  # by the same process, once there is room
            held.append(again.study.study_id)
            holds_exactly(folder, held)
    assert len(held) > 23  # the last of the disks had room for a while


def test_a_study_that_a_full_disk_does_not_take_is_refused_and_the_others_stay(
    disk: Path, rng: np.random.Generator
) -> None:
    @contextmanager
    def full(free: int) -> Iterator[None]:
        usage = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(max(usage.f_bavail * usage.f_frsize - free, 0)))
        yield
        (disk / "filler").unlink()

    _full_at_each(disk / "index", disk / "films", full, rng)


def test_a_study_that_a_file_at_its_limit_does_not_take_is_refused_and_the_others_stay(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    def full(free: int) -> Any:
        files = [path.stat().st_size for path in (tmp_path / "index").glob("changes.sqlite*")]
        return files_up_to(max([0, *files]) + free)

    _full_at_each(tmp_path / "index", tmp_path / "films", full, rng)


def test_a_large_upload_needs_no_disk() -> None:
    asked, client = film_request(bytes(2_000_000), 1), build_client()

    with files_up_to(100_000):
        answer = client.post("/v1/search", data=asked.body, content_type=asked.content_type)

    assert answer.get_json()["error"]["code"] == "not_an_image"
