"""The films of added studies: files below the image root, named by their content, in a folder of the collection's own.

Folder and films are named by the collection, which may be somebody else's: no name but those made here is followed.
"""

import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from index.errors import WriteFailed
from index.storage.files import sha256_of, sync, written_whole

FOLDER = "added"
NAME = re.compile(r"[0-9a-f]{16}")
"""Of a collection's folder."""
MOST_NAMES = 64
NAMES = re.compile(rf"({NAME.pattern}( {NAME.pattern}){{0,{MOST_NAMES - 1}}})?")
"""Of several, or of none."""
_FILM = re.compile(r"[0-9a-f]{64}\.(jpg|png)")
_LEFT = re.compile(rf"\.{_FILM.pattern}\.partial")
PATH = re.compile(rf"{FOLDER}/{NAME.pattern}/{_FILM.pattern}")
"""Of an added film, relative to the image root."""


def film_path(collection: str, content: bytes, suffix: str) -> str:
    """Return where a film belongs, relative to the image root; `suffix` has its dot."""
    return f"{FOLDER}/{collection}/{hashlib.sha256(content).hexdigest()}{suffix}"


def is_added(path: str) -> bool:
    """Return whether a path, relative to the image root, is one that `film_path` gives."""
    return PATH.fullmatch(path) is not None


def save_film(root: Path, path: str, content: bytes) -> None:
    """Write a film unless it is there already; it is on the disk when this returns.

    Raises:
        WriteFailed: the disk does not take it, or a link leads out of the image root.
    """
    target = root / path
    try:
        if _leads_away(root, target):
            raise WriteFailed(f"{FOLDER}/ below the image root is a link; added films are kept in a folder of its own")
        if _is_whole(target):
            return
        for folder in (root / FOLDER, target.parent):
            folder.mkdir(exist_ok=True)
            sync(folder.parent)
        with written_whole(target) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise WriteFailed(
            f"the film cannot be written below the image root ({error.strerror}); free space on the disk, or repair it"
        ) from error


def unnamed_films(root: Path, collection: str, named: Collection[str]) -> list[Path]:
    """Return the films of a collection's folder that no study names: left by a kill, or by a study that was deleted."""
    if not NAME.fullmatch(collection):
        return []
    folder = root / FOLDER / collection
    if _leads_away(root, folder / "film"):
        return []
    return [
        path
        for path in sorted(folder.glob("*"))
        if (_FILM.fullmatch(path.name) or _LEFT.fullmatch(path.name))
        and f"{FOLDER}/{collection}/{path.name}" not in named
        and (path.is_symlink() or path.is_file())
    ]


def left_films(root: Path, others: Iterable[str], named: Collection[str]) -> str:
    """Return why films that no study names are kept, in folders that may be another collection's; "" without any."""
    count = sum(len(unnamed_films(root, folder, named)) for folder in others)
    if not count:
        return ""
    return (
        f"{count:,} added films that no study here names are left below {str(root)!r}: this collection lies elsewhere "
        "than it was made, and where it was copied they may be the other one's; where it was moved, precedent compact "
        "--moved removes them"
    )


def remove_films(root: Path, paths: Iterable[str]) -> None:
    """Remove added films, where they are there; a path that is none of an added film is left alone."""
    for path in paths:
        if is_added(path) and not _leads_away(root, root / path):
            (root / path).unlink(missing_ok=True)


def changed_films(root: Path, named: Collection[str]) -> list[str]:
    """Return the added films that studies name and that are missing or are not what their names say."""
    return [path for path in sorted(named) if _leads_away(root, root / path) or not _is_whole(root / path)]


def _leads_away(root: Path, film: Path) -> bool:
    """Return whether one of the two folders of an added film is a link."""
    return (root / FOLDER).is_symlink() or film.parent.is_symlink()


def _is_whole(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and sha256_of(path) == path.stem
