"""Several tables of studies as one, so that one encoder can learn from, or one index hold, several archives.

The paths of all of them must lead from one folder already.
"""

from collections.abc import Collection, Mapping
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from index.errors import StudiesError
from index.table.labels import label_columns
from index.table.studies import FILMS_OF_KEY, as_studies

SOURCE = "Source"
"""The column that says which table a study came from."""


def sets_in_two(tables: Mapping[str, pa.Table]) -> list[str]:
    """Return a sentence for each two tables that hold films of one published set, as their imports say."""
    return [
        f"{first!r} and {second!r} both hold films of {', '.join(sorted(both))}: one person is two patients in what is "
        "joined, so the same person, and the same film, may answer; join one of them alone"
        for first, second in combinations(tables, 2)
        if (both := _sets_of(tables[first]) & _sets_of(tables[second]))
    ]


def _sets_of(table: pa.Table) -> set[str]:
    return {*(table.schema.metadata or {}).get(FILMS_OF_KEY, b"").decode("utf-8", "replace").split()}


def join_studies(tables: Mapping[str, pa.Table], absent_in: Collection[str] = ()) -> pa.Table:
    """Return the studies of all tables, each patient and study id with its table's name before it.

    A column that a table has not is null in its rows. Names keep equal ids of two archives apart: two patients 00001
    of two hospitals are two people.

    Args:
        tables: checked tables by name.
        absent_in: names of tables whose blank labels mean absent, of those columns that the table uses at all: they
            become 0, because in a joined table a blank cannot say which archive's custom it follows.

    Raises:
        StudiesError: fewer than two tables, a name with a slash, or columns of one name and of types that do not fit.
    """
    if len(tables) < 2:
        raise StudiesError(f"expected two tables or more, got {len(tables)}")
    for name in (*tables, *absent_in):
        if not name or "/" in name or name not in tables:
            raise StudiesError(f"expected the name of a table, without a slash, got {name!r}")
    named = [_named(name, _closed(table) if name in absent_in else table) for name, table in tables.items()]
    try:
        joined = pa.concat_tables(named, promote_options="permissive").combine_chunks()
        held = " ".join(sorted(set().union(*map(_sets_of, tables.values()))))
        return as_studies(joined.replace_schema_metadata({FILMS_OF_KEY: held} if held else None))
    except pa.ArrowTypeError as error:
        raise StudiesError(f"the tables have columns of one name and different types: {error}") from error


def _named(name: str, table: pa.Table) -> pa.Table:
    for key in ("study_id", "patient_id"):
        ids = pc.binary_join_element_wise(f"{name}/", table[key], "")
        table = table.set_column(table.column_names.index(key), key, ids)
    if SOURCE in table.column_names:
        table = table.drop_columns([SOURCE])
    return table.append_column(SOURCE, pa.array([name] * table.num_rows, pa.string()))


def _closed(table: pa.Table) -> pa.Table:
    """Return the table with 0 for blank in every label column that has a label."""
    for key in label_columns(table):
        column = table[key]
        if column.null_count < len(column):
            zero = pa.scalar(0, column.type)
            table = table.set_column(table.column_names.index(key), table.schema.field(key), column.fill_null(zero))
    return table
