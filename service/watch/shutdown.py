"""Whether the service is about to stop; whatever is asked from then on is refused."""

from threading import Event

from flask import request

from service.context import running
from service.errors import Stopping


def refuse_when_closing() -> None:
    """Raise Stopping where the service stops; that it lives is still said."""
    closing: Event = running().closing
    if closing.is_set() and request.path != "/healthz":
        raise Stopping("the service is stopping; ask again in some seconds")
