"""The filter grammar: which studies may be hits, as JSON or as the command line's words."""

import json
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import reduce
from reprlib import Repr
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.errors import FilterError
from index.vectors import Mask

Where = Mapping[str, Any]
"""`{"must": [...], "should": [...], "must_not": [...]}`; each condition is `{"key", "match"}`, `{"key", "range"}` or
again such a filter. All of `must`, at least one of `should` where it is given, and none of `must_not` hold. A null
matches only `{"match": {"value": null}}`."""


_CLAUSES = ("must", "should", "must_not")
_BOUNDS: dict[str, Callable[[Any, Any], Any]] = {
    "gt": pc.greater,
    "gte": pc.greater_equal,
    "lt": pc.less,
    "lte": pc.less_equal,
}
_WORD = re.compile(r"^(?P<key>[^<>=!]+)(?P<sign>!=|<=|>=|=|<|>)(?P<value>.*)$", re.DOTALL)
_SIGNS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
MAX_DEPTH = 8
MAX_CONDITIONS = 64
"""Of a whole filter, filters within it counted: each looks at every row, 64 of them at 224,000 rows in 0.2 s."""
MAX_VALUES = 10_000
"""To match, of a whole filter: a list of studies by their ids."""
MAX_CHARACTERS = 1_000_000
"""Of all texts to match, of a whole filter."""
_SHOWN = Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 60


def filter_mask(where: Where, studies: pa.Table) -> Mask:
    """Return which rows pass, (N,) bool.

    Raises:
        FilterError: an unknown column (the sentence lists those there are), a value of a wrong type, bad grammar, or
            more than MAX_DEPTH, MAX_CONDITIONS, MAX_VALUES or MAX_CHARACTERS allow.
    """
    return _Evaluation(studies).clauses(where)


def require_filter(where: Where, schema: pa.Schema, columns: Collection[str] | None = None) -> None:
    """Refuse what is not a filter over a schema's columns, or some of them, before any row is looked at.

    Raises:
        FilterError: as `filter_mask`; to its sentences the schema's other columns are not there.
    """
    if columns is not None:
        schema = pa.schema([column for column in schema if column.name in columns])
    filter_mask(where, schema.empty_table())


def parse_where(words: Sequence[str], studies: pa.Schema) -> dict[str, Any]:
    """Return the filter that the command line's words mean, all of which must hold.

    A word is `column=value`, `!=`, `<`, `<=`, `>` or `>=`; the value takes the column's type, `null` means blank, and
    `a|b` after `=` or `!=` means either.
    """
    where: dict[str, list[dict[str, Any]]] = {}
    for word in words:
        match = _WORD.match(word)
        if match is None:
            raise FilterError(f"expected a filter like 'sex=Female' or 'age>=60', got {word!r}")
        key, sign, text = match["key"].strip(), match["sign"], match["value"].strip()
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
    except (ValueError, RecursionError) as error:
        raise FilterError(f"expected a number for column {field.name!r}, got {_short(text)}") from error


