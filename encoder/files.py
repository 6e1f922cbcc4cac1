"""Files of tensors that appear whole or not at all, and that show when anything in them has changed."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from encoder.errors import CheckpointError

MOST_BYTES = 1 << 33
"""Of a file of tensors: two billion parameters in single precision."""
MOST_HEADER = 1 << 24
"""Of what stands before the tensors: an EfficientNet-B7's has 180,000 bytes."""
SEAL = "precedent.seal"
_UNSEALED = f"{SEAL}:{64 * '0'}"
"""Stands in a file's metadata while its SHA-256 is taken; the digits then replace the zeros."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside the target to write to; on leaving, sync it and rename it over the target.

    After an exception the target is as it was, and nothing else is left. Its name ends as the target's does.
    """
    partial = path.with_name(f".partial-{path.name}")
    partial.unlink(missing_ok=True)  # a link there would be written through
    try:
        yield partial
        for changed in (partial, path.parent):
            handle = os.open(changed, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            if changed == partial:
                os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and their metadata with a checksum, whole or not at all. Raises OSError."""
    with written_whole(path) as partial:
        try:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {**metadata, SEAL: _UNSEALED}
            )
        except SafetensorError as error:  # its word for a full disk
            raise OSError(f"expected to write {str(path)!r}, could not ({error}); is the disk full?") from error
        content = partial.read_bytes()
        start, digest = _seal_of(content)
        partial.write_bytes(content[:start] + digest + content[start + len(digest) :])


def open_regular(path: Path) -> BinaryIO:
    """Return a file, opened for reading.

    Raises:
        FileNotFoundError: nothing there. CheckpointError: what lies there is no regular file: a pipe would be waited
            for, a device read for ever. OSError: it cannot be read.
    """
    if stat.S_ISREG(path.stat().st_mode):
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # and it was not replaced meanwhile
            return file
        file.close()
    raise CheckpointError(f"expected a file at {str(path)!r}, got a folder, pipe, socket or device; remove it")


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Return the content of a file. Raises as `open_regular`; CheckpointError also where it is larger."""
    with open_regular(path) as file:
        content = file.read(most_bytes + 1) if os.fstat(file.fileno()).st_size <= most_bytes else None
    if content is None or len(content) > most_bytes:
        raise CheckpointError(
            f"expected {str(path)!r} to have at most {most_bytes:,} bytes, got more; was it written by Precedent?"
        )
    return content


def read_json(text: str | bytes) -> Any:
    """Return what JSON in UTF-8 says. Raises ValueError: it is none, says NaN, or is nested without end."""
    try:
        content = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text, parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")


def load_tensors(path: Path, remedy: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file, its checksum verified before it is parsed.

    A file without a checksum, of an older version or another program, passes. safetensors itself refuses tensors that
    overlap, leave gaps or reach beyond the file, so no more memory is taken than the file has.

    Raises:
        FileNotFoundError: no such file. CheckpointError: it cannot be read, has changed since it was written, or has a
            header that no network has.
    """
    try:
        content = read_regular(path, MOST_BYTES)
        if (header := int.from_bytes(content[:8], "little")) > MOST_HEADER:
            raise ValueError(f"a header of {header:,} bytes")
        start, digest = _seal_of(content)
        if start >= 0 and content[start : start + len(digest)] != digest:
            raise CheckpointError(f"{str(path)!r} has changed since it was written; {remedy}")
        del content
        with safe_open(path, framework="pt") as file:
            metadata = {name: text for name, text in (file.metadata() or {}).items() if name != SEAL}
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{str(path)!r} is not a readable safetensors file ({error}); {remedy}") from error


def _seal_of(content: bytes) -> tuple[int, bytes]:
    """Return where the digits of a file's checksum begin, -1 where it has none, and what they should be."""
    key, digits = _UNSEALED[:-64].encode(), _UNSEALED[-64:].encode()
    start = content.find(key) + len(key)
    if start < len(key):
        return -1, b""
    sha256 = hashlib.sha256(content[:start] + digits)
    sha256.update(memoryview(content)[start + len(digits) :])
    return start, sha256.hexdigest().encode()
