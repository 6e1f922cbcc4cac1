"""How much an approximate search looks at: lists for a size, probes for a filter, a shortlist for k."""

from itertools import pairwise

import pytest

from index.built.effort import EFFORTS, Effort, lists_of


@pytest.mark.parametrize(
    ("rows", "lists"), [(1, 1), (900, 1), (60_000, 64), (224_000, 256), (1_000_000, 1024), (10_000_000, 4096)]
)
def test_there_is_about_a_list_for_each_thousand_rows(rows: int, lists: int) -> None:
    assert lists_of(rows) == lists


def test_a_plain_search_reads_the_least_and_never_more_lists_than_there_are() -> None:
    assert Effort().probes_for(10, 224_000, 256, filtered=False) == 32
    assert Effort().probes_for(10, 8_000, 8, filtered=False) == 8


def test_a_filter_and_a_larger_k_each_read_more_lists() -> None:
    assert Effort().probes_for(10, 112_000, 256, filtered=True) == 48
    assert Effort().probes_for(26, 22_400, 256, filtered=True) == 59
    assert Effort().probes_for(100, 224_000, 256, filtered=False) == 32
    assert Effort().probes_for(1000, 224_000, 256, filtered=False) == 228


def test_a_shortlist_holds_five_rows_a_hit_and_a_beam_grows_with_a_filter() -> None:
    assert [Effort().shortlist_for(hits) for hits in (1, 10, 100)] == [128, 128, 500]
    assert [Effort().beam_for(10, filtered) for filtered in (False, True)] == [128, 512]
    assert Effort().beam_for(1000, filtered=False) == 2000


def test_each_effort_looks_at_more_than_the_one_before() -> None:
    for less, more in pairwise(EFFORTS):
        assert more.probes > less.probes
        assert more.shortlist > less.shortlist
