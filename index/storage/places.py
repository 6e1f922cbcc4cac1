"""Where files lie: on this machine's disk, or in an object store that fsspec knows, behind an address like s3://bucket.

Credentials come from the environment of the store's own library, and no address or sentence holds any. What goes wrong
on the way to a store is said in sentences of ours, which repeat nothing that a server has said.
"""

import errno
import io
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, cast

from index.errors import BackendUnavailable, PlaceError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SECRET = re.compile(r"[^/]*:[^/]*@|.*[?#]|.*::", re.DOTALL)
_ONE_REQUEST: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1}, "s3a": {"max_concurrency": 1}}
"""Options to read an object in one request; s3fs would ask for its size first, to fetch large ones in parts."""
_AGAIN = "then run the same command again, which goes on where this one stopped"


def place(text: str | os.PathLike[str]) -> Path:
    """Return where a text points: a `Path`, or for `scheme://` a `Place`, which stands where a `Path` does.

    A path or place is given back as it is.

    Raises:
        PlaceError: an address with a password, of an unknown scheme, or one whose package is not installed.
    """
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return cast(Path, text) if isinstance(text, Place) else Path(text)
    scheme, rest = match[1].lower(), match[2].rstrip("/")
    if scheme == "file":
        return Path(rest)
    if _SECRET.match(rest):
        raise PlaceError(
            f"expected a bucket and a path after {scheme}://, got a password, a query or a chain of addresses; put "
            "credentials into the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return cast(Path, _opened(scheme, rest))


def below(root: Path, relative: str) -> Path:
    """Return the path, links resolved, to which a path out of a table leads below a folder or an address.

    Raises:
        PlaceError: it leads out of that.
    """
    refusal = PlaceError(f"expected a path below the image root, got {relative[:200]!r}, which leads out of it")
    try:
        base = root.resolve()
        path = (base / relative).resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, a zero byte
        raise refusal from None
    if path == base or not path.is_relative_to(base):
        raise refusal
    return path


def require_here(folder: Path) -> Path:
    """Return a folder of this machine. Raises PlaceError: it is an address, which keeps no order among writers."""
    if isinstance(folder, Place):
        raise PlaceError(
            "expected an index on this machine's disk, got one at an address, where it can be searched and not "
            f"changed; copy it here first: {folder}"
        )
    return folder


def _opened(scheme: str, rest: str) -> "Place":
    address = f"{scheme}://{rest}"
    try:
        import fsspec

        store, key = fsspec.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        remedy = "pip install 'cxr-precedent[s3]'" if scheme in ("s3", "s3a") else str(error)
        raise PlaceError(f"expected what opens {scheme}:// addresses to be installed, it is not; {remedy}") from error
    except ValueError:
        raise PlaceError(f"expected a folder, or an address such as s3://bucket/folder, got {address!r}") from None
    prefix = address.removesuffix(key)
    if not key.strip("/") or prefix not in (f"{scheme}://", f"{scheme}:/") or str(PurePosixPath(key)) != key:
        raise PlaceError(f"expected an address such as s3://bucket/folder, got {address!r}")
    return Place(store, prefix, PurePosixPath(key))


@dataclass(frozen=True)
class PlaceStat:
    """Size and time of an object, as `stat` gives them of a file."""

    st_size: int
    st_mtime: float
    """0 where the store does not say."""

    @property
    def st_mtime_ns(self) -> int:
        """The same in nanoseconds."""
        return int(self.st_mtime * 1e9)


class Place:
    """An object of a store, or all below an address; it answers as a `Path`, less what only a disk can do.

    An object is read whole and put whole. Nothing that the store said before is remembered. Safe under threads.

    Raises, beside what a `Path` does, BackendUnavailable: the store is out of reach, refuses, or has lost the bucket.
    """

    def __init__(self, store: Any, prefix: str, path: PurePosixPath) -> None:
        self._store, self._prefix, self._path = store, prefix, path

    def __str__(self) -> str:
        return f"{self._prefix}{self._path}"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "Place") -> bool:
        return str(self) < str(other)

    def __truediv__(self, part: str | PurePosixPath) -> "Place":
        return self._at(self._path / part)

    def _at(self, path: PurePosixPath) -> "Place":
        return Place(self._store, self._prefix, path)

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """What follows the last dot of the last part, with the dot."""
        return self._path.suffix

    @property
    def parent(self) -> "Place":
        """What it lies in."""
        return self._at(self._path.parent)

    def with_name(self, name: str) -> "Place":
        """Return the one of that name beside it."""
        return self._at(self._path.with_name(name))

    def resolve(self) -> "Place":
        """Return it without `..` in it."""
        return self._at(PurePosixPath(posixpath.normpath(self._path)))

    def is_relative_to(self, other: object) -> bool:
        """Return whether it lies below another, or is it."""
        return isinstance(other, Place) and self._prefix == other._prefix and self._path.is_relative_to(other._path)

    def relative_to(self, other: "Place") -> PurePosixPath:
        """Return the relative path from another place to it."""
        return self._path.relative_to(other._path)

    def read_bytes(self) -> bytes:
        """Return the object, by one request."""
        with store_errors(self):
            scheme = self._prefix.partition(":")[0]
            return bytes(self._store.cat_file(str(self._path), **_ONE_REQUEST.get(scheme, {})))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the object as a text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "r", encoding: str | None = None, newline: str | None = None) -> Any:
        """Return the object, opened for reading."""
        content = io.BytesIO(self.read_bytes())
        return content if "b" in mode else io.TextIOWrapper(content, encoding or "utf-8", newline=newline)

    def download(self, target: Path) -> None:
        """Write the object to a file of this machine, of any size."""
        with store_errors(self):
            self._store.get_file(str(self._path), str(target))

    def upload(self, source: Path) -> None:
        """Put a file of this machine here, of any size; readers see the old object or the new one."""
        with store_errors(self):
            self._store.put_file(str(source), str(self._path))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            with store_errors(self):
                self._store.rm_file(str(self._path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: an object needs no folder, and buckets are never made here."""

    def exists(self) -> bool:
        """Return whether there is an object, or one below."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Return whether there is an object."""
        facts = self._info()
        return facts is not None and facts["type"] == "file"

    def is_dir(self) -> bool:
        """Return whether there are objects below."""
        facts = self._info()
        return facts is not None and facts["type"] == "directory"

    def stat(self) -> PlaceStat:
        """Return size and time. Raises FileNotFoundError."""
        facts = self._info()
        if facts is None:
            raise missing(self)
        changed: Any = facts.get("LastModified") or facts.get("created")
        return PlaceStat(int(facts["size"] or 0), changed.timestamp() if hasattr(changed, "timestamp") else 0.0)

    def iterdir(self) -> "Iterator[Place]":
        """Yield what lies here, as the store lists it; nothing where there is nothing."""
        with store_errors(self):
            try:
                names = self._store.ls(str(self._path), detail=False)
            except (FileNotFoundError, NotADirectoryError) as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                names = []
        yield from (self._at(path) for path in map(PurePosixPath, names) if path != self._path)

    def glob(self, pattern: str) -> "Iterator[Place]":
        """Yield what lies here under a name that matches, by one listing."""
        return (child for child in self.iterdir() if fnmatchcase(child.name, pattern))

    def files_below(self) -> list[str]:
        """Return the relative paths of all objects below, in order, by one listing for each thousand."""
        with store_errors(self):
            paths = self._store.find(str(self._path))
        return [str(PurePosixPath(path).relative_to(self._path)) for path in sorted(paths)]

    def _info(self) -> dict[str, Any] | None:
        try:
            with store_errors(self):
                return dict(self._store.info(str(self._path)))
        except (FileNotFoundError, NotADirectoryError):
            return None


@contextmanager
def store_errors(address: object) -> Iterator[None]:
    """Raise FileNotFoundError where nothing is at an address, and BackendUnavailable for all else that goes wrong.

    A film that is missing is left out; of a store that is out of reach nothing can be said, and work on it has to stop.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        if code_of(error) == "NoSuchBucket":
            raise BackendUnavailable(
                f"{str(address)!r}: there is no such bucket; create it or correct the address"
            ) from error
        raise missing(address) from error
    except PermissionError as error:
        raise BackendUnavailable(
            f"{str(address)!r}: the store refuses these credentials ({code_of(error) or 'no permission'}); give them "
            f"the right to list, read and write there, {_AGAIN}"
        ) from error
    except _failures() as error:
        raise BackendUnavailable(
            f"{str(address)!r} cannot be reached ({code_of(error) or type(error).__name__}); see that the store "
            f"answers and that its address and credentials are in the environment, {_AGAIN}"
        ) from error


def missing(address: object) -> FileNotFoundError:
    """Return the error for an address at which there is nothing."""
    return FileNotFoundError(errno.ENOENT, "there is no such object", str(address))


def code_of(error: BaseException) -> str:
    """Return the error code of S3, "" without one."""
    said = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(said.get("Error", {}).get("Code", ""))


def _failures() -> tuple[type[Exception], ...]:
    """Return the errors that mean that a store is out of reach; the packages that define them are loaded by then."""
    botocore = "botocore.exceptions"
    named = ((botocore, "BotoCoreError"), (botocore, "ClientError"), ("aiohttp", "ClientError"))
    return (OSError, EOFError, *(getattr(sys.modules[room], name) for room, name in named if room in sys.modules))
