"""Indexes that lie in an object store, copied to a folder of this machine, whose files FAISS can map."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from index.built.collection import MANIFEST, load_index_manifest, require_own_name
from index.built.map import MAP_MANIFEST, require_map_name
from index.errors import ArtefactError
from index.storage.files import MOST_JSON, load_json, read_regular, require_digest, sha256_of, written_whole
from index.storage.folder import CHANGE_FILES, held_alone
from index.storage.manifests import MAP_SHAPE
from index.storage.places import Place


def at_hand(folder: Path) -> Path:
    """Return a folder of this machine with the index of `folder`: that itself, or a copy of what lies at an address.

    Copies are kept in `.cache/precedent` of the user's home, which the user alone can read; a file that is there with
    the SHA-256 that the manifest states is not fetched again.

    Raises:
        ArtefactError: no index there, or a file of it is missing or has changed. BackendUnavailable.
    """
    if not isinstance(folder, Place):
        return folder
    copy = cache_folder() / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    copy.mkdir(exist_ok=True)
    with held_alone(copy, patient=True):
        _copy(folder, copy)
    return copy


@contextmanager
def fetched(folder: Path) -> Iterator[Path]:
    """Yield a folder of this machine with the index of `folder`, of which every byte has just come from there."""
    if not isinstance(folder, Place):
        yield folder
        return
    with TemporaryDirectory(dir=cache_folder()) as copy:
        _copy(folder, Path(copy))
        yield Path(copy)


def cache_folder() -> Path:
    """Return the folder of this user's copies; it is made if need be."""
    folder = Path.home() / ".cache" / "precedent"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _copy(source: Path, copy: Path) -> None:
    """Make a folder a copy of what an address holds now, with nothing else in it; the manifest comes last."""
    remedy = f"run: precedent index EMBEDDINGS --out {source}"
    manifest = load_index_manifest(source)
    there = {path.name for path in source.iterdir()}
    if there & {*CHANGE_FILES}:
        raise ArtefactError(
            f"{str(source)!r} holds studies added or deleted since the index was built, which cannot be searched "
            "there; run precedent compact where it comes from, and copy all of that folder but "
            f"{' and '.join(CHANGE_FILES)}"
        )
    wanted = {require_own_name(entry["name"], remedy): entry["sha256"] for entry in manifest["files"].values()}
    said = [MANIFEST]
    if MAP_MANIFEST in there:
        map_manifest = load_json(
            source / MAP_MANIFEST,
            "map manifest",
            "run precedent map on this machine, and copy the index again",
            MAP_SHAPE,
        )
        wanted[require_map_name(map_manifest["name"], remedy)] = map_manifest["sha256"]
        said.insert(0, MAP_MANIFEST)
    for name, sha256 in wanted.items():
        _fetch(source / name, copy / name, sha256, remedy)
    for name in said:
        with written_whole(copy / name) as partial:
            partial.write_bytes(read_regular(source / name, MOST_JSON))
    written = (source / MANIFEST).stat().st_mtime
    os.utime(copy / MANIFEST, (written, written))  # it says when the index was written
    for path in copy.iterdir():
        if path.name not in {*wanted, *said}:
            path.unlink()


def _fetch(source: Path, target: Path, sha256: str, remedy: str) -> None:
    if target.is_file() and sha256_of(target) == sha256:
        return
    assert isinstance(source, Place)  # of an address all paths are
    with written_whole(target) as partial:
        try:
            source.download(partial)
        except FileNotFoundError as error:
            raise ArtefactError(f"{source.name!r} is missing from {str(source.parent)!r}; {remedy}") from error
        require_digest(source, sha256_of(partial), sha256, remedy)
