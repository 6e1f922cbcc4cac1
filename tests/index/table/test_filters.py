"""The filter grammar against plain Python over the rows."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from index.errors import FilterError
from index.table.filters import MAX_CHARACTERS, MAX_CONDITIONS, MAX_VALUES, filter_mask, parse_where, require_filter

Row = dict[str, Any]
CASES: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
    ({}, lambda row: True),
    ({"must": [{"key": "sex", "match": {"value": "Female"}}]}, lambda row: row["sex"] == "Female"),
    (
        {"must": [{"key": "age", "range": {"gte": 40, "lt": 60}}]},
        lambda row: row["age"] is not None and 40 <= row["age"] < 60,
    ),
    ({"must_not": [{"key": "age", "range": {"gt": 40}}]}, lambda row: row["age"] is None or row["age"] <= 40),
    ({"must": [{"key": "Edema", "match": {"value": -1}}]}, lambda row: row["Edema"] == -1),
    ({"must": [{"key": "Edema", "match": {"value": None}}]}, lambda row: row["Edema"] is None),
    ({"must": [{"key": "Edema", "match": {"any": [1, None]}}]}, lambda row: row["Edema"] in (1, None)),
    (
        {"should": [{"key": "Edema", "match": {"value": 1}}, {"key": "Fracture", "match": {"value": 1}}]},
        lambda row: row["Edema"] == 1 or row["Fracture"] == 1,
    ),
    (
        {
            "must": [{"key": "Etiology", "match": {"value": "virus"}}],
            "must_not": [{"key": "sex", "match": {"value": "Male"}}],
        },
        lambda row: row["Etiology"] == "virus" and row["sex"] != "Male",
    ),
    (
        {
            "must": [
                {
                    "should": [
                        {"key": "projection", "match": {"value": "AP"}},
                        {"key": "projection", "match": {"value": None}},
                    ]
                }
            ]
        },
        lambda row: row["projection"] in ("AP", None),
    ),
]


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


FEMALE = {"key": "sex", "match": {"value": "Female"}}


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({"must": [FEMALE] * (MAX_CONDITIONS + 1)}, "at most 64 conditions"),
        ({"should": [{}] * (MAX_CONDITIONS + 1)}, "at most 64 conditions"),
        ({"must": [{"must": [FEMALE] * 32}, {"must_not": [FEMALE] * 31}]}, "at most 64 conditions"),
        ({"must": [{"key": "age", "match": {"any": [1] * (MAX_VALUES + 1)}}]}, "at most 10,000 values"),
        ({"must": [{"key": "Edema", "match": {"any": [1] * (MAX_VALUES // 2 + 1)}}] * 2}, "at most 10,000 values"),
        (
            {"must_not": [{"key": "sex", "match": {"value": "x" * (MAX_CHARACTERS + 1)}}]},
            "at most 1,000,000 characters",
        ),
    ],
)
def test_a_filter_beyond_its_bounds_is_refused_by_the_bound(
    where: dict[str, Any], sentence: str, studies: pa.Table
) -> None:
    with pytest.raises(FilterError, match=sentence):
        filter_mask(where, studies)


def test_a_filter_at_its_bounds_passes_what_it_means(studies: pa.Table) -> None:
    ids = studies["study_id"].to_pylist()[:50] + [f"nobody{number}" for number in range(MAX_VALUES - 50)]
    where = {"must": [{"key": "study_id", "match": {"any": ids}}], "should": [{}] * (MAX_CONDITIONS - 1)}

    assert filter_mask(where, studies).tolist() == [row < 50 for row in range(200)]


def test_the_masks_of_many_conditions_are_never_held_together() -> None:
    rows = 200_000
    table = pa.table({"Edema": pa.array([1] * rows, pa.int8())})
    tracemalloc.start()
    filter_mask({"must": [{"key": "Edema", "match": {"value": 1}}] * MAX_CONDITIONS}, table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 8 * rows  # 64 masks are 64 * rows


@pytest.mark.parametrize("wanted", [["a"], ["b", None], [None], [], ["z"]])
def test_a_list_passes_as_plain_python_says_however_the_table_is_cut(wanted: list[str | None]) -> None:
    lists = [["a"], [], None, ["b", "a"], ["c"], [None], None, ["b"]]
    column = pa.chunked_array([pa.array(lists[:3], pa.list_(pa.string())), pa.array(lists[3:], pa.list_(pa.string()))])
    hidden = pa.ListArray.from_arrays([0, 1, 2], pa.array(["b", "a"]), mask=pa.array([True, False]))  # a null of "b"
    table = pa.table({"views": pa.chunked_array([*column.chunks, hidden])}).slice(1)

    passing = filter_mask({"must": [{"key": "views", "match": {"any": wanted}}]}, table)

    named = {one for one in wanted if one is not None}
    rows = [*lists, None, ["a"]][1:]
    assert passing.tolist() == [bool(named & set(row or ())) or (None in wanted and not row) for row in rows]


def test_whole_numbers_of_64_bits_are_told_apart_and_compared() -> None:
    table = pa.table({"accession": [2**53, 2**53 + 1, None, 2**62 + 1]})

    assert filter_mask({"must": [{"key": "accession", "match": {"value": 2**53 + 1}}]}, table).tolist() == [
        False,
        True,
        False,
        False,
    ]
    assert filter_mask({"must": [{"key": "accession", "range": {"gt": 2**60}}]}, table).tolist() == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "column", [pa.array([True]), pa.array([[1.0]]), pa.array([[1.0]], pa.list_(pa.float32(), 1)), pa.array([b"x"])]
)
def test_a_column_that_no_filter_can_compare_is_refused(column: pa.Array) -> None:
    for condition in ({"match": {"value": 1}}, {"match": {"value": None}}, {"range": {"gt": 0}}):
        with pytest.raises(FilterError, match="a column of texts, numbers or lists of texts"):
            filter_mask({"must": [{"key": "other", **condition}]}, pa.table({"other": column}))


def test_a_column_that_may_not_be_named_is_refused_as_one_that_is_not_there(studies: pa.Table) -> None:
    nested = {"must_not": [{"should": [{"key": "frontal_path", "match": {"value": None}}]}]}
    filter_mask(nested, studies)

    with pytest.raises(FilterError, match=r"^no column 'frontal_path'; there are: sex, age$"):
        require_filter(nested, studies.schema, ["age", "sex"])


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000])
def test_a_number_without_end_on_the_command_line_is_refused_in_one_sentence(text: str, studies: pa.Table) -> None:
    with pytest.raises(FilterError, match="expected a number for column 'age', got") as refusal:
        parse_where([f"age={text}"], studies.schema)
    assert len(str(refusal.value)) < 200
