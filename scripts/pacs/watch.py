"""What `precedent follow` counts, for Prometheus: what waits, what became of films, what the PACS answers.

No label holds anything that a film or a sender said.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, start_http_server
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scripts.pacs.inbox import Inbox


class FollowMetrics:
    """The counts of one process, in a registry of their own. Safe under threads."""

    def __init__(self, inbox: Inbox) -> None:
        self.registry = own = CollectorRegistry()
        self._answers = Counter("precedent_pacs_answers", "Answers of the PACS to us.", ("status",), registry=own)
        self._sent = Counter(
            "precedent_pacs_sent", "Films and associations that came to us.", ("result",), registry=own
        )
        self._studies = Counter("precedent_follow_studies", "Studies brought in and out.", ("change",), registry=own)
        for change in ("added", "deleted"):
            self._studies.labels(change)
        ProcessCollector(registry=own)
        own.register(_Waiting(inbox))

    def answered(self, status: str) -> None:
        """Count an answer of the PACS: its HTTP status, or why there was none."""
        self._answers.labels(status).inc()

    def sent(self, result: str) -> None:
        """Count what was sent to us, by a word of `scripts.pacs.listener`."""
        self._sent.labels(result).inc()

    def brought(self, added: int, deleted: int) -> None:
        """Count studies of the collection."""
        self._studies.labels("added").inc(added)
        self._studies.labels("deleted").inc(deleted)

    def serve(self, host: str, port: int) -> int:
        """Answer /metrics there, until the process ends; return the port. Raises OSError: it is taken."""
        server, _ = start_http_server(port, host, self.registry)
        return int(server.server_port)


class _Waiting(Collector):
    """What the inbox holds, looked up at each scrape."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def collect(self) -> Iterable[Metric]:
        """Yield films by fate, studies that wait, and for how long the first of them has."""
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
