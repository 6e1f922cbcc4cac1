"""Every statement to a PostgreSQL server: within a time limit, on few connections, its errors put into our words.

What a server answers is read row by row and no further than was asked for, since it may be anybody's.
"""

import selectors
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, LifoQueue
from time import monotonic
from typing import Any, NamedTuple

from index.engines.availability import Availability, Silence
from index.engines.manifest import NotThere
from index.errors import ArtefactError, BackendLoading, BackendUnavailable, CollectionError, WriteFailed
from index.postgres.address import PostgresAddress

try:
    import psycopg
    from psycopg import sql, waiting
except ImportError as error:
    raise CollectionError(
        "expected psycopg to be installed for collections in PostgreSQL; run: pip install 'cxr-precedent[postgres]'"
    ) from error

__all__ = ["Asking", "PostgresServer", "Statement", "sql"]

CALL_SECONDS = 10.0
"""That a statement may take, and connecting."""
BUILD_SECONDS = 24 * 3600.0
"""That an index may take to be built."""
CONNECTIONS = 8
"""Kept open while nobody asks; each is a process of the server."""
LEAST_PGVECTOR = (0, 8)
"""The first that searches on while a filter lets too few of the nearest pass; it has half precision as well."""
MOST_BYTES = 1 << 30
"""Of one answer, texts and vectors together."""
_LOADING = ("57P03", "57P02", "57P01")
"""Codes of a server that starts, or is shut down."""
_FULL = ("53100", "53200", "53400", "54000")
_NO_TABLE = "42P01"
_TOO_LATE, _LOCKED, _READ_ONLY = "57014", "55P03", "25006"
_CONNECTING = 2
"""Least seconds that psycopg takes for connecting."""
_LOCK_SECONDS = 5
"""That a change waits for another one."""
_DURABLE = (
    f"SELECT set_config('lock_timeout', '{_LOCK_SECONDS}s', true), set_config('synchronous_commit', "
    "coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)"
)
_ATTENTIVE = "SELECT set_config(name, '1s', true) FROM pg_settings WHERE name = 'client_connection_check_interval'"
"""From version 14 on."""


class Statement(NamedTuple):
    """SQL of psycopg, with a placeholder for each value."""

    sql: Any
    values: tuple[Any, ...] = ()