class _Evaluation:
    """One filter over the rows of a table; what it asks for is counted before it is done."""

    def __init__(self, studies: pa.Table) -> None:
        self._studies = studies
        self._conditions = self._values = self._characters = 0

    def clauses(self, where: Where, depth: int = 0) -> Mask:
        """Return which rows pass; masks are folded as they come, two a level are held."""
        if not isinstance(where, Mapping) or not set(where) <= set(_CLAUSES):
            raise FilterError(f"expected a filter of must, should and must_not, got {_short(where)}")
        if depth > MAX_DEPTH:
            raise FilterError(f"expected a filter of at most {MAX_DEPTH} levels; flatten it")
        must, should, must_not = (_listed(clause, where.get(clause, [])) for clause in _CLAUSES)
        passing = reduce(operator.iand, self._masks(must, depth), np.ones(self._studies.num_rows, dtype=bool))
        if should:
            passing &= reduce(operator.ior, self._masks(should, depth), np.zeros_like(passing))
        for mask in self._masks(must_not, depth):
            passing &= ~mask
        return passing

    def _masks(self, conditions: Sequence[Any], depth: int) -> Iterator[Mask]:
        for condition in conditions:
            self._conditions += 1
            if self._conditions > MAX_CONDITIONS:
                raise FilterError(
                    f"expected a filter of at most {MAX_CONDITIONS} conditions, got more; match several values of a "
                    'column by one: {"key": ..., "match": {"any": [...]}}'
                )
            yield self._condition(condition, depth)

    def _condition(self, condition: Any, depth: int) -> Mask:
        if isinstance(condition, Mapping) and "key" not in condition:
            return self.clauses(condition, depth + 1)
        match condition:
            case {"key": str(key), "match": {"value": value}, **rest} if not rest:
                return self._match(key, [value])
            case {"key": str(key), "match": {"any": list(values) | tuple(values)}, **rest} if not rest:
                return self._match(key, values)
            case {"key": str(key), "range": Mapping() as bounds, **rest} if not rest and bounds:
                return self._range(key, bounds)
        raise FilterError(
            'expected a condition like {"key": "sex", "match": {"value": "Female"}}, '
            '{"key": ..., "match": {"any": [...]}} or {"key": "age", "range": {"gte": 60}}, '
            f"got {_short(condition)}"
        )

    def _match(self, key: str, values: Sequence[Any]) -> Mask:
        field = _field(key, self._studies.schema)
        self._count(values)
        named = [_as_scalar(value, field) for value in values if value is not None]
        column = self._studies[key]
        if pa.types.is_list(field.type):
            return _list_match(column, named, None in values)
        passing = _as_mask(pc.is_in(column, pa.array(named, field.type)))
        return passing | _as_mask(pc.is_null(column)) if None in values else passing

    def _count(self, values: Sequence[Any]) -> None:
        self._values += len(values)
        if self._values > MAX_VALUES:
            raise FilterError(
                f"expected a filter of at most {MAX_VALUES:,} values to match, got more; search in several parts"
            )
        self._characters += sum(len(value) for value in values if isinstance(value, str))
        if self._characters > MAX_CHARACTERS:
            raise FilterError(f"expected a filter of at most {MAX_CHARACTERS:,} characters to match, got more")

    def _range(self, key: str, bounds: Mapping[str, Any]) -> Mask:
        field = _field(key, self._studies.schema)
        if not set(bounds) <= set(_BOUNDS):
            raise FilterError(f"expected the bounds gt, gte, lt or lte for column {key!r}, got {_short(list(bounds))}")
        if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
            raise FilterError(f"expected a column of numbers for a range, got {key!r} of type {field.type}")
        numbers = {bound: float(_as_number(value, key)) for bound, value in bounds.items()}
        column = pc.cast(self._studies[key], pa.float64(), safe=False)  # whole numbers beyond 2^53 to the nearest
        return reduce(operator.iand, (_as_mask(_BOUNDS[bound](column, number)) for bound, number in numbers.items()))


def _listed(clause: str, conditions: Any) -> Sequence[Any]:
    if isinstance(conditions, Mapping):
        return [conditions]
    if not isinstance(conditions, list | tuple):
        raise FilterError(f"expected a list of conditions in {clause!r}, got {_short(conditions)}")
    return conditions


def _list_match(column: pa.ChunkedArray, named: Sequence[str], blank: bool) -> Mask:
    """Return the rows whose list holds one of the values; an empty list counts as blank."""
    lists = column.combine_chunks()
    held = pc.is_in(lists.values, pa.array(named, lists.type.value_type))
    so_far = np.concatenate([[0], np.cumsum(_as_mask(held))])
    offsets, listed = lists.offsets.to_numpy(), _as_mask(lists.is_valid())
    passing: Mask = listed & (so_far[offsets[1:]] > so_far[offsets[:-1]])
    return passing | ~listed | (offsets[1:] == offsets[:-1]) if blank else passing


def _field(key: str, schema: pa.Schema) -> pa.Field:
    if key not in schema.names:
        raise FilterError(f"no column {_short(key)}; there are: {', '.join(schema.names)}")
    field = schema.field(key)
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    numbers = kind is field.type and (pa.types.is_integer(kind) or pa.types.is_floating(kind))
    if not (pa.types.is_string(kind) or numbers):
        raise FilterError(f"expected a column of texts, numbers or lists of texts, got {key!r} of type {field.type}")
    return field


def _as_scalar(value: Any, field: pa.Field) -> Any:
    if pa.types.is_string(field.type) or pa.types.is_list(field.type):
        if not isinstance(value, str) or not _is_unicode(value):
            raise FilterError(f"expected text for column {field.name!r}, got {_short(value)}")
        return value
    number = _as_number(value, field.name)
    if pa.types.is_floating(field.type):
        return float(number)
    if isinstance(number, float) and not (number.is_integer() and abs(number) <= 2**63):
        raise FilterError(f"expected a whole number for column {field.name!r}, got {_short(value)}")
    return _fitting(int(number), field)


def _fitting(number: int, field: pa.Field) -> int:
    try:
        return int(pa.scalar(number, field.type).as_py())
    except (pa.ArrowInvalid, OverflowError) as error:
        raise FilterError(f"{number} is out of range for column {field.name!r} of type {field.type}") from error


def _as_number(value: Any, key: str) -> int | float:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FilterError(f"expected a number for column {key!r}, got {_short(value)}")
    if isinstance(value, int) and abs(value) > 2**63:
        raise FilterError(f"expected a number within 64 bits for column {key!r}, got {_short(value)}")
    return value


def _as_mask(mask: pa.ChunkedArray | pa.Array) -> Mask:
    return np.array(pc.fill_null(mask, False), dtype=bool)


def _is_unicode(text: str) -> bool:
    """JSON may hold half of a surrogate pair, which is no character and in no table."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: Any) -> str:
    text = _SHOWN.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
