"""The filter grammar: which studies may be hits, as JSON or as the command line's words.

Knows the columns of a studies table; knows nothing of vectors or of the order of hits.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.errors import FilterError

Where = Mapping[str, Any]
"""`{"must": [...], "should": [...], "must_not": [...]}`; each condition is `{"key", "match"}`, `{"key", "range"}` or
again such a filter. All of `must`, at least one of `should` where it is given, and none of `must_not` hold. A null
matches only `{"match": {"value": null}}`."""

Mask = npt.NDArray[np.bool_]

_CLAUSES = ("must", "should", "must_not")
_BOUNDS: dict[str, Callable[[Any, Any], Any]] = {
    "gt": pc.greater, "gte": pc.greater_equal, "lt": pc.less, "lte": pc.less_equal,
}  # fmt: skip
_WORD = re.compile(r"^(?P<key>[^<>=!]+?)\s*(?P<sign>!=|<=|>=|=|<|>)\s*(?P<value>.*)$", re.DOTALL)
_SIGNS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
MAX_DEPTH = 8


def filter_mask(where: Where, studies: pa.Table) -> Mask:
    """Return which rows pass, (N,) bool.

    Raises:
        FilterError: an unknown column (the sentence lists those there are), a value of a wrong type, or bad grammar.
    """
    return _clauses(where, studies, depth=0)


def parse_where(words: Sequence[str], studies: pa.Schema) -> dict[str, Any]:
    """Return the filter that the command line's words mean, all of which must hold.

    A word is `column=value`, `!=`, `<`, `<=`, `>` or `>=`; the value takes the column's type, `null` means blank, and
    `a|b` after `=` or `!=` means either.
    """
    where: dict[str, list[dict[str, Any]]] = {}
    for word in words:
        found = _WORD.match(word)
        if found is None:
            raise FilterError(f"expected a filter like 'sex=Female' or 'age>=60', got {word!r}")
        key, sign, text = found["key"].strip(), found["sign"], found["value"].strip()
        field = _field(key, studies)
        if sign in _SIGNS:
            where.setdefault("must", []).append({"key": key, "range": {_SIGNS[sign]: _parse_value(text, field)}})
        else:
            values = [_parse_value(part, field) for part in text.split("|")]
            clause = "must" if sign == "=" else "must_not"
            where.setdefault(clause, []).append({"key": key, "match": {"any": values}})
    return where


def _parse_value(text: str, field: pa.Field) -> Any:
    if text == "null":
        return None
    if pa.types.is_string(field.type) or pa.types.is_list(field.type):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FilterError(f"expected a number for column {field.name!r}, got {text!r}") from error


def _clauses(where: Where, studies: pa.Table, depth: int) -> Mask:
    if not isinstance(where, Mapping) or not set(where) <= set(_CLAUSES):
        raise FilterError(f"expected a filter of must, should and must_not, got {_short(where)}")
    if depth > MAX_DEPTH:
        raise FilterError(f"expected a filter of at most {MAX_DEPTH} levels; flatten it")
    masks = {clause: _conditions(clause, where.get(clause, []), studies, depth) for clause in _CLAUSES}
    passing = reduce(operator.and_, masks["must"], np.ones(studies.num_rows, dtype=bool))
    if masks["should"]:
        passing = passing & reduce(operator.or_, masks["should"])
    return reduce(lambda kept, mask: kept & ~mask, masks["must_not"], passing)


def _conditions(clause: str, conditions: Any, studies: pa.Table, depth: int) -> list[Mask]:
    if isinstance(conditions, Mapping):
        conditions = [conditions]
    if not isinstance(conditions, list | tuple):
        raise FilterError(f"expected a list of conditions in {clause!r}, got {_short(conditions)}")
    return [_condition(condition, studies, depth) for condition in conditions]


def _condition(condition: Any, studies: pa.Table, depth: int) -> Mask:
    if isinstance(condition, Mapping) and "key" not in condition:
        return _clauses(condition, studies, depth + 1)
    match condition:
        case {"key": str(key), "match": {"value": value}, **rest} if not rest:
            return _match(key, [value], studies)
        case {"key": str(key), "match": {"any": [*values]}, **rest} if not rest:
            return _match(key, values, studies)
        case {"key": str(key), "range": Mapping() as bounds, **rest} if not rest and bounds:
            return _range(key, bounds, studies)
    raise FilterError(
        'expected a condition like {"key": "sex", "match": {"value": "Female"}}, {"key": ..., "match": {"any": [...]}} '
        f'or {{"key": "age", "range": {{"gte": 60}}}}, got {_short(condition)}'
    )


def _match(key: str, values: Sequence[Any], studies: pa.Table) -> Mask:
    field = _field(key, studies.schema)
    named = [_as_scalar(value, field) for value in values if value is not None]
    column = studies[key]
    if pa.types.is_list(field.type):
        return _list_match(column, named, None in values)
    mask = pc.is_in(column, pa.array(named, field.type)) if named else None
    passing = _as_mask(mask) if mask is not None else np.zeros(studies.num_rows, dtype=bool)
    return passing | _as_mask(pc.is_null(column)) if None in values else passing


def _list_match(column: pa.ChunkedArray, named: Sequence[Any], blank: bool) -> Mask:
    """Return the rows whose list holds one of the values; an empty list counts as blank."""
    wanted = set(named)
    rows = column.to_pylist()
    return np.fromiter((bool(wanted.intersection(row or ())) or (blank and not row) for row in rows), bool, len(rows))


def _range(key: str, bounds: Mapping[str, Any], studies: pa.Table) -> Mask:
    field = _field(key, studies.schema)
    if not set(bounds) <= set(_BOUNDS):
        raise FilterError(
            f"expected the bounds gt, gte, lt or lte for column {key!r}, got {', '.join(map(str, bounds))}"
        )
    if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
        raise FilterError(f"expected a column of numbers for a range, got {key!r} of type {field.type}")
    compared = [
        _as_mask(_BOUNDS[bound](pc.cast(studies[key], pa.float64()), _as_number(value, key)))
        for bound, value in bounds.items()
    ]
    return reduce(operator.and_, compared)


def _field(key: str, schema: pa.Schema) -> pa.Field:
    if key not in schema.names:
        raise FilterError(f"no column {key!r}; there are: {', '.join(schema.names)}")
    return schema.field(key)


def _as_scalar(value: Any, field: pa.Field) -> Any:
    if pa.types.is_string(field.type) or pa.types.is_list(field.type):
        if not isinstance(value, str) or not _is_unicode(value):
            raise FilterError(f"expected text for column {field.name!r}, got {_short(value)}")
        return value
    number = _as_number(value, field.name)
    if pa.types.is_floating(field.type):
        return number
    if not number.is_integer() or not -(2**63) <= number < 2**63:
        raise FilterError(f"expected a whole number for column {field.name!r}, got {_short(value)}")
    return _fitting(int(number), field)


def _fitting(number: int, field: pa.Field) -> int:
    try:
        return int(pa.scalar(number, field.type).as_py())
    except (pa.ArrowInvalid, OverflowError) as error:
        raise FilterError(f"{number} is out of range for column {field.name!r} of type {field.type}") from error


def _as_number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FilterError(f"expected a number for column {key!r}, got {_short(value)}")
    if isinstance(value, int) and abs(value) > 2**63:
        raise FilterError(f"expected a number within 64 bits for column {key!r}, got {_short(value)}")
    return float(value)


def _as_mask(mask: pa.ChunkedArray) -> Mask:
    return np.asarray(pc.fill_null(mask, False).to_numpy(), dtype=bool)


def _is_unicode(text: str) -> bool:
    """JSON may hold half of a surrogate pair, which is no character and in no table."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
