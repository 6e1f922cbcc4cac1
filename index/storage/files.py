"""Files that appear whole or not at all, and the SHA-256 that is checked before one is parsed.

A manifest states the SHA-256 of the files that it names. A file that no manifest names yet says its own: JSON that of
its content, so that it may be laid out anew, and Parquet that of its bytes, so that nobody has to parse it first.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from index.errors import ArtefactError
from index.storage.places import Place

MOST_JSON = 1 << 24
"""Bytes of a JSON file: parsed, each can take some twenty in memory. A manifest of 1,000 shards has 150,000."""
MOST_BYTES = 1 << 32
"""Of any other file that is read whole: a shard of 4,096 studies has 9 MB."""
SEAL = "precedent.seal"
"""Key, of a manifest or of a Parquet file's metadata, under which a file tells the SHA-256 of its own content."""
Read = TypeVar("Read")
_ATTEMPTS = 8
_UNKNOWN = f"{16 * '0'}:{64 * '0'}"
UNSEALED = f"{SEAL}:{_UNKNOWN}"
"""What a Parquet file says under that key until `seal_parquet` has put its length and its SHA-256 in."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside the target to write to; on leaving, sync it and rename it over the target.

    After an exception the target is as it was. After a kill at worst a hidden `.partial` file is left, which the
    next writer of the same target replaces. What belongs into an object store is written to a folder for a while and
    put there as one object, which appears whole.
    """
    if isinstance(path, Place):
        with TemporaryDirectory() as folder:
            partial = Path(folder) / path.name
            yield partial
            path.upload(partial)
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # a link there would be written through
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def finite(content: Any) -> Any:
    """Return content for JSON, which has no NaN and no infinity (RFC 8259, section 6): null stands for each."""
    try:
        json.dumps(content, allow_nan=False)
    except ValueError:  # a number that is not finite, which is rare
        return _without_nan(content)
    return content


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def save_json(path: Path, content: dict[str, Any], *, sealed: bool = False) -> None:
    """Write a JSON object, whole or not at all; a sealed one is refused by `load_json` once anything in it changed.

    What is not finite becomes null.
    """
    content = finite(content)
    if sealed:
        content = content | {SEAL: seal_of(content)}
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def open_regular(path: Path) -> BufferedIOBase:
    """Return a file, opened for reading, or what an address holds.

    Raises:
        FileNotFoundError: nothing there. ArtefactError: what lies there is no regular file: a pipe would be waited for,
            a device read for ever. OSError: it cannot be read.
    """
    if isinstance(path, Place):
        content: BufferedIOBase = path.open("rb")
        return content
    if not stat.S_ISREG(path.stat().st_mode):
        raise _no_file(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # another took its place meanwhile
        file.close()
        raise _no_file(path)
    return file


def _no_file(path: Path) -> ArtefactError:
    return ArtefactError(f"expected a file at {str(path)!r}, got a folder, pipe, socket or device; remove it")


def read_regular(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a file. Raises as `open_regular`; ArtefactError also where there is more of it."""
    with open_regular(path) as file:
        if not isinstance(path, Place):
            require_size(path, os.fstat(file.fileno()).st_size, most_bytes)
        content = file.read(most_bytes + 1)
    require_size(path, len(content), most_bytes)
    return content


def require_size(path: Path, size: int, most_bytes: int) -> None:
    """Raise ArtefactError where a file has more bytes than it may have."""
    if size > most_bytes:
        raise ArtefactError(
            f"expected {str(path)!r} to have at most {most_bytes:,} bytes, got more; was it written by Precedent?"
        )


def load_json(
    path: Path, what: str, remedy: str, shape: TypeAdapter[Any] | None = None, most_bytes: int = MOST_JSON
) -> dict[str, Any]:
    """Return a JSON object of ours, less its seal.

    Args:
        shape: what it must hold, of which types.

    Raises:
        ArtefactError: the file is missing, is no JSON object, is not as it was sealed or not of that shape; `what` and
            `remedy` go into the sentence.
    """
    try:
        text = read_regular(path, most_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtefactError(f"no {what} at {str(path)!r}; {remedy}") from error
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ArtefactError(f"{str(path)!r} is no longer readable as the {what} ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ArtefactError(f"expected a JSON object in {str(path)!r}, got {type(content).__name__}; {remedy}")
    if (seal := content.pop(SEAL, None)) is not None and seal != seal_of(content):
        raise ArtefactError(f"the {what} {str(path)!r} has changed since it was written; {remedy}")
    if shape is not None:
        require_shape(content, shape, f"{str(path)!r} is not as the {what} is written", remedy)
    return content


def stamp(path: Path) -> tuple[int, ...]:
    """Return what differs between two states of a file that is renamed into place; () where there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_settled(manifest: Path, read: Callable[[], Read]) -> Read:
    """Return what `read` makes of a manifest and the files that it names, read again where another one came meanwhile.

    A writer removes the files of the manifest before as soon as its own is there: whoever has read that one misses
    them, at any moment up to the opening of the last.

    Raises:
        ArtefactError: a file is missing though the manifest is the same, or another came each time; and what `read`
            does.
    """
    for attempt in range(_ATTEMPTS):
        before = stamp(manifest)
        try:
            return read()
        except (ArtefactError, FileNotFoundError) as error:
            if stamp(manifest) != before and attempt + 1 < _ATTEMPTS:
                continue
            if isinstance(error, ArtefactError):
                raise
            raise ArtefactError(
                f"a file is missing from {str(manifest.parent)!r} ({error}); run: precedent verify {manifest.parent}"
            ) from error
    raise AssertionError("the last attempt returns or raises")


def parse_json(text: bytes | str) -> Any:
    """Return what JSON in UTF-8 says.

    Raises:
        ValueError: it is none, says a key twice or NaN, is nested without end, or holds half a character.
    """
    try:
        content = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_each_once,
            parse_constant=_refuse_constant,
        )
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("it says a key twice")
    return values


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")


def require_shape(content: Any, shape: TypeAdapter[Any], sentence: str, remedy: str) -> None:
    """Raise ArtefactError, with the first place that does not fit, unless a value is of a shape."""
    try:
        shape.validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        part = ".".join(map(str, first["loc"]))[:200] or "the whole"
        raise ArtefactError(f"{sentence} ({part!r}: {first['msg']}); {remedy}") from None


def seal_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what JSON can say, 64 hex digits; "" where it cannot say it."""
    try:
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    except TypeError:
        return ""


def seal_parquet(path: Path) -> None:
    """Put the SHA-256 of a file into it, where its metadata say UNSEALED."""
    content = read_regular(path)
    start, seal = _sealed(content)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(seal)


def read_sealed_parquet(path: Path, remedy: str) -> bytes:
    """Return the content of a Parquet file. Raises ArtefactError where it is not as it was sealed.

    One without a seal, of an older version, passes, and so does one of another length than its seal says: whoever
    reads a table and saves other rows takes the metadata along. A file that was cut off is no Parquet file any more.
    """
    content = read_regular(path)
    start, seal = _sealed(content)
    written = content[start : start + len(seal)]
    if start >= 0 and written[:16] == seal[:16] and written != seal:
        raise ArtefactError(f"{str(path)!r} has changed since it was written; {remedy}")
    return content


def _sealed(content: bytes) -> tuple[int, bytes]:
    """Return where a file's seal begins, -1 where it has none, and what it should be."""
    key, unknown = f"{SEAL}:".encode(), _UNKNOWN.encode()
    start = content.rfind(key) + len(key)
    if start < len(key):
        return -1, b""
    sha256 = hashlib.sha256(content[:start] + unknown + content[start + len(unknown) :])
    return start, f"{len(content):016d}:{sha256.hexdigest()}".encode()


def sha256_of(path: Path, most_bytes: int | None = None) -> str:
    """Return the SHA-256 of a file, 64 hex digits. Raises as `open_regular`; ArtefactError: it has more bytes."""
    with open_regular(path) as file:
        if most_bytes is not None and not isinstance(path, Place):
            require_size(path, os.fstat(file.fileno()).st_size, most_bytes)
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_unchanged(path: Path, sha256: str, remedy: str, most_bytes: int = MOST_BYTES) -> None:
    """Raise ArtefactError unless the file is there, no larger, and has the SHA-256 its manifest states."""
    try:
        digest = sha256_of(path, most_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtefactError(f"{path.name!r} is missing from {str(path.parent)!r}; {remedy}") from error
    require_digest(path, digest, sha256, remedy)


def read_unchanged(path: Path, sha256: str, remedy: str) -> bytes:
    """Return the content of a file. Raises ArtefactError unless it is there and has the SHA-256 its manifest states."""
    try:
        content = read_regular(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtefactError(f"{path.name!r} is missing from {str(path.parent)!r}; {remedy}") from error
    require_digest(path, hashlib.sha256(content).hexdigest(), sha256, remedy)
    return content


def require_digest(path: Path, digest: str, sha256: str, remedy: str) -> None:
    """Raise ArtefactError unless the SHA-256 found of a file is the one that its manifest states."""
    if digest != sha256:
        raise ArtefactError(
            f"{str(path)!r} has changed since it was written (expected SHA-256 {sha256[:12]}, got {digest[:12]}); "
            f"{remedy}"
        )


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
