"""Which folders are to be served under which names, from the words of a command line or an environment.

It reads words and looks whether folders are there; it must not open an index.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.engines.address import ServerAddress
from index.errors import CollectionError
from index.opening import Address, is_on_server, parse_server
from index.storage.places import place
from service.errors import MountError

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_NOT_OF_A_NAME = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True)
class Mount:
    """An index, in a folder or at an address, and the name it is asked by."""

    name: str
    index_dir: Address
    image_root: Path | None = None
    """The folder that the studies' paths are relative to; None takes the one named in the index."""
    trusted: bool = False
    """Whether that is taken even of an index that was made elsewhere, or by another user."""


def parse_mounts(indexes: Sequence[str], images: Sequence[str] = (), *, trusted: bool = False) -> list[Mount]:
    """Return the mounts that the words name, in their order.

    Args:
        indexes: NAME=FOLDER, or FOLDER, whose own name is then taken: in lower case, with - for other characters. A
            folder may be an address such as s3://bucket/index or postgresql://host/database/collection.
        images: NAME=ROOT for one collection, or ROOT for all that have none of their own.
        trusted: take the roots that indexes name for themselves, wherever those come from.

    Raises:
        MountError: no index, a bad name, a name twice, roots of unknown collections, or a folder that is not there.
    """
    folders = [_split(word, index=True) for word in indexes]
    named = _unique([(_name_of(folder) if name is None else name, folder) for name, folder in folders], "index")
    if not named:
        raise MountError("expected an index folder, or NAME=FOLDER for each of several, got none")
    roots = _unique([_split(word) for word in images], "image root")
    if unknown := sorted(name for name in roots if name is not None and name not in named):
        raise MountError(f"expected image roots of {', '.join(map(str, named))}, got one of {unknown[0]!r}")
    return [Mount(str(name), folder, roots.get(name, roots.get(None)), trusted) for name, folder in named.items()]


def _split(word: str, *, index: bool = False) -> tuple[str | None, Any]:
    name, sign, folder = word.strip().partition("=")
    if "://" in name:
        name, folder = "", word.strip()
    elif not sign:
        name, folder = "", name
    elif not _NAME.fullmatch(name):
        raise MountError(
            f"expected a name of a-z, 0-9, _ and - before '=', at most 64 characters, got {name!r}; write NAME=FOLDER"
        )
    try:
        if index and is_on_server(folder):
            return name or None, parse_server(folder)
        where = place(folder) if folder else None
        if where is not None and where.is_dir():
            return name or None, where
    except CollectionError as refusal:
        raise MountError(str(refusal)) from refusal
    raise MountError(f"expected an existing folder, or NAME=FOLDER, got {word!r}; there is no folder {folder!r}")


def _name_of(folder: Address) -> str:
    """A folder may be called anything, and served alone it needs no name."""
    name = folder.name if isinstance(folder, ServerAddress) else folder.resolve().name
    return _NOT_OF_A_NAME.sub("-", name.lower()).strip("-")[:64] or "main"


def _unique(pairs: Sequence[tuple[str | None, Path]], what: str) -> dict[str | None, Path]:
    folders: dict[str | None, Path] = {}
    for name, folder in pairs:
        if name in folders:
            whose = "all collections" if name is None else repr(name)
            raise MountError(
                f"expected one {what} for {whose}, got {str(folders[name])!r} and {str(folder)!r}; write NAME=FOLDER"
            )
        folders[name] = folder
    return folders
