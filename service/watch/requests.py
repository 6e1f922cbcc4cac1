"""Each request is numbered, counted, timed and logged by its route's rule, never by what it holds."""

import logging
import re
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter

from flask import Flask, Response, g, has_app_context, request
from werkzeug.routing import Rule

from service.context import Call, call, running
from service.errors import REQUEST_ID
from service.watch.metrics import Metrics

PROBES = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines: one that is answered is counted and not logged."""

log = logging.getLogger("precedent.requests")
_ARGUMENT = re.compile(r"<(?:[^<>:]+:)?([^<>]+)>")


def metrics() -> Metrics:
    """Return the counts of the running application."""
    found: Metrics = running().metrics
    return found


def stage(name: str) -> AbstractContextManager[None]:
    """Return what times a stage of an answer; outside of an application nothing is timed."""
    return metrics().stage(name) if has_app_context() else nullcontext()


def register(app: Flask) -> None:
    """Have every request of `app` numbered, counted and logged, from its first handler to its last."""
    app.before_request(_begin)
    app.after_request(_account)
    app.teardown_request(_end)


def path_template(rule: Rule) -> str:
    """Return a rule as the OpenAPI document writes it."""
    return _ARGUMENT.sub(r"{\1}", rule.rule)


def rule() -> str:
    """Return the rule of the running request's route as the OpenAPI document writes it, or "unmatched"."""
    return path_template(request.url_rule) if request.url_rule is not None else "unmatched"


def _begin() -> None:
    g.call = Call()
    request.environ[REQUEST_ID] = g.call.request_id
    metrics().in_flight.inc()


def _end(_error: BaseException | None) -> None:
    if "call" in g:
        metrics().in_flight.dec()


def _account(response: Response) -> Response:
    if "call" not in g:
        return response
    seconds, route, status = perf_counter() - call().started, rule(), response.status_code
    method = request.method if request.url_rule is not None else "any"  # of a made-up method there is no end
    metrics().count(route, method, status, seconds)
    if status >= 400 or route not in PROBES:
        level = logging.WARNING if status >= 500 else logging.INFO
        log.log(level, "answered", extra={"method": method, "status": status, "ms": round(1000 * seconds, 2)})
    return response
