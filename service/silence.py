"""Keeps libraries from reporting to their makers: nothing that runs here asks the network for anything unbidden.

Called by who owns the process, before OpenVINO is imported; it must not import OpenVINO itself.
"""

import sys
from types import ModuleType

_REPORTERS = ("openvino_telemetry",)
"""OpenVINO and nncf send what was converted, with an id of the machine, unless this is missing; then they do not."""


def keep_silent() -> None:
    """Have the libraries find their reporters missing, as on a machine where they were not installed."""
    for name in _REPORTERS:
        sys.modules.setdefault(name, ModuleType(name, "left out"))
