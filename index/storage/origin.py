"""Where a collection was made, which tells the original from a copy and from one that somebody else made.

A folder that is moved on its disk, or mounted elsewhere, keeps its inode; a copy has another, and so has what was
unpacked from an archive. A mark is a SHA-256 over the machine and the place, so that nobody else can make one.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from index.errors import ArtefactError, UntrustedRoot
from index.storage.places import place

ORIGIN = "origin"
"""Key of a manifest under which it says where it was made."""
_MACHINE = Path("/etc/machine-id")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def origin_of(where: Any, said: str, becomes: Path | None = None) -> dict[str, Any]:
    """Return where a collection is made, as its manifest keeps it for `is_at_origin`.

    Args:
        where: its folder, or the address by which it is asked for.
        said: what it says that holds there alone.
        becomes: where the folder is about to be moved to.
    """
    return {"path": str(_resolved(becomes or where)), "marks": _marks(where, said, _machine(), becomes)}


def is_at_origin(where: Any, origin: Any, said: str) -> bool:
    """Return whether a collection lies where `origin_of` was asked, on this machine; False for whatever else is given.

    A folder is the same by its inode, and by its path or its disk: moved it has another path, after a start of the
    machine its disk may have another number, and the copy of a disk has both others.
    """
    marks = origin.get("marks") if isinstance(origin, dict) else None
    return isinstance(marks, list) and any(mark in marks for mark in _marks(where, said, _machine()))


def remembered_root(where: Any, manifest: Mapping[str, Any], *, trusted: bool = False) -> Path | None:
    """Return the image root that the manifest of a collection names; None where it names none.

    Args:
        where: the folder, or the address by which it is asked for.
        trusted: whether the user has said to take it, wherever it comes from.

    Raises:
        UntrustedRoot: the collection was made elsewhere or belongs to another user, so whoever has made it may have
            chosen any folder of this machine, or any host.
    """
    root = manifest.get("image_root")
    if not root:
        return None
    if not isinstance(root, str):
        raise ArtefactError(f"expected the image root of {str(where)!r} to be a text, got {type(root).__name__}")
    if not trusted and not is_root_ours(where, manifest):
        raise UntrustedRoot(
            f"{str(where)!r} was not made here, by this user, and says that its films lie below {root!r}; name their "
            "folder with --images, or take that one with --trust-collection"
        )
    return place(root)


def is_root_ours(where: Any, manifest: Mapping[str, Any]) -> bool:
    """Return whether this user, or root, has named the image root of a manifest, on this machine."""
    return is_at_origin(where, manifest.get(ORIGIN), _root_of(manifest)) and _is_owned(where)


def rooted(where: Any, manifest: Mapping[str, Any], becomes: Path | None = None) -> dict[str, Any]:
    """Return what a manifest says of where its image root was named, for `is_root_ours`; {} without an image root."""
    return {ORIGIN: origin_of(where, _root_of(manifest), becomes)} if manifest.get("image_root") else {}


def _root_of(manifest: Mapping[str, Any]) -> str:
    return f"image root {manifest.get('image_root') or ''}"


def _marks(where: Any, said: str, machine: str, becomes: Path | None = None) -> list[str]:
    if not isinstance(where, Path):
        return [_mark(machine, said, "address", str(where))]
    folder, status = _resolved(becomes or where), where.stat()
    return [
        _mark(machine, said, status.st_ino, "path", str(folder)),
        _mark(machine, said, status.st_ino, "disk", status.st_dev),
    ]


def _mark(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _resolved(where: Any) -> Any:
    return where.resolve() if isinstance(where, Path) else where


def _machine() -> str:
    """Return an id of this machine; a container without one has the host's until that is started anew."""
    for path in (_MACHINE, _BOOT):
        if path.is_file() and (text := path.read_text(encoding="ascii", errors="replace").strip()):
            return text
    return f"{uuid.getnode():012x}"


def _is_owned(where: Any) -> bool:
    """Return whether a folder and the manifests in it are this user's or root's; an address has no owner."""
    if not isinstance(where, Path):
        return True
    return {path.stat().st_uid for path in (where, *where.glob("*.json"))} <= {os.geteuid(), 0}
