"""Copies of a collection at one moment, and collections made of such a copy.

Knows the files of a folder; it must not know what a study is. Films are not in a folder and not in a snapshot.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from index.changes import Changes
from index.collection import MANIFEST
from index.errors import ArtefactError, CollectionError
from index.files import load_json, require_unchanged, save_json, sha256_of, sync
from index.folder import held_alone
from index.places import require_here
from index.projection import MANIFEST as MAP

FORMAT = "precedent-snapshot"
VERSION = 1
SNAPSHOT = "snapshot.json"


def save_snapshot(folder: Path, out: Path) -> dict[str, Any]:
    """Copy the collection in a folder to the new folder `out`, whole or not at all; return what each file is.

    Raises:
        ArtefactError: no collection there, or a file of it is missing or has changed.
        CollectionError: `out` is there already, or the folder is being compacted.
    """
    remedy = f"run: precedent verify {folder}"
    with held_alone_or_missing(folder, remedy), _made(out) as partial:
        manifest = load_json(folder / MANIFEST, "index manifest", remedy)
        for entry in manifest["files"].values():
            _copy(folder / Path(entry["name"]).name, partial)
            require_unchanged(partial / Path(entry["name"]).name, entry["sha256"], remedy)
        changes = Changes.open(folder, manifest["fingerprint"], manifest["embedding_dim"])
        if changes is not None:
            with closing(changes):
                changes.copy_to(partial)
                _require_whole(partial, manifest)
        if (folder / MAP).exists():
            _copy(folder / MAP, partial)
            _copy(folder / Path(load_json(folder / MAP, "map manifest", remedy)["name"]).name, partial)
        _copy(folder / MANIFEST, partial)
        files = {
            path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in sorted(partial.iterdir())
        }
        save_json(partial / SNAPSHOT, {"format": FORMAT, "version": VERSION, "files": files}, sealed=True)
    return files


def restore_snapshot(snapshot: Path, out: Path) -> None:
    """Make the new folder `out` of a snapshot, whole or not at all.

    The copy is a collection of its own: it never removes a film that the first one has added.

    Raises:
        ArtefactError: no snapshot there, or a file of it is missing or has changed. CollectionError: `out` is there.
    """
    remedy = "take another snapshot"
    content = load_json(snapshot / SNAPSHOT, "snapshot", remedy)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ArtefactError(f"{str(snapshot)!r} is no snapshot of version {VERSION}; {remedy}")
    with _made(out) as partial:
        for name, entry in content["files"].items():
            _copy(snapshot / Path(name).name, partial)
            require_unchanged(partial / Path(name).name, entry["sha256"], remedy)
        manifest = load_json(partial / MANIFEST, "index manifest", remedy)
        changes = Changes.open(partial, manifest["fingerprint"], manifest["embedding_dim"])
        if changes is not None:
            with closing(changes):
                changes.rename()


def _require_whole(folder: Path, manifest: dict[str, Any]) -> None:
    """Read every change of a copy, so that no snapshot vouches for damaged ones. Raises ArtefactError."""
    copied = Changes.open(folder, manifest["fingerprint"], manifest["embedding_dim"])
    assert copied is not None
    with closing(copied):
        if faults := copied.faults():
            raise ArtefactError(f"{faults[0]}; run: precedent verify")
        copied.since(0, whole=True)


@contextmanager
def held_alone_or_missing(folder: Path, remedy: str) -> Iterator[None]:
    """Hold a folder as `held_alone` does. Raises ArtefactError where there is none."""
    if not folder.is_dir():
        raise ArtefactError(f"no index at {str(folder)!r}; {remedy}")
    with held_alone(folder):
        yield


@contextmanager
def _made(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` to fill; on leaving, it is brought to the disk and takes that name."""
    require_here(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CollectionError(f"expected a new or empty folder, got {str(out)!r}; name another")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
        os.replace(partial, out)
        sync(out.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(path: Path, folder: Path) -> None:
    try:
        shutil.copyfile(path, folder / path.name)
    except FileNotFoundError as error:
        raise ArtefactError(f"{path.name!r} is missing from {str(path.parent)!r}; run: precedent verify") from error
