"""What the service counts and times of its own work, for Prometheus to collect.

No label ever holds what a request carried.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Protocol

from flask import has_app_context
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from index.errors import CollectionError
from service.context import running

STAGES = ("decode", "wait", "encode", "search", "predict", "explain")
"""Reading films; waiting for the encoder; a batch in the encoder; a search; predictions from films; maps."""
MIMETYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STUDIES = (1, 2, 4, 8, 12, 16)
_PERCENTILES = (1, 5, 10, 25, 50, 75, 100)


class Countable(Protocol):
    """What is reported of a collection at a scrape."""

    @property
    def name(self) -> str:
        """The name it is mounted under."""

    @property
    def rows(self) -> int:
        """Studies that can be found."""

    @property
    def tombstones(self) -> int:
        """Rows that are still stored and can no longer be found."""

    @property
    def fingerprint(self) -> str:
        """Of the encoder its vectors are from."""


def installed_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("cxr-precedent")
    except PackageNotFoundError:
        return "not installed"


class Metrics:
    """The counts of one application, in a registry of their own. Safe under threads."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter(
            "precedent_requests", "Requests answered.", ("route", "method", "status"), registry=own
        )
        self._request_seconds = Histogram(
            "precedent_request_seconds", "Request to answer.", ("route",), buckets=_SECONDS, registry=own
        )
        self._stages = Histogram(
            "precedent_stage_seconds", "Stage of an answer.", ("stage",), buckets=_SECONDS, registry=own
        )
        for name in STAGES:
            self._stages.labels(name)  # a stage that nothing has passed yet is there, at 0
        self.in_flight = Gauge("precedent_requests_in_flight", "Requests being answered.", registry=own)
        self.uploads = Gauge("precedent_uploads", "Uploaded studies on their way to a vector.", registry=own)
        self.queue = Gauge("precedent_queue_studies", "Studies that are read and wait for the encoder.", registry=own)
        self.batch = Histogram(
            "precedent_batch_studies", "Studies a batch of the encoder.", buckets=_STUDIES, registry=own
        )
        self._familiarity = Histogram(
            "precedent_query_familiarity_percentile",
            "Films asked about: share of the collection's own, in percent, that are no more familiar than they.",
            ("collection",),
            buckets=_PERCENTILES,
            registry=own,
        )
        self._remote = Counter(
            "precedent_remote_searches", "Searches of other hospitals that were answered.", ("token",), registry=own
        )
        self._sites = Counter(
            "precedent_site_answers", "What became of questions to other hospitals.", ("site", "state"), registry=own
        )
        self.ready = Gauge("precedent_ready", "1 where the last check of readiness passed, else 0.", registry=own)
        ProcessCollector(registry=own)

    def tell_of(self, collections: Callable[[], Iterable[Countable]]) -> None:
        """Report at each scrape the collections that are served then."""
        for collection in collections():
            self._familiarity.labels(collection.name)  # told before the first film comes
        self._registry.register(_Held(collections, installed_version()))

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer to a request whose route's rule, never its path, is given."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def asked_about(self, collection: str, percentile: float) -> None:
        """Record how familiar the films of a request are to a collection, 0 to 100."""
        self._familiarity.labels(collection).observe(percentile)

    def asked_by(self, token: str) -> None:
        """Count a search of another hospital by the name of its token."""
        self._remote.labels(token).inc()

    def site_answered(self, site: str, state: str) -> None:
        """Count what became of a question to another hospital."""
        self._sites.labels(site, state).inc()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one of STAGES, however it ends."""
        started = perf_counter()
        try:
            yield
        finally:
            self.took(name, perf_counter() - started)

    def took(self, name: str, seconds: float) -> None:
        """Record what one of STAGES took."""
        self._stages.labels(name).observe(seconds)

    def exposition(self) -> bytes:
        """Return everything in Prometheus's text format 0.0.4, UTF-8."""
        return generate_latest(self._registry)


def stage(name: str) -> AbstractContextManager[None]:
    """Return what times one of STAGES in the running application; outside of one nothing is timed."""
    timed: AbstractContextManager[None] = running.metrics.stage(name) if has_app_context() else nullcontext()
    return timed


class _Held(Collector):
    """What is served, looked up at each scrape, so that it is right after any swap."""

    def __init__(self, collections: Callable[[], Iterable[Countable]], version: str) -> None:
        self._collections, self._version = collections, version

    def collect(self) -> Iterable[Metric]:
        """Yield rows and tombstones a collection, and which encoder they are of."""
        rows = GaugeMetricFamily("precedent_rows", "Studies that can be found.", labels=("collection",))
        dead = GaugeMetricFamily(
            "precedent_tombstones", "Rows stored that can no longer be found.", labels=("collection",)
        )
        info = GaugeMetricFamily("precedent_encoder_info", "Always 1.", labels=("fingerprint", "version"))
        held = list(self._collections())
        for collection in held:
            with suppress(CollectionError):  # a collection that cannot be read is missing here, and nothing else is
                rows.add_metric((collection.name,), collection.rows)
                dead.add_metric((collection.name,), collection.tombstones)
        for fingerprint in sorted({collection.fingerprint for collection in held}):
            info.add_metric((fingerprint, self._version), 1)
        return rows, dead, info
