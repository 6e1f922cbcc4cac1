"""What the verbs say where the packages that a PACS is asked with are missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from index.errors import CollectionError


@contextmanager
def packages_of_pacs() -> Iterator[None]:
    """Have what is imported here refused in one sentence where a package is missing."""
    try:
        yield
    except ImportError as error:
        raise CollectionError(
            f"expected packages for a PACS ({error}); run: pip install 'cxr-precedent[pacs]'"
        ) from error