class Asking:
    """A transaction on one connection. One thread at a time."""

    def __init__(self, server: "PostgresServer", connection: Any) -> None:
        self._server, self._connection = server, connection

    def rows(self, statement: Statement, most: int, *, seconds: float | None = None) -> list[tuple[Any, ...]]:
        """Return what a query gives, `most` rows or fewer.

        Raises:
            ArtefactError: the server gives more. BackendUnavailable: it does not answer in time. CollectionError: it
            refuses what it was asked.
        """
        rows: list[tuple[Any, ...]] = []
        for row in self.each(statement, most, seconds=seconds):
            rows.append(row)
        return rows

    def each(self, statement: Statement, most: int, *, seconds: float | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield what a query gives, row by row as it comes; raises as `rows`."""
        size = 0
        with self._server.telling(self._connection, seconds), self._connection.cursor(binary=True) as cursor:
            for number, row in enumerate(cursor.stream(statement.sql, statement.values)):
                size += sum(len(value) for value in row if isinstance(value, str | bytes | list))
                if number >= most or size > MOST_BYTES:
                    self._connection.pgconn.finish()  # or what follows would be read to its end
                    raise ArtefactError(
                        f"PostgreSQL on {self._server.where} answered with more than was asked for; run: precedent "
                        f"verify {self._server.address}"
                    )
                self._connection.wait_from_now(seconds)
                yield row

    def do(self, statement: Statement, *, seconds: float | None = None) -> int:
        """Have a statement done and return how many rows it touched; raises as `rows`."""
        with self._server.telling(self._connection, seconds):
            count: int = self._connection.execute(statement.sql, statement.values or None).rowcount
            return count

    @contextmanager
    def copying(self, statement: Statement, types: Sequence[str]) -> Iterator[Any]:
        """Yield psycopg's binary COPY into a table, for rows of these types."""
        with (
            self._server.telling(self._connection, None),
            self._connection.cursor() as cursor,
            cursor.copy(statement.sql) as copy,
        ):
            copy.set_types(types)
            yield _Copying(copy, self._connection)


class _Copying:
    """Rows on their way, each within the time limit."""

    def __init__(self, copy: Any, connection: Any) -> None:
        self._copy, self._connection = copy, connection

    def write(self, row: Sequence[Any]) -> None:
        self._connection.wait_from_now(None)
        self._copy.write_row(row)


class PostgresServer:
    """A database. Safe under threads; connects with the first question."""

    def __init__(self, address: PostgresAddress) -> None:
        """Take an address."""
        self.address = address
        self._availability = Availability(self._lost)
        self._idle: LifoQueue[Any] = LifoQueue(CONNECTIONS)
        weakref.finalize(self, _close_all, self._idle)

    @property
    def where(self) -> str:
        """The server and the database, without the collection."""
        address = self.address
        return f"{address.server or dict(address.options).get('host', 'this machine')}, database {address.database!r}"

    @contextmanager
    def transaction(self, *, write: bool = False, build: bool = False) -> Iterator[Asking]:
        """Yield a transaction: of one moment for who reads; of what is acknowledged only on the disk for who writes.

        Args:
            build: the server gives up what it does for it as soon as this process is gone.

        Raises:
            BackendUnavailable: the server does not answer, or did not a moment ago; what was written may be there or
            not. And what `Asking` raises.
        """
        with self._availability.asking():
            connection = self._connected()
            try:
                asking = Asking(self, connection)
                begun = "BEGIN" if write else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
                asking.do(Statement(begun))
                if write:
                    asking.do(Statement(_DURABLE))
                if build:
                    asking.do(Statement(_ATTENTIVE))
                yield asking
                asking.do(Statement("COMMIT"))
            finally:
                self._give_back(connection)

    def close(self) -> None:
        """Let go of the connections that nobody uses; the next question makes another."""
        _close_all(self._idle)

    @contextmanager
    def telling(self, connection: Any = None, seconds: float | None = None) -> Iterator[None]:
        """Raise our errors for those of psycopg, and give a connection so long to answer."""
        if connection is not None:
            connection.wait_from_now(seconds)
        try:
            yield
        except TimeoutError as late:
            connection.pgconn.finish()
            raise self._lost("no answer in time", Silence) from late
        except psycopg.Error as error:
            raise self._refusal(error, connection) from error

    def _connected(self) -> Any:
        """Return a connection that nobody else uses."""
        while (connection := _taken(self._idle)) is not None:
            if _is_quiet(connection):
                return connection
            connection.close()
        with self.telling():
            return PatientConnection.connect(
                **self.address.parameters,
                autocommit=True,
                prepare_threshold=None,  # each filter has a plan of its own, and a pooler may change servers
                connect_timeout=max(int(CALL_SECONDS), _CONNECTING),
                client_encoding="utf8",
                application_name="precedent",
            )

    def _give_back(self, connection: Any) -> None:
        idle = psycopg.pq.TransactionStatus.IDLE
        if connection.closed or connection.pgconn.transaction_status != idle or self._idle.full():
            connection.close()  # which takes back what was begun
        else:
            self._idle.put(connection)

    def _refusal(self, error: Any, connection: Any) -> CollectionError:
        said, code = _said(error), error.sqlstate or ""
        if code == _NO_TABLE:
            return NotThere(
                f"no collection {self.address.collection!r} on {self.where}; run: {self.address.build_command}"
            )
        if code in _LOADING or "starting up" in said or "recovery" in said:
            return BackendLoading(f"PostgreSQL on {self.where} is starting ({said}); try again in some seconds")
        if code in _FULL:
            return WriteFailed(
                f"PostgreSQL on {self.where} has no room for this ({said}); nothing was changed; free its disk"
            )
        if code == _READ_ONLY:
            return WriteFailed(f"PostgreSQL on {self.where} is a copy that takes no changes; give the first server")
        if code == _LOCKED:
            return BackendUnavailable(
                f"{str(self.address)!r} is being changed by another process; try again when it has ended"
            )
        if code == _TOO_LATE or code.startswith(("08", "40", "53", "58", "XX")):
            return self._lost(said)
        if code and not code.startswith(("28", "3D")):
            return CollectionError(f"PostgreSQL on {self.where} does not take this: {said}")
        if isinstance(error, psycopg.OperationalError) or connection is None or connection.closed:
            return self._lost(said, BackendUnavailable if code else Silence)
        return CollectionError(f"PostgreSQL on {self.where} does not take this: {said}")

    def _lost(self, said: str, kind: type[BackendUnavailable] = BackendUnavailable) -> BackendUnavailable:
        return kind(
            f"PostgreSQL on {self.where} does not answer ({said}); see that it runs and that the address, and "
            "PGPASSWORD or ~/.pgpass, are right, then try again"
        )


def _taken(idle: LifoQueue[Any]) -> Any:
    try:
        return idle.get_nowait()
    except Empty:
        return None


def _close_all(idle: LifoQueue[Any]) -> None:
    while (connection := _taken(idle)) is not None:
        connection.close()


class PatientConnection(psycopg.Connection[Any]):
    """Waits no longer than until a moment."""

    _until = 0.0

    def wait_from_now(self, seconds: float | None) -> None:
        """Give the server so many seconds from now, CALL_SECONDS where none are named."""
        self._until = monotonic() + (seconds or CALL_SECONDS)

    def wait(self, gen: Any, *_: Any, **__: Any) -> Any:
        """Return what a generator of psycopg comes to. Raises TimeoutError."""
        try:
            wanted = next(gen)
            with selectors.DefaultSelector() as selector:
                while True:
                    key = selector.register(self.pgconn.socket, int(wanted))
                    ready = selector.select(max(self._until - monotonic(), 0))
                    selector.unregister(key.fd)
                    if not ready:
                        raise TimeoutError
                    wanted = gen.send(waiting.Ready(ready[0][1]))
        except StopIteration as done:
            return done.value


def _is_quiet(connection: Any) -> bool:
    """Return whether a connection that nobody used is as it was left: a server that has ended says so there."""
    if connection.closed:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.pgconn.socket, selectors.EVENT_READ)
        return not selector.select(0)


def _said(error: Any) -> str:
    """Return the first line of what the server or libpq says."""
    said = error.diag.message_primary if getattr(error, "diag", None) and error.diag.message_primary else str(error)
    return (said.strip().splitlines() or [type(error).__name__])[0][:200]
