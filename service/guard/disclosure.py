"""How exactly a token of the scope `read` sees how similar studies are, and for how many queries a day.

Similarities of one study to enough others tell its vector, which identifies its patient. So what such a token sees is
rounded, and its queries are counted; the scope `vectors` opens the exact values, as does a service without tokens.
"""

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flask import has_request_context
from werkzeug.exceptions import Forbidden, TooManyRequests

from index.search.answer import Answer
from service.context import call, running

READ_HITS = 100
"""Largest `k` of a token that holds `read` without `vectors`."""
SIMILARITY_DECIMALS = 2
MAP_DECIMALS = 3
"""Of a place on the map: a thousand steps across, which a screen tells apart."""
DAY = 86_400.0

_DECIMALS = {
    "similarity": SIMILARITY_DECIMALS,
    "probability": 2,
    "spread": 2,
    "share": 2,
    "chance": 2,
    "auroc": 2,
    "low": 2,
    "high": 2,
    "effective": 1,
    "value": 2,
    "deletion": 2,
    "insertion": 2,
    "random_deletion": 2,
    "random_insertion": 2,
    "percentile": 1,
}
"""As many as the page shows."""
_OF_STUDIES = ("extra", "findings", "study")
"""What is known of a study is no answer of ours, and is not rounded."""


class Budget:
    """So many different queries of each name within any day. Safe under threads; it begins anew with the process."""

    def __init__(self, a_day: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Let each name ask about `a_day` different studies or films; to ask again about one costs nothing."""
        self._a_day, self._clock = a_day, clock
        self._asked: dict[str, OrderedDict[bytes, float]] = {}
        self._lock = threading.Lock()

    def wait(self, name: str, query: bytes) -> float:
        """Return 0 where `name` may ask this now, which is counted, else the seconds until it may."""
        with self._lock:
            at, asked = self._clock(), self._asked.setdefault(name, OrderedDict())
            while asked and at - next(iter(asked.values())) >= DAY:
                asked.popitem(last=False)
            if query not in asked:
                if len(asked) >= self._a_day:
                    return next(iter(asked.values()), at) + DAY - at
                asked[query] = at
            return 0.0

    def asked(self, name: str) -> int:
        """Return how many different queries `name` has made within the last day."""
        with self._lock:
            at = self._clock()
            return sum(at - then < DAY for then in self._asked.get(name, {}).values())


def exact() -> bool:
    """Return whether the running request may see exact similarities; outside of a request there is none to hide."""
    return not has_request_context() or call.exact


def count(*query: str | bytes | None) -> None:
    """Count a query among those of the running request's token today. Raises TooManyRequests.

    Args:
        query: what names it: a collection and a study, or the bytes of its films.
    """
    if exact():
        return
    budget: Budget = running.budget
    seconds = budget.wait(call.principal or "", _named(query))
    if seconds:
        raise TooManyRequests(
            "this token has asked about as many different studies and films as it may within a day; try again later, "
            "or use a token with the scope 'vectors' too, which has no such limit",
            retry_after=math.ceil(seconds),
        )


def _named(query: tuple[str | bytes | None, ...]) -> bytes:
    whole = hashlib.blake2b(digest_size=16)
    for part in query:
        text = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part or b""
        whole.update(hashlib.blake2b(text).digest())
    return whole.digest()


def require_hits(k: int) -> None:
    """Refuse more hits than the running request's token may have at once. Raises Forbidden."""
    if k > READ_HITS and not exact():
        raise Forbidden(
            f"expected k of at most {READ_HITS} with this token, got {k}; a token with the scope 'vectors' too "
            "may ask for more"
        )


def floor_of(min_similarity: float | None) -> float | None:
    """Return the cosine from which on a hit may reach `min_similarity` as it is shown."""
    if min_similarity is None or exact():
        return min_similarity
    return min_similarity - 10.0**-SIMILARITY_DECIMALS


def disclosed(answer: Answer, min_similarity: float | None = None) -> Answer:
    """Return an answer as the running request may see it; a bound on similarities means them as they are shown."""
    if exact():
        return answer
    hits = [replace(hit, similarity=round(hit.similarity, SIMILARITY_DECIMALS)) for hit in answer.hits]
    return replace(answer, hits=[hit for hit in hits if min_similarity is None or hit.similarity >= min_similarity])


def rounded(answer: Any) -> Any:
    """Return an answer as JSON holds it, its figures rounded where the running request may not see more."""
    return answer if exact() else _rounded(answer)


def _rounded(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: inner if key in _OF_STUDIES else _rounded(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner, name) for inner in value]
    return round(value, _DECIMALS[name]) if isinstance(value, float) and name in _DECIMALS else value


def coordinate(value: float) -> float:
    """Return a coordinate of the map as the running request may see it."""
    return value if exact() else round(value, MAP_DECIMALS)
