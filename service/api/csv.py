"""Hits as a table of comma-separated values that a spreadsheet can open without harm."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

_FIRST = ("rank", "similarity", "study_id", "patient_id", "views", "projection", "sex", "age", "split", "viewer_url")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""With which a text begins that a spreadsheet reads as a formula; the last four are the wide forms of the first."""


def as_csv(hits: Sequence[Mapping[str, Any]]) -> bytes:
    """Return hits, as `HitAnswer` gives them, as CSV in UTF-8 with its mark, by which Excel knows the encoding.

    A column of a collection's own stands behind those of all; a finding is 1 present, 0 absent, -1 uncertain, or
    empty. A text that begins like a formula gets an apostrophe before it.
    """
    rows = [{name: hit[name] for name in _FIRST} | hit["findings"] | hit["extra"] for hit in hits]
    names = list(dict.fromkeys([*_FIRST, *(name for row in rows for name in row)]))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([_cell(name) for name in names])
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue().encode("utf-8-sig")


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = " ".join(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
