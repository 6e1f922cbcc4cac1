"""The service's eye on its own requests: each is counted, timed and logged by its route's rule.

It knows requests and their answers; it must not look into either.
"""

import logging
import re
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import cast

from flask import Flask, Response, current_app, g, has_app_context, request
from werkzeug.routing import Rule

from service.watch.metrics import Metrics

METRICS = "precedent_metrics"
PROBES = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines: one that is answered is counted and not logged."""

log = logging.getLogger("precedent.requests")
_ARGUMENT = re.compile(r"<(?:[^<>:]+:)?([^<>]+)>")


def metrics() -> Metrics:
    """Return the counts of the running application."""
    return cast(Metrics, current_app.extensions[METRICS])


def stage(name: str) -> AbstractContextManager[None]:
    """Return what times a stage of an answer; outside of an application nothing is timed."""
    return metrics().stage(name) if has_app_context() else nullcontext()


def register(app: Flask, counted: Metrics) -> None:
    """Have every request of `app` counted and logged, from its first handler to its last."""
    app.extensions[METRICS] = counted
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
    g.begun = perf_counter()
    metrics().in_flight.inc()


def _end(_error: BaseException | None) -> None:
    if "begun" in g:
        metrics().in_flight.dec()


def _account(response: Response) -> Response:
    if "begun" not in g:
        return response
    seconds, route, status = perf_counter() - g.begun, rule(), response.status_code
    method = request.method if request.url_rule is not None else "any"  # of a made-up method there is no end
    metrics().count(route, method, status, seconds)
    if status >= 400 or route not in PROBES:
        level = logging.WARNING if status >= 500 else logging.INFO
        log.log(level, "answered", extra={"method": method, "status": status, "ms": round(1000 * seconds, 2)})
    return response
