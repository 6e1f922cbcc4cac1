"""Each request is numbered, counted, timed and logged by its route's rule, never by what it holds.

Once the service is about to stop, none is taken.
"""

import logging
import re
from functools import cache
from time import perf_counter

from flask import Flask, Response, g, request

from service.context import Call, call, running
from service.errors import REQUEST_ID, Stopping

ALIVE = "/healthz"
"""Is answered by whatever name it is asked, and until the end."""
PROBES = (ALIVE, "/readyz", "/metrics")
"""Asked every few seconds by machines: one that is answered is counted and not logged."""

log = logging.getLogger("precedent.requests")
_ARGUMENT = re.compile(r"<(?:[^<>:]+:)?([^<>]+)>")


def register(app: Flask) -> None:
    """Have every request of `app` numbered, counted and logged, from its first handler to its last."""
    app.before_request(_begin)
    app.after_request(_account)
    app.teardown_request(_end)


@cache
def path_template(rule: str) -> str:
    """Return a route's rule as the OpenAPI document writes it."""
    return _ARGUMENT.sub(r"{\1}", rule)


def rule() -> str:
    """Return the rule of the running request's route as the OpenAPI document writes it, or "unmatched"."""
    return path_template(request.url_rule.rule) if request.url_rule is not None else "unmatched"


def _begin() -> None:
    g.call = Call()
    request.environ[REQUEST_ID] = g.call.request_id
    running.metrics.in_flight.inc()
    if running.closing.is_set() and request.path != ALIVE:
        raise Stopping("the service is stopping; try again in some seconds")


def _end(_error: BaseException | None) -> None:
    if "call" in g:
        running.metrics.in_flight.dec()


def _account(response: Response) -> Response:
    if "call" not in g:
        return response
    seconds, route, status = perf_counter() - call.started, rule(), response.status_code
    method = request.method if request.url_rule is not None else "any"  # of a made-up method there is no end
    running.metrics.count(route, method, status, seconds)
    response.headers["X-Request-Id"] = call.request_id
    if status >= 400 or route not in PROBES:
        level = logging.WARNING if status >= 500 else logging.INFO
        log.log(level, "answered", extra={"method": method, "status": status, "ms": round(1000 * seconds, 2)})
    return response
