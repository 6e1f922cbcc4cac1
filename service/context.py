"""What belongs to the running request and to the running application, as Flask keeps it: one object each."""

import secrets
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from flask import current_app, g

KEY = "precedent"
"""Of the application's one extension, its `service.state.State`."""


@dataclass
class Call:
    """What is known of a running request beside what Flask keeps of it."""

    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=perf_counter)
    principal: str | None = None
    """The name of the token that was shown, also of one that is valid no more; None where none is asked for."""
    scopes: tuple[str, ...] = ()
    """Of that token."""
    over_rate: bool = False
    """Whether it came without a valid token, beyond the rate of such requests."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the body, films left out: the audit log names the studies that were asked about."""
    announced: tuple[str, list[str]] | None = None
    """Collection and studies of a change that the audit log has announced."""


def call() -> Call:
    """Return the running request's call."""
    found: Call = g.call
    return found


def request_id() -> str:
    """Return the number of the running request; "" where it has none."""
    return call().request_id if "call" in g else ""


def running() -> Any:
    """Return the `service.state.State` of the running application, of which each folder takes what is its own."""
    return current_app.extensions[KEY]
