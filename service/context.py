"""What belongs to the running request and to the running application, as Flask keeps it: one object each."""

import secrets
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

from flask import current_app, g
from werkzeug.local import LocalProxy

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
    exact: bool = False
    """Whether it may see exact similarities: of a service without tokens, and with the scope `vectors`."""
    over_rate: bool = False
    """Whether it came without a valid token, beyond the rate of such requests."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the body, films left out: the audit log names the studies that were asked about."""
    announced: tuple[str, list[str]] | None = None
    """Collection and studies of a change that the audit log has announced."""
    noted: dict[str, Any] = field(default_factory=dict)
    """What else its line of the audit log holds: of a search across hospitals, who was asked or who asked."""


call = cast(Call, LocalProxy(lambda: g.call))
"""That of the running request."""
running: Any = LocalProxy(lambda: current_app.extensions[KEY])
"""The `service.state.State` of the running application, of which each folder takes what is its own."""


def request_id() -> str:
    """Return the number of the running request; "" where it has none."""
    return call.request_id if "call" in g else ""
