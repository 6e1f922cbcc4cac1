"""Copies of a collection at one moment, and collections made of such a copy.

Films are neither in the folder of a collection nor in a snapshot.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from index.built.collection import INDEX_FILE, MANIFEST, load_index_manifest, require_own_name
from index.built.map import MAP_FILE, MAP_MANIFEST, require_map_name
from index.errors import ArtefactError, CollectionError
from index.living.changes import Changes
from index.storage.files import load_json, open_regular, require_shape, require_unchanged, save_json, sha256_of, sync
from index.storage.folder import CHANGES, CHANGES_MARKER, held_alone
from index.storage.manifests import MAP_SHAPE, SNAPSHOT_SHAPE
from index.storage.origin import ORIGIN, is_root_ours, rooted
from index.storage.places import require_here

FORMAT = "precedent-snapshot"
VERSION = 1
SNAPSHOT = "snapshot.json"
_BLOCK = 1 << 20
_COPIED = re.compile(
    "|".join([*map(re.escape, (MANIFEST, MAP_MANIFEST, CHANGES, CHANGES_MARKER)), INDEX_FILE.pattern, MAP_FILE.pattern])
)
_MADE = re.compile(
    rf"{_COPIED.pattern}|{re.escape(CHANGES)}-(wal|shm|journal)|{re.escape(SNAPSHOT)}|\.{re.escape(SNAPSHOT)}\.partial"
)
_PARTIAL = "precedent-copy"
"""Ending of the hidden folder that a copy is made in, beside where it goes."""


def save_snapshot(folder: Path, out: Path) -> dict[str, Any]:
    """Copy the collection in a folder to the new folder `out`, whole or not at all; return what each file is.

    Raises:
        ArtefactError: no collection there, or a file of it is missing or has changed.
        CollectionError: `out` is there already, or the folder is being compacted.
    """
    remedy = f"run: precedent verify {folder}"
    with held_alone_or_missing(folder, remedy), _made(out) as partial:
        manifest = load_index_manifest(folder)
        for entry in manifest["files"].values():
            _copy(folder / require_own_name(entry["name"], remedy), partial, entry["sha256"], remedy)
        changes = Changes.open(folder, manifest["fingerprint"], manifest["embedding_dim"])
        if changes is not None:
            with closing(changes):
                changes.copy_to(partial)
                _require_whole(partial, manifest)
        if (folder / MAP_MANIFEST).exists():
            map_manifest = load_json(folder / MAP_MANIFEST, "map manifest", remedy, MAP_SHAPE)
            _copy(folder / MAP_MANIFEST, partial)
            _copy(folder / require_map_name(map_manifest["name"], remedy), partial, map_manifest["sha256"], remedy)
        _copy(folder / MANIFEST, partial)
        files = {
            path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in sorted(partial.iterdir())
        }
        said: dict[str, Any] = {"format": FORMAT, "version": VERSION, "files": files}
        if is_root_ours(folder, manifest):
            said |= rooted(partial, manifest, out)
        save_json(partial / SNAPSHOT, said, sealed=True)
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
    require_shape(content, SNAPSHOT_SHAPE, f"{str(snapshot)!r} is not as a snapshot is written", remedy)
    with _made(out) as partial:
        for name, entry in content["files"].items():
            if not _COPIED.fullmatch(name):
                raise ArtefactError(f"expected files of a collection in {str(snapshot)!r}, got {name[:80]!r}; {remedy}")
            _copy(snapshot / name, partial, entry["sha256"], remedy)
        manifest = load_index_manifest(partial)
        origin = {"image_root": manifest.get("image_root"), ORIGIN: content.get(ORIGIN)}
        if is_root_ours(snapshot, origin):
            save_json(partial / MANIFEST, manifest | rooted(partial, manifest, out), sealed=True)
        changes = Changes.open(partial, manifest["fingerprint"], manifest["embedding_dim"])
        if changes is not None:
            with closing(changes):
                changes.settle(out)


def _require_whole(folder: Path, manifest: dict[str, Any]) -> None:
    """Read every change of a copy, so that no damaged one gets into a snapshot. Raises ArtefactError."""
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
    """Yield a folder beside `out` to fill; on leaving, it is written to the disk and renamed to `out`."""
    require_here(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CollectionError(f"expected a new or empty folder, got {str(out)!r}; name another")
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(out.parent)
    partial = out.with_name(f".{out.name}.{_PARTIAL}")
    with _made_and_held(partial):
        try:
            yield partial
            for path in (*partial.iterdir(), partial):
                sync(path)
            os.replace(partial, out)
            sync(out.parent)
        finally:
            if partial.is_dir():
                _remove(partial)


@contextmanager
def _made_and_held(folder: Path) -> Iterator[None]:
    """Make a folder and hold it. Raises CollectionError: another process makes the same copy."""
    another = CollectionError(
        f"expected nobody else to make this copy, got {str(folder)!r}; try again when it has finished, or remove that"
    )
    try:
        folder.mkdir()
        with held_alone(folder):
            if not folder.is_dir():
                raise another
            yield
    except FileExistsError:
        raise another from None


def _remove_left_over(parent: Path) -> None:
    """Remove the copies that kills have left unfinished in a folder; those that others are making are held by them."""
    for path in parent.glob(f".*.{_PARTIAL}"):
        if path.is_dir() and not path.is_symlink():
            with suppress(CollectionError, OSError), held_alone(path):
                _remove(path)


def _remove(partial: Path) -> None:
    """Remove the files of a copy, and its folder unless it holds others."""
    for path in partial.iterdir():
        if _MADE.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        partial.rmdir()


def _copy(path: Path, folder: Path, sha256: str | None = None, remedy: str = "run: precedent verify") -> None:
    try:
        with open_regular(path) as source, (folder / path.name).open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
    except FileNotFoundError as error:
        raise ArtefactError(f"{path.name!r} is missing from {str(path.parent)!r}; {remedy}") from error
    if sha256 is not None:
        require_unchanged(folder / path.name, sha256, remedy)
