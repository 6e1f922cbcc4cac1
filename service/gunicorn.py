"""What gunicorn makes of the application: which process may load it, and how a refusal at start is shown.

A process that has loaded it has threads, locks, an encoder's native threads and an audit log of its own. A fork has
none of the threads: tried without the refusal, it answered searches of stored studies, and none with films within 25 s.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from encoder.errors import EncoderError
from index.errors import CollectionError
from service.errors import AuditError, MountError, NotReady, TokensError


@contextmanager
def loaded_by_worker() -> Iterator[None]:
    """Have gunicorn end with a sentence where the application cannot be loaded, or is loaded before the workers fork.

    Under another server errors pass as they are.
    """
    errors = sys.modules.get("gunicorn.errors")
    if errors is None:
        yield
        return
    if _is_preloaded():
        raise RuntimeError(  # which gunicorn's first process tells without a traceback
            "expected each worker to load the application for itself, got --preload (preload_app), with which a loaded "
            "encoder would be used in forked processes, where it does not work; leave the option out"
        )
    try:
        yield
    except (CollectionError, EncoderError, MountError, TokensError, AuditError, NotReady) as refusal:
        raise errors.AppImportError(str(refusal)) from refusal


def _is_preloaded() -> bool:
    """Return whether gunicorn's first process is loading the application, as it does in its `setup` alone."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "gunicorn.arbiter" and frame.f_code.co_name == "setup":
            return True
        frame = frame.f_back
    return False
