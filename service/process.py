"""What holds for a whole process: no telemetry of libraries, a umask, and no core dump.

Called before OpenVINO is imported.
"""

import os
import resource
import sys
from collections.abc import Mapping
from types import ModuleType

from index.errors import CollectionError

UMASK = "PRECEDENT_UMASK"
_PRIVATE = 0o077
_REPORTERS = ("openvino_telemetry",)
"""OpenVINO and nncf send what was converted, with an id of the machine, unless this is missing; then they do not."""


def disable_telemetry() -> None:
    """Have the libraries find their reporters missing, as on a machine where they were not installed."""
    for name in _REPORTERS:
        sys.modules.setdefault(name, ModuleType(name, "left out"))


def keep_files_private(environ: Mapping[str, str] = os.environ) -> None:
    """Have what the process makes be its owner's alone, 0600 and 0700, and none of its memory end in a core dump.

    PRECEDENT_UMASK is the umask instead, where it is set: 027 for an archive that a group reads.

    Raises:
        CollectionError: that is no umask.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    text = environ.get(UMASK)
    if not text:
        os.umask(os.umask(_PRIVATE) | _PRIVATE)  # a stricter one stays
        return
    try:
        umask = int(text, 8)
    except ValueError:
        umask = -1
    if not 0 <= umask <= 0o777:
        raise CollectionError(f"expected {UMASK} to be a umask such as 027, got {text!r}")
    os.umask(umask)
