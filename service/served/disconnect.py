"""What the server says of a request: whether its client still waits for the answer, and whether its body is there."""

from typing import cast

from flask import has_request_context, request

from service.errors import Busy
from service.served.batching import Gone, stays

CLIENT_GONE = "precedent.client_gone"
"""In the environment of a request, what tells in any thread whether its client has left."""
TURNED_AWAY = "precedent.turned_away"
"""In the environment of a request, whether its body was not received for want of room."""


def require_body() -> None:
    """Refuse a request whose body the server had no room for. Raises Busy."""
    if request.environ.get(TURNED_AWAY):
        raise Busy("too many films are being uploaded at the same time; try again in a second")


def disconnect_check() -> Gone:
    """Return a function that says, in any thread, whether the client of the running request has disconnected.

    Without a request, and under a server that does not say, everybody stays.
    """
    return cast(Gone, request.environ.get(CLIENT_GONE, stays)) if has_request_context() else stays
