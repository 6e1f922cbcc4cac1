"""What `precedent follow` counts, for Prometheus: what waits, what became of films, what the PACS answers.

No label holds anything that a film or a sender said.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, start_http_server
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scripts.pacs.inbox import Inbox
from scripts.pacs.outbox import Outbox


class FollowMetrics:
    """The counts of one process, in a registry of their own. Safe under threads."""

    def __init__(self, inbox: Inbox, outbox: Outbox | None = None) -> None:
        self.registry = own = CollectorRegistry()
        self._answers = Counter("precedent_pacs_answers", "Answers of the PACS to us.", ("status",), registry=own)
        self._sent = Counter(
            "precedent_pacs_sent", "Films and associations that came to us.", ("result",), registry=own
        )
        self._studies = Counter("precedent_follow_studies", "Studies brought in and out.", ("change",), registry=own)
        self._results = Counter("precedent_follow_results", "Results sent to the PACS.", ("result",), registry=own)
        for change in ("added", "deleted"):
            self._studies.labels(change)
        ProcessCollector(registry=own)
        own.register(_Waiting(inbox, outbox))

    def answered(self, status: str) -> None:
        """Count an answer of the PACS: its HTTP status, or why there was none."""
        self._answers.labels(status).inc()

    def sent(self, result: str) -> None:
        """Count what was sent to us, by a word of `scripts.pacs.listener`."""
        self._sent.labels(result).inc()

    def returned(self, result: str) -> None:
        """Count a result that was sent, by a word of `scripts.pacs.sending`."""
        self._results.labels(result).inc()

    def brought(self, added: int, deleted: int) -> None:
        """Count studies of the collection."""
        self._studies.labels("added").inc(added)
        self._studies.labels("deleted").inc(deleted)

    def serve(self, host: str, port: int) -> int:
        """Answer /metrics there, until the process ends; return the port. Raises OSError: it is taken."""
        server, _ = start_http_server(port, host, self.registry)
        return int(server.server_port)


class _Waiting(Collector):
    """What inbox and outbox hold, looked up at each scrape."""

    def __init__(self, inbox: Inbox, outbox: Outbox | None) -> None:
        self._inbox, self._outbox = inbox, outbox

    def collect(self) -> Iterable[Metric]:
        """Yield films by fate, studies and results that wait, and for how long the first of them have."""
        counts = self._inbox.counts()
        films = GaugeMetricFamily("precedent_follow_films", "Films known, by fate.", labels=("fate",))
        for fate, count in counts["films"].items():
            films.add_metric((fate,), count)
        yield films
        for name, sentence, key in (
            ("precedent_follow_waiting_studies", "Studies that wait.", "studies_waiting"),
            ("precedent_follow_oldest_seconds", "Since the first film that waits has come.", "oldest_seconds"),
            ("precedent_follow_tries", "Of the study that was tried most.", "most_tries"),
        ):
            yield GaugeMetricFamily(name, sentence, counts[key])
        results = {"studies_waiting": 0, "oldest_seconds": 0.0} if self._outbox is None else self._outbox.counts()
        for name, sentence, key in (
            ("precedent_follow_results_waiting", "Studies whose results wait to be sent.", "studies_waiting"),
            ("precedent_follow_results_oldest_seconds", "Since the first of them was added.", "oldest_seconds"),
        ):
            yield GaugeMetricFamily(name, sentence, results[key])
