"""What goes wrong on the way to an object store, in sentences of ours, which repeat nothing that a server has said.

Knows the errors of fsspec and of S3's packages, which it does not import; it must not know what is asked of a store.
"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from index.errors import BackendUnavailable

_AGAIN = "then run the same command again, which goes on where this one stopped"


@contextmanager
def told(address: object) -> Iterator[None]:
    """Raise FileNotFoundError where nothing is at an address, and BackendUnavailable for all else that goes wrong.

    A film that is missing is left out; of a store that is out of reach nothing can be said, and work on it has to stop.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        if code_of(error) == "NoSuchBucket":
            raise BackendUnavailable(
                f"{str(address)!r}: there is no such bucket; make it or mend the address"
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
    """Return the word of S3 for what was wrong, "" where there is none."""
    said = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(said.get("Error", {}).get("Code", ""))


def _failures() -> tuple[type[Exception], ...]:
    """Return what is raised where a store is out of reach; the packages that raise it are loaded by then."""
    named = (
        ("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"), ("aiohttp", "ClientError")
    )  # fmt: skip
    return (OSError, EOFError, *(getattr(sys.modules[room], name) for room, name in named if room in sys.modules))
