"""The filter grammar as conditions of SQL, which pass the rows that `index.table.filters` passes.

Values are never part of the text of a statement, and names of columns are those that `TableColumns` gives, quoted.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from index.postgres.client import Statement, sql
from index.postgres.columns import TableColumns, escaped
from index.table.filters import Where, require_filter

ALL = Statement(sql.SQL("true"))
NONE = Statement(sql.SQL("false"))
_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def as_condition(where: Where, columns: TableColumns) -> Statement:
    """Return the condition of a filter. Raises FilterError, in the sentences of `filter_mask`."""
    require_filter(where, columns.schema)
    return _clauses(where, columns)


def is_not(field: str, value: str) -> Statement:
    """Return the condition that a field has another value."""
    return Statement(sql.SQL("{} <> %s").format(sql.Identifier(field)), (escaped(value),))


def opposite(condition: Statement) -> Statement:
    """Return the condition that one does not hold: to SQL a null is neither true nor false, to the grammar false."""
    return Statement(sql.SQL("({}) IS NOT TRUE").format(condition.sql), condition.values)


def all_of(parts: Iterable[Statement]) -> Statement:
    """Return the condition that all hold."""
    return _joined([part for part in parts if part != ALL], " AND ") or ALL


def any_of(parts: Iterable[Statement]) -> Statement:
    """Return the condition that one of them holds at least."""
    return _joined(list(parts), " OR ") or NONE


def _joined(parts: Sequence[Statement], word: str) -> Statement | None:
    if not parts:
        return None
    together = sql.SQL(word).join(sql.SQL("({})").format(part.sql) for part in parts)
    return Statement(together, tuple(value for part in parts for value in part.values))


def _clauses(where: Where, columns: TableColumns) -> Statement:
    must, should, must_not = (_listed(where.get(clause, [])) for clause in ("must", "should", "must_not"))
    parts = [_condition(condition, columns) for condition in must]
    parts += [opposite(_condition(condition, columns)) for condition in must_not]
    if should:
        parts.append(any_of(_condition(condition, columns) for condition in should))
    return all_of(parts)


def _listed(conditions: Any) -> Sequence[Any]:
    return [conditions] if isinstance(conditions, Mapping) else conditions


def _condition(condition: Mapping[str, Any], columns: TableColumns) -> Statement:
    if "key" not in condition:
        return _clauses(condition, columns)
    field, column = sql.Identifier(columns.fields[condition["key"]]), columns.schema.field(condition["key"])
    if "range" in condition:
        return all_of(_bound(field, sign, float(value)) for sign, value in condition["range"].items())
    match = condition["match"]
    values = match["any"] if "any" in match else [match["value"]]
    named = _named([value for value in values if value is not None], column)
    if pa.types.is_list(column.type):  # an empty list counts as blank; one is kept for no list
        among, blank = sql.SQL("{} && %s::text[]").format(field), sql.SQL("cardinality({}) = 0").format(field)
    else:
        kind = sql.SQL(columns.types[columns.fields[column.name]])
        among, blank = sql.SQL("{} = ANY(%s::{}[])").format(field, kind), sql.SQL("{} IS NULL").format(field)
    parts = [Statement(among, (named,))] if named else []
    return any_of([*parts, Statement(blank)] if None in values else parts)


def _named(values: Sequence[Any], column: pa.Field) -> list[Any]:
    """Return the values as the column holds them, less those that are held in none."""
    if pa.types.is_floating(column.type):
        return [number for number in pa.array(map(float, values), column.type).to_pylist() if math.isfinite(number)]
    return [int(value) for value in values] if pa.types.is_integer(column.type) else list(map(escaped, values))


def _bound(field: sql.Identifier, name: str, bound: float) -> Statement:
    """Whole numbers beyond 2^53 are compared as the nearest fraction, as Arrow does."""
    if math.isnan(bound):  # to PostgreSQL it is the greatest number
        return NONE
    return Statement(sql.SQL("{}::float8 {} %s::float8").format(field, sql.SQL(_SIGNS[name])), (bound,))
