"""The films of added studies: files below the image root, named by their content, in a folder of the collection's own.

Knows bytes and paths; it must not know what a film shows, nor open one.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path

from index.errors import WriteFailed
from index.files import sha256_of, sync, written_whole

FOLDER = "added"


def film_path(collection: str, content: bytes, suffix: str) -> str:
    """Return where a film belongs, relative to the image root; `suffix` has its dot."""
    return f"{FOLDER}/{collection}/{hashlib.sha256(content).hexdigest()}{suffix}"


def save_film(root: Path, path: str, content: bytes) -> None:
    """Write a film unless it is there already; it is on the disk when this returns. Raises WriteFailed."""
    target = root / path
    try:
        if target.exists():
            return
        for folder in (root / FOLDER, target.parent):
            folder.mkdir(exist_ok=True)
            sync(folder.parent)
        with written_whole(target) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise WriteFailed(
            f"the film cannot be written below the image root ({error.strerror}); free or mend the disk"
        ) from error


def unnamed_films(root: Path, collection: str, named: Collection[str]) -> list[Path]:
    """Return the files of a collection's folder that no study names: left by a kill, or by a study that was deleted."""
    folder = root / FOLDER / collection
    return [path for path in sorted(folder.glob("*")) if f"{FOLDER}/{collection}/{path.name}" not in named]


def changed_films(root: Path, named: Collection[str]) -> list[str]:
    """Return the added films that studies name and that are missing or are not what their names say."""
    return [path for path in sorted(named) if not _is_whole(root / path)]


def _is_whole(path: Path) -> bool:
    return path.is_file() and sha256_of(path) == path.stem
