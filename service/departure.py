"""Whether the client of a request still waits for its answer.

Knows the request at hand and the server's word for a connection that was closed; it must not know what is answered.
"""

from typing import cast

from flask import has_request_context, request

from service.batching import Gone, stays

_KEY = "waitress.client_disconnected"


def departure() -> Gone:
    """Return what tells, in any thread, whether the client of the running request has gone.

    Without a request, and under a server that does not say, everybody stays.
    """
    return cast(Gone, request.environ.get(_KEY, stays)) if has_request_context() else stays
