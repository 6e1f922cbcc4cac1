"""Whether the service is about to stop; whatever is asked from then on is refused.

Knows that it stops, and must not know how: sockets and signals are the server's.
"""

from threading import Event

from flask import Flask, current_app, request

from service.errors import Stopping

CLOSING = "precedent_closing"


def register(app: Flask) -> None:
    """Give `app` the event that is set when it stops, and have it refuse what begins later."""
    app.extensions[CLOSING] = Event()
    app.before_request(_refuse)


def _refuse() -> None:
    """Raise Stopping where the service stops; that it lives is still said."""
    closing: Event = current_app.extensions[CLOSING]
    if closing.is_set() and request.path != "/healthz":
        raise Stopping("the service is stopping; ask again in some seconds")
