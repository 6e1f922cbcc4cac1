"""Texts and conditions as expressions of Milvus, read by its own parser; what they pass is compared elsewhere."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import FilterError
from index.milvus.columns import Fields
from index.milvus.filters import ALL, NONE, as_expression, literal

parser = pytest.importorskip("milvus_lite.search.filter.parser", reason="needs the extra milvus")
COLUMNS = Fields(pa.schema([("study_id", pa.string()), ("No Finding", pa.int8()), ("dose", pa.float32())]))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=2_000)
@given(text=st.one_of(TEXTS, st.text(st.sampled_from("\"'\\\n\r\t%_nrtx{}[]")), st.just('" or study_id != "')))
def test_any_text_is_read_as_that_text(text: str) -> None:
    assert parser.parse_expr(f"a == {literal(text)}").right.value == text


@settings(max_examples=500)
@given(number=st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63) + 1, 2**63 - 1)))
def test_any_number_is_read_as_that_number(number: float) -> None:
    assert parser.parse_expr(f"a == {literal(number)}").right.value == number


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        ({}, ALL),
        ({"must": [{"key": "No Finding", "match": {"any": []}}]}, NONE),
        ({"must": [{"key": "No Finding", "range": {"gte": -128}}]}, "c1_No_Finding is not null"),
        (
            {"must": [{"key": "No Finding", "range": {"gt": 0.5, "lt": 1.5}}]},
            "(c1_No_Finding >= 1) and (c1_No_Finding <= 1)",
        ),
        ({"must": [{"key": "No Finding", "range": {"gt": 127}}]}, NONE),
        (
            {"must_not": [{"key": "No Finding", "match": {"value": 1}}]},
            "(c1_No_Finding not in [1]) or (c1_No_Finding is null)",
        ),
        ({"must": [{"key": "dose", "match": {"value": 0.1}}]}, "c2_dose in [0.10000000149011612]"),
        ({"must": [{"key": "dose", "range": {"lt": float("inf")}}]}, "c2_dose is not null"),
        ({"must_not": [{"key": "dose", "range": {"lt": float("nan")}}]}, ALL),
    ],
)
def test_a_condition_says_what_becomes_of_a_null(where: dict[str, object], expression: str) -> None:
    assert as_expression(where, COLUMNS) == expression


def test_what_is_no_filter_of_the_columns_is_refused_before_it_is_translated() -> None:
    with pytest.raises(FilterError, match="no column 'c1_No_Finding'; there are: study_id, No Finding, dose"):
        as_expression({"must": [{"key": "c1_No_Finding", "match": {"value": 1}}]}, COLUMNS)
