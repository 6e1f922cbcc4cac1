"""Files that appear whole or not at all, and the SHA-256 that is checked before one is parsed.

Knows bytes on a disk; knows nothing of what is in them.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from index.errors import ArtefactError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside the target to write to; on leaving, sync it and rename it over the target.

    After an exception the target is as it was. After a kill at worst a hidden `.partial` file is left, which the
    next writer of the same target replaces.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_json(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Return a JSON object of ours.

    Raises:
        ArtefactError: the file is missing or is no JSON object; `what` and `remedy` go into the sentence.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtefactError(f"no {what} at {str(path)!r}; {remedy}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtefactError(f"{str(path)!r} is no longer readable as the {what} ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ArtefactError(f"expected a JSON object in {str(path)!r}, got {type(content).__name__}; {remedy}")
    return content


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_unchanged(path: Path, sha256: str, remedy: str) -> None:
    """Raise ArtefactError unless the file is there and has the SHA-256 its manifest states."""
    if not path.is_file():
        raise ArtefactError(f"{path.name!r} is missing from {str(path.parent)!r}; {remedy}")
    found = sha256_of(path)
    if found != sha256:
        raise ArtefactError(
            f"{str(path)!r} has changed since it was written (expected SHA-256 {sha256[:12]}, got {found[:12]}); "
            f"{remedy}"
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
