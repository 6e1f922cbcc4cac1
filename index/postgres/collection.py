"""A collection in PostgreSQL: searched, added to and deleted from as one in a folder.

A change is one transaction, on the disk when it is acknowledged, and found by every later search. Processes that change
one collection wait for each other.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from index.engines.collection import EngineCollection
from index.engines.columns import DIGEST, KEY, VECTOR
from index.engines.search import Entity
from index.postgres.address import PostgresAddress
from index.postgres.catalogue import save_entry
from index.postgres.client import Statement, sql
from index.postgres.columns import as_text
from index.postgres.search import Narrowed, PostgresSearch
from index.vectors import Embeddings

_MOST_SAMPLED = 10_000
"""Studies that may be marked; some 1,000 are."""
_STRAY_ROWS = 1 << 20
"""Beyond those that the catalogue counts, which a verification still looks at."""


class PostgresCollection(PostgresSearch, EngineCollection[Narrowed]):
    """The collection that an address meant when opened. Safe under threads; changes wait for each other."""

    def __init__(self, address: PostgresAddress) -> None:
        """Open a collection, as `PostgresSearch` says."""
        super().__init__(address)
        self._writing = threading.Lock()
        self.films = self._films_folder()

    @property
    def server_version(self) -> str:
        """The engine's name and version, as the server says them."""
        text = "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        with self._at_one_moment() as now:
            [(version, pgvector)] = now._open.rows(Statement(text), 1)
        return f"PostgreSQL {str(version)[:40]}, pgvector {str(pgvector)[:40]}"

    @property
    def changed(self) -> bool:
        """Whether studies were added or deleted since it was built."""
        with self._at_one_moment() as now:
            return now._entry().changed

    @contextmanager
    def _changing(self) -> Iterator[Self]:
        with self._server.transaction(write=True) as asking:
            now = self.now()
            now._asking = asking
            now._entry(held=True)
            yield now

    def _put(self, studies: Sequence[tuple[dict[str, Any], Embeddings]]) -> None:
        columns = [*self._columns.types, VECTOR]
        ours = [name for name in columns if name != KEY]
        text = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (study_id) DO UPDATE SET {}").format(
            self._table,
            self._listed,
            sql.SQL(", ").join(
                [
                    *(sql.SQL("%s::{}").format(sql.SQL(kind)) for kind in self._columns.types.values()),
                    sql.SQL("%s::vector"),
                ]
            ),
            sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in ours),
        )
        there = len(self._with_ids([row[KEY] for row, _ in studies]))
        for row, vector in studies:
            self._open.do(Statement(text, (*self._columns.as_values(row, vector), as_text(vector))))
        self._note(len(studies) - there)

    def _drop(self, study_ids: Sequence[str]) -> None:
        text = sql.SQL("DELETE FROM {} WHERE study_id = ANY(%s::text[])").format(self._table)
        self._note(-self._open.do(Statement(text, (list(study_ids),))))

    def _note(self, more: int) -> None:
        save_entry(self._open, self._name, rows=self._entry().rows + more, changed=True)

    def _is_named(self, path: str) -> bool:
        fields = [sql.Identifier(self._columns.fields[name]) for name in ("frontal_path", "lateral_path")]
        text = sql.SQL("{} = %s OR {} = %s").format(*fields)
        return self._count(Statement(text, (path, path))) > 0

    def _sampled(self) -> Sequence[Entity]:
        with self._at_one_moment() as now:
            return now._entities(Statement(sql.SQL("sample IS NOT NULL")), sql.SQL(""), (), _MOST_SAMPLED)

    def _nearest_of_others(self, sampled: Sequence[Entity]) -> Sequence[float]:
        """What was found when it was built; the table has no need to be read for it."""
        with self._at_one_moment() as now:
            return now._entry().gate

    def entities(self) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float32], str]]:
        """Yield row, vector (D,) and digest of every study, for who looks all of them over."""
        text = sql.SQL("SELECT {} FROM {}").format(self._listed, self._table)
        with self._at_one_moment() as now:
            most = now._entry().rows + _STRAY_ROWS
            for values in now._open.each(Statement(text), most):
                entity = self._columns.as_entity(values)
                vector = self._vector(entity)
                yield self._row(entity), np.asarray(vector, np.float32), str(entity[DIGEST])
