"""The filter grammar against plain Python over the rows."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from index.errors import FilterError
from index.filters import filter_mask, parse_where

Row = dict[str, Any]
CASES: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
    ({}, lambda row: True),
    ({"must": [{"key": "sex", "match": {"value": "Female"}}]}, lambda row: row["sex"] == "Female"),
    ({"must": [{"key": "age", "range": {"gte": 40, "lt": 60}}]}, lambda row: row["age"] is not None and 40 <= row["age"] < 60),
    ({"must_not": [{"key": "age", "range": {"gt": 40}}]}, lambda row: row["age"] is None or row["age"] <= 40),
    ({"must": [{"key": "Edema", "match": {"value": -1}}]}, lambda row: row["Edema"] == -1),
    ({"must": [{"key": "Edema", "match": {"value": None}}]}, lambda row: row["Edema"] is None),
    ({"must": [{"key": "Edema", "match": {"any": [1, None]}}]}, lambda row: row["Edema"] in (1, None)),
    ({"should": [{"key": "Edema", "match": {"value": 1}}, {"key": "Fracture", "match": {"value": 1}}]},
     lambda row: row["Edema"] == 1 or row["Fracture"] == 1),
    ({"must": [{"key": "Etiology", "match": {"value": "virus"}}], "must_not": [{"key": "sex", "match": {"value": "Male"}}]},
     lambda row: row["Etiology"] == "virus" and row["sex"] != "Male"),
    ({"must": [{"should": [{"key": "projection", "match": {"value": "AP"}}, {"key": "projection", "match": {"value": None}}]}]},
     lambda row: row["projection"] in ("AP", None)),
]  # fmt: skip


@pytest.mark.parametrize(("where", "passes"), CASES)
def test_a_filter_passes_the_rows_that_plain_python_passes(
    where: dict[str, Any], passes: Callable[[Row], bool], studies: pa.Table
) -> None:
    assert filter_mask(where, studies).tolist() == [passes(row) for row in studies.to_pylist()]


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        (["sex=Female", "age>=60"], lambda row: row["sex"] == "Female" and (row["age"] or 0) >= 60),
        (["Pneumonia=1"], lambda row: row["Pneumonia"] == 1),
        (["Pneumonia=null"], lambda row: row["Pneumonia"] is None),
        (
            ["Pneumonia=-1|1", "Etiology!=virus"],
            lambda row: row["Pneumonia"] in (1, -1) and row["Etiology"] != "virus",
        ),
        (
            ["No Finding = 0", "age<5"],
            lambda row: row["No Finding"] == 0 and row["age"] is not None and row["age"] < 5,
        ),
    ],
)
def test_the_command_lines_words_mean_what_they_say(
    words: list[str], passes: Callable[[Row], bool], studies: pa.Table
) -> None:
    where = parse_where(words, studies.schema)
    assert filter_mask(where, studies).tolist() == [bool(passes(row)) for row in studies.to_pylist()]


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (
            {"must": [{"key": "smoker", "match": {"value": 1}}]},
            "no column 'smoker'; there are: study_id, .*Etiology",
        ),
        ({"must": [{"key": "age", "match": {"value": "old"}}]}, "expected a number for column 'age'"),
        ({"must": [{"key": "sex", "match": {"value": 3}}]}, "expected text for column 'sex'"),
        ({"must": [{"key": "Edema", "match": {"value": 1.5}}]}, "whole number"),
        ({"must": [{"key": "Edema", "match": {"value": 1e300}}]}, "whole number"),
        ({"must": [{"key": "Edema", "match": {"value": 900}}]}, "out of range"),
        ({"must": [{"key": "Edema", "match": {"value": True}}]}, "expected a number"),
        ({"must": [{"key": "sex", "range": {"gt": 1}}]}, "column of numbers"),
        ({"must": [{"key": "age", "range": {"above": 1}}]}, "gt, gte, lt or lte"),
        ({"must": [{"key": "age", "range": {"gt": "x"}}]}, "expected a number"),
        ({"must": [{"key": "age"}]}, "expected a condition like"),
        ({"must": "age"}, "list of conditions"),
        ({"must": [{"key": "age", "range": {"gt": 10**400}}]}, "64 bits"),
        ({"most": []}, "must, should and must_not"),
    ],
)
def test_a_wrong_filter_is_refused_by_what_is_wrong(where: dict[str, Any], sentence: str, studies: pa.Table) -> None:
    with pytest.raises(FilterError, match=sentence):
        filter_mask(where, studies)


@pytest.mark.parametrize("word", ["sex", "age>=sixty", "smoker=1", ">=3"])
def test_a_wrong_word_is_refused(word: str, studies: pa.Table) -> None:
    with pytest.raises(FilterError):
        parse_where([word], studies.schema)


def test_a_filter_nested_without_end_is_refused(studies: pa.Table) -> None:
    where: dict[str, Any] = {"must": [{"key": "sex", "match": {"value": "Male"}}]}
    for _ in range(20):
        where = {"must": [where]}
    with pytest.raises(FilterError, match="flatten"):
        filter_mask(where, studies)
