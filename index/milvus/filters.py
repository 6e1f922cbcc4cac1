"""The filter grammar as an expression of Milvus, which passes the rows that `index.table.filters` passes.

Nothing is negated as a whole: a null is neither true nor false
to Milvus, so each condition has its own opposite, which says what becomes of a null.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from index.engines.columns import KEY, Columns
from index.table.filters import Where, require_filter

ALL = f'{KEY} != ""'
NONE = f'{KEY} == ""'
"""No study has a blank id."""
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_MOST_INT = 2**63 - 1


def as_expression(where: Where, columns: Columns) -> str:
    """Return the expression of a filter. Raises FilterError, in the sentences of `filter_mask`."""
    require_filter(where, columns.schema)
    return _clauses(where, columns, False)


def among(field: str, values: Iterable[Any]) -> str:
    """Return the expression that a field has one of the values."""
    return f"{field} in [{', '.join(map(literal, values))}]"


def literal(value: Any) -> str:
    """Return a text or a number as an expression holds it."""
    return f'"{value.translate(_ESCAPES)}"' if isinstance(value, str) else repr(value)


def all_of(parts: Iterable[str]) -> str:
    """Return the expression that all hold."""
    kept = [part for part in parts if part != ALL]
    return NONE if NONE in kept else _joined(kept, "and") or ALL


def any_of(parts: Iterable[str]) -> str:
    """Return the expression that one of them holds at least."""
    kept = [part for part in parts if part != NONE]
    return ALL if ALL in kept else _joined(kept, "or") or NONE


def _joined(parts: Sequence[str], word: str) -> str:
    return parts[0] if len(parts) == 1 else f" {word} ".join(f"({part})" for part in parts)


def _clauses(where: Where, columns: Columns, negated: bool) -> str:
    must, should, must_not = (_listed(where.get(clause, [])) for clause in ("must", "should", "must_not"))
    either, every = (all_of, any_of) if negated else (any_of, all_of)
    parts = [_condition(condition, columns, negated) for condition in must]
    parts += [_condition(condition, columns, not negated) for condition in must_not]
    if should:
        parts.append(either(_condition(condition, columns, negated) for condition in should))
    return every(parts)


def _listed(conditions: Any) -> Sequence[Any]:
    return [conditions] if isinstance(conditions, Mapping) else conditions


def _condition(condition: Mapping[str, Any], columns: Columns, negated: bool) -> str:
    if "key" not in condition:
        return _clauses(condition, columns, negated)
    field, column = columns.fields[condition["key"]], columns.schema.field(condition["key"])
    if "range" in condition:
        return _range(field, column, condition["range"], negated)
    match = condition["match"]
    values = match["any"] if "any" in match else [match["value"]]
    named, blank = _named([value for value in values if value is not None], column), None in values
    return (_list_match if pa.types.is_list(column.type) else _match)(field, named, blank, negated)


def _named(values: Sequence[Any], column: pa.Field) -> list[Any]:
    """Return the values as the column holds them, less those that Milvus holds in none."""
    if pa.types.is_floating(column.type):
        return [number for number in pa.array(map(float, values), column.type).to_pylist() if math.isfinite(number)]
    return [int(value) for value in values] if pa.types.is_integer(column.type) else list(values)


def _match(field: str, named: Sequence[Any], blank: bool, negated: bool) -> str:
    if not negated:
        return any_of([among(field, named) if named else NONE, f"{field} is null" if blank else NONE])
    others = f"{field} not in [{', '.join(map(literal, named))}]" if named else ALL
    if blank:
        return all_of([others, f"{field} is not null"])
    return any_of([others, f"{field} is null"])


def _list_match(field: str, named: Sequence[str], blank: bool, negated: bool) -> str:
    """An empty list counts as blank; Milvus keeps one for no list, so that no list is null."""
    holds = f"array_contains_any({field}, [{', '.join(map(literal, named))}])" if named else NONE
    if not negated:
        return any_of([holds, f"array_length({field}) == 0" if blank else NONE])
    lacks = f"not array_contains_any({field}, [{', '.join(map(literal, named))}])" if named else ALL
    return all_of([lacks, f"array_length({field}) != 0" if blank else ALL])


def _range(field: str, column: pa.Field, bounds: Mapping[str, Any], negated: bool) -> str:
    whole = pa.types.is_integer(column.type)
    parts = [_bound(sign, float(value), column.type if whole else None) for sign, value in bounds.items()]
    if negated:
        opposites = (f"{field} {_OPPOSITE[sign]} {value}" for sign, value in filter(None, parts) if sign)
        return ALL if None in parts else any_of([f"{field} is null", *opposites])
    if None in parts:
        return NONE
    return all_of(f"{field} {sign} {value}" if sign else f"{field} is not null" for sign, value in filter(None, parts))


def _bound(name: str, bound: float, whole: pa.DataType | None) -> tuple[str, str] | None:
    """Return sign and number of a bound, ("", "") where every number keeps it, None where none does."""
    sign, upper = _SIGNS[name], name.startswith("l")
    if math.isnan(bound) or math.isinf(bound):
        return ("", "") if not math.isnan(bound) and (bound > 0) == upper else None
    if whole is None:
        return sign, repr(bound)
    limits = np.iinfo(whole.to_pandas_dtype())
    least, most = int(limits.min), min(int(limits.max), _MOST_INT)
    edge = (
        (math.ceil(bound) - 1 if name == "lt" else math.floor(bound))
        if upper
        else (math.floor(bound) + 1 if name == "gt" else math.ceil(bound))
    )
    if (edge < least) if upper else (edge > most):
        return None
    if (edge >= most) if upper else (edge <= least):
        return "", ""
    return ("<=" if upper else ">="), str(edge)
