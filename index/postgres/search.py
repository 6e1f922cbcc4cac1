"""Search in a collection in PostgreSQL that answers as one in a folder does; a search sees all acknowledged changes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from index.engines.columns import VECTOR
from index.engines.manifest import NotThere
from index.engines.search import EngineSearch, Entity
from index.postgres.address import PostgresAddress
from index.postgres.catalogue import Entry, current_entry, entry_of, manifest_of
from index.postgres.client import Asking, PostgresServer, Statement, sql
from index.postgres.columns import TableColumns, as_text, vector_in
from index.postgres.filters import all_of, any_of, as_condition, is_not, opposite
from index.search.answer import Answer, Query
from index.search.searchable import Stored
from index.table.filters import Where

FEW = 10_000
"""Studies that pass a filter: so many are compared one by one in less time than a graph finds them among all."""
MOST_BEAM = 1000
"""Of hnsw.ef_search: the most that pgvector takes."""
BEAM = "SELECT set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', 'strict_order', true)"
"""How many candidates a search in the graph keeps, and that it goes on while a filter lets too few of them pass."""


class Narrowed(NamedTuple):
    """What passes a filter, and how many do."""

    condition: Statement
    matched: int


class PostgresSearch(EngineSearch[Narrowed]):
    """What an address meant when it was opened. Safe under threads."""

    address: PostgresAddress
    _columns: TableColumns
    _asking: Asking | None = None
    """The transaction that a view of one moment asks in."""

    def __init__(self, address: PostgresAddress) -> None:
        """Open a collection.

        Raises:
            NotThere: it is not there. ArtefactError: it is not ours.
            BackendUnavailable: the server does not answer. CollectionError: psycopg is missing.
        """
        self.address = address
        self._server = PostgresServer(address)
        with self._server.transaction() as asking:
            entry = current_entry(asking, address)
        if entry is None:
            raise NotThere(
                f"no collection {address.collection!r} on {self._server.where}; run: {address.build_command}"
            )
        self._name = entry.name  # what the address means later changes no search of this one
        manifest = manifest_of(entry, address)
        self._take(manifest, TableColumns.of(manifest, address))
        self._table = sql.Identifier(self._name)
        self._listed = sql.SQL(", ").join(map(sql.Identifier, [*self._columns.types, VECTOR]))

    def close(self) -> None:
        """Let go of the server."""
        self._server.close()

    @contextmanager
    def _at_one_moment(self) -> Iterator[Self]:
        """Yield a view of the collection that asks all it asks of one moment."""
        if self._asking is not None:
            yield self
            return
        with self._server.transaction() as asking:
            now = self.now()
            now._asking = asking
            yield now

    def __len__(self) -> int:
        with self._at_one_moment() as now:
            return now._entry().rows

    def stored(self, study_id: str) -> Stored:
        """Return a stored study with its vector. Raises StudyNotFound."""
        with self._at_one_moment() as now:
            return super(PostgresSearch, now).stored(study_id)

    def answer(self, query: Query) -> Answer:
        """Return the most similar studies that pass, most similar first, ties by study_id; as `Searchable` says."""
        with self._at_one_moment() as now:
            return super(PostgresSearch, now).answer(query)

    def _entry(self, *, held: bool = False) -> Entry:
        """Return what the catalogue says of the collection now. Raises NotThere."""
        entry = entry_of(self._open, self._name, held=held)
        if entry is None:
            raise NotThere(f"{str(self.address)!r} was removed from the database; run: {self.address.build_command}")
        return entry

    @property
    def _open(self) -> Asking:
        assert self._asking is not None  # every question begins with `_at_one_moment`, or a change
        return self._asking

    def _narrowed(self, where: Where | None, left: Mapping[str, str]) -> tuple[Narrowed, int]:
        """Return what passes, and how many do; without a filter by counting the few left out."""
        kept = [is_not(field, value) for field, value in left.items()]
        if where:
            condition = all_of([as_condition(where, self._columns), *kept])
            count = self._count(condition)
        else:
            condition, out = all_of(kept), any_of(map(opposite, kept))
            count = self._entry().rows - (self._count(out) if kept else 0)
        return Narrowed(condition, count), count

    def _count(self, condition: Statement) -> int:
        text = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(self._table, condition.sql)
        counted = self._open.rows(Statement(text, condition.values), 1)
        if len(counted) != 1 or len(counted[0]) != 1 or type(counted[0][0]) is not int or counted[0][0] < 0:
            raise self._nonsense("no count")
        return int(counted[0][0])

    def _near(
        self, vector: npt.NDArray[np.float32], passing: Narrowed, count: int, exact: bool
    ) -> tuple[Sequence[Entity], bool]:
        exact = exact or passing.matched <= FEW or self.manifest["kind"] == "flat"
        if not exact:
            beam = min(max(self.manifest["beam"], 2 * count), MOST_BEAM)
            self._open.do(Statement(BEAM, (str(beam),)))
        order = nearness(None if exact else self.embedding_dim)
        return self._entities(passing.condition, order, (as_text(vector),), count), exact

    def _entities(self, passing: Statement, order: sql.Composable, values: tuple[Any, ...], most: int) -> list[Entity]:
        text = sql.SQL("SELECT {} FROM {} WHERE {} {} LIMIT %s").format(self._listed, self._table, passing.sql, order)
        rows = self._open.rows(Statement(text, (*passing.values, *values, most)), most)
        try:
            return [self._columns.as_entity(row) for row in rows]
        except ValueError:  # of another number of columns
            raise self._nonsense("a row of other columns") from None

    def _with_ids(self, study_ids: Sequence[str]) -> Sequence[Entity]:
        among = Statement(sql.SQL("study_id = ANY(%s::text[])"), (list(study_ids),))
        return self._entities(among, sql.SQL(""), (), len(study_ids))

    def _row(self, entity: Entity) -> dict[str, Any]:
        return self._columns.as_row(entity)

    def _vector(self, entity: Entity) -> Any:
        return vector_in(entity[VECTOR], self.embedding_dim)


def nearness(dim: int | None) -> sql.Composable:
    """Return the order by nearness to a vector; with its length, that of the graph, which keeps half of each number."""
    if dim is None:
        return sql.SQL("ORDER BY embedding <#> %s::vector")
    half = sql.SQL("halfvec({})").format(sql.Literal(dim))
    return sql.SQL("ORDER BY embedding::{} <#> %s::{}").format(half, half)
