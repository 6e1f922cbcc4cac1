"""What the importers share: typed columns, ages, notices and ids."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.importing.source import Notices, as_typed, plain_id, years
from index.table.studies import id_fault


@pytest.mark.parametrize(
    ("texts", "values", "kind"),
    [
        (["1", "", "-20"], [1, None, -20], pa.int64()),
        (["1", "2.5"], [1.0, 2.5], pa.float64()),
        (["007", "1"], ["007", "1"], pa.string()),
        (["1" * 19, "1"], [1.1111111111111112e18, 1.0], pa.float64()),
        (["nan", "1"], ["nan", "1"], pa.string()),
        (["", ""], [None, None], pa.string()),
    ],
)
def test_a_column_is_a_number_only_if_all_of_it_is(texts: list[str], values: list[object], kind: pa.DataType) -> None:
    column = as_typed(pa.array(texts, pa.string()))

    assert column.type == kind
    assert column.to_pylist() == values


@pytest.mark.parametrize(
    ("text", "age"),
    [("62", 62.0), ("058Y", 58.0), ("018M", 1.5), ("120", 120.0), ("121", None), ("-1", None), ("", None)],
)
def test_ages_are_years(text: str, age: float | None) -> None:
    assert years(text) == age


def test_a_notice_says_how_many_and_where() -> None:
    notices = Notices()
    notices.add("age", "ages that are none", iter("abcd"))
    notices.add("age", "nothing of the kind", [])

    assert [str(notice) for notice in notices.met] == ["ages that are none: 4 (a, b, c, ...)"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("patient 007/study", "patient 007/study"),
        ("患者7", "患者7"),
        ("/a", "%2Fa"),
        ("a/", "a%2F"),
        ("a//b", "a%2F%2Fb"),
        ("../a/.", "%2E%2E/a/%2E"),
        ("a.b...", "a.b..."),
        ("a\nb\x1b", "a%0Ab%1B"),
        ("\u202ea", "%E2%80%AEa"),
        ("100%", "100%"),
        (" a ", "%20a%20"),
        ("~/a~", "%7E/a~"),
        ("%2Fa", "%252Fa"),
    ],
)
def test_an_id_is_written_so_that_it_prints_and_is_an_address(written: str, told: str) -> None:
    assert plain_id(written) == told


@given(st.sets(st.text("/.%2F~ \n\x1ba", max_size=6), min_size=2))
def test_ids_that_differ_are_written_differently(ids: set[str]) -> None:
    told = {plain_id(one) for one in ids if one}

    assert len(told) == len(ids - {""})
    assert all(id_fault(f"{one}/study", "study_id") == "" for one in told)
