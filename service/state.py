"""Everything that one application holds while it runs, made before the application and given to it whole."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from flask import Flask, current_app

from service.audit.log import AuditLog
from service.audit.trail import AuditTrail
from service.context import KEY
from service.guard.access import AccessControl
from service.guard.disclosure import Budget
from service.guard.policy import RemotePolicy
from service.guard.tokens import TokenFile
from service.limits import DEFAULT_LIMITS, Limits
from service.served.activation import Activation
from service.served.concurrency import ConcurrencyLimit
from service.served.decoding import Decoding
from service.served.mounted import Mounted, Served
from service.served.pictures import SmallPictures
from service.served.queries import Queries
from service.served.readiness import Readiness
from service.watch.metrics import Metrics


@dataclass(frozen=True)
class State:
    """The parts of one application, fixed when it is made; what is in a part may change while it runs."""

    served: Served
    limits: Limits
    metrics: Metrics
    readiness: Readiness
    decoding: Decoding
    small_pictures: SmallPictures
    queries: Queries
    readings: ConcurrencyLimit
    """Of maps and predictions with dropout."""
    access: AccessControl
    budget: Budget
    """Of queries a day, by token."""
    closing: Event
    """Set when the service begins to stop."""
    trail: AuditTrail | None = None
    activation: Activation | None = None
    """None where the collections do not come from folders."""
    remote: RemotePolicy | None = None
    """What other hospitals are told; None answers none."""

    @classmethod
    def of(
        cls,
        mounted: Mounted,
        limits: Limits = DEFAULT_LIMITS,
        *,
        tokens: TokenFile | None = None,
        log: AuditLog | None = None,
        metrics: Metrics | None = None,
        decoding: Decoding | None = None,
        readiness: Readiness | None = None,
        load: Callable[[str | None, Mounted], Mounted] | None = None,
        remote: RemotePolicy | None = None,
    ) -> "State":
        """Return the state of an application over collections whose fingerprint is their embedder's.

        Args:
            tokens: of which one is asked for, also on a loopback address; None asks for none.
            log: where every call is written down.
            metrics, decoding, readiness: where the embedders count and decode already.
            load: opens a collection of a name, or all, anew, beside what is served now; None cannot.
            remote: what other hospitals are told; None answers none. Raises MountError where it does not fit.
        """
        if remote is not None:
            remote.require_columns(mounted.collection(remote.collection).columns)
        metrics = metrics or Metrics()
        served, trail = Served(mounted), AuditTrail(log) if log is not None else None
        metrics.tell_of(lambda: served.now.collections)
        return cls(
            served,
            limits,
            metrics,
            readiness or Readiness(metrics.ready),
            decoding or Decoding(limits),
            SmallPictures(),
            Queries(limits),
            ConcurrencyLimit("maps and predictions with dropout", limits.readings, limits.readings_waiting),
            AccessControl.of(limits, tokens),
            Budget(limits.queries_a_day),
            Event(),
            trail,
            Activation(served, load, trail.around if trail is not None else None) if load is not None else None,
            remote,
        )


def state_of(app: Flask) -> State:
    """Return the state of an application."""
    state: State = app.extensions[KEY]
    return state


def state() -> State:
    """Return the state of the running application."""
    return state_of(current_app)
