"""Queries that are kept: for an hour, of one owner, and never more bytes than there is room for."""

import time

import pytest

from service.errors import QueryGone
from service.limits import Limits
from service.served.queries import LIFETIME, KeptQuery, Queries

MEGABYTE = 1 << 20


def of(owner: str, film: bytes = b"") -> KeptQuery:
    """Return a query of an owner."""
    return KeptQuery("main", film, owner=owner)


def held(queries: Queries, *asked: KeptQuery) -> list[bool]:
    """Return which of some queries are still there, without making them any younger."""
    return [one.id in queries._kept for one in asked]


def test_who_floods_the_service_loses_only_what_is_their_own() -> None:
    queries = Queries(Limits(queries=8, query_bytes=4 * MEGABYTE, all_query_bytes=6 * MEGABYTE))
    mine = [queries.keep(of("alice", bytes(MEGABYTE // 2))) for _ in range(2)]
    flood = [queries.keep(of("mallory", bytes(MEGABYTE))) for _ in range(100)]

    assert held(queries, *mine) == [True, True]
    assert held(queries, *flood) == [False] * 97 + [True] * 3
    assert queries.size <= 6 * MEGABYTE
    small = [queries.keep(of("mallory")) for _ in range(100)]
    assert held(queries, *mine, *small).count(True) == 2 + 8


def test_where_all_is_full_a_newcomer_takes_from_who_keeps_most() -> None:
    queries = Queries(Limits(query_bytes=4 * MEGABYTE, all_query_bytes=4 * MEGABYTE + 100_000))
    most = [queries.keep(of("mallory", bytes(MEGABYTE))) for _ in range(3)]
    least = queries.keep(of("alice", bytes(MEGABYTE)))
    new = queries.keep(of("bob", bytes(MEGABYTE)))

    assert held(queries, *most, least, new) == [False, True, True, True, True]


def test_the_query_that_was_not_asked_about_for_longest_goes_first() -> None:
    queries = Queries(Limits(queries=2))
    first, second = queries.keep(of("alice")), queries.keep(of("alice"))
    queries.get("alice", first.id)
    queries.keep(of("alice"))

    assert held(queries, first, second) == [True, False]


def test_a_query_is_forgotten_an_hour_after_it_was_asked_about_last() -> None:
    at = 0.0
    queries = Queries(clock=lambda: at)
    query = queries.keep(of("alice"))
    at = LIFETIME - 1
    assert queries.get("alice", query.id) is query
    at = 2 * LIFETIME - 2
    assert queries.get("alice", query.id) is query
    at += LIFETIME

    with pytest.raises(QueryGone, match="send the films again"):
        queries.get("alice", query.id)
    assert len(queries) == 0


def test_films_leave_the_memory_though_nobody_asks_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.served.queries.LIFETIME", 0.0)
    queries = Queries()
    queries.keep(of("alice", b"film"))
    end = time.monotonic() + 60

    while len(queries) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(queries) == 0


def test_a_query_is_its_owners_alone() -> None:
    queries = Queries()
    query = queries.keep(of("alice"))

    for owner in ("bob", ""):
        with pytest.raises(QueryGone):
            queries.get(owner, query.id)
    assert len(query.id) == 32
    assert "secret" not in repr(KeptQuery("main", b"secret", owner="alice", patient_id="secret"))
