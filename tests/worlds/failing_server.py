"""A server in a process of its own, as `precedent serve` runs it, whose application fails in every way that it can be told.

Run with the kind of failure in the path: /fail/KIND.
"""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from flask import Flask, Response, request
from service_world import build_app, with_log

from index.errors import BackendUnavailable, CollectionError
from scripts.verbs.running.serve import bind, serve
from service.audit.log import AuditLog
from service.guard import access
from service.watch.logs import configure

THREADS = 2
"""Fewer than there are failures, so that one that took a thread down would be noticed."""


class Unspeakable(CollectionError):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise SystemExit("no words")


class Speechless(CollectionError):
    """Says something else than text."""

    def __str__(self) -> Any:
        return 7


class Disguised(ValueError):
    """Gives itself for another class, and nothing that Python keeps of it can be asked for."""

    __class__ = property(lambda self: 1 / 0)
    __cause__ = __context__ = __traceback__ = property(lambda self: 1 / 0)


def cyclic() -> NoReturn:
    error = BackendUnavailable("lost")
    raise error from error


def two_that_cause_each_other() -> NoReturn:
    first, second = KeyError(1), KeyError(2)
    first.__context__, second.__context__ = second, first
    raise first


def long_chain() -> NoReturn:
    error = ValueError("0")
    for number in range(100_000):
        error, error.__cause__ = ValueError(str(number)), error
    raise error


def bottomless() -> NoReturn:
    bottomless()


def group() -> NoReturn:
    error: Exception = ValueError(1)
    for _ in range(5_000):
        error = ExceptionGroup("g", [error, ValueError(1)])
    raise error


def missing_package() -> None:
    import_module("no_such_package")


def raising(error: BaseException) -> Callable[[], NoReturn]:
    """Return what raises it."""

    def fail() -> NoReturn:
        raise error

    return fail


FAILURES: dict[str, Callable[[], Any]] = {
    "cyclic": cyclic,
    "two-that-cause-each-other": two_that_cause_each_other,
    "long-chain": long_chain,
    "bottomless": bottomless,
    "group": group,
    "missing-package": missing_package,
    "unspeakable": raising(Unspeakable()),
    "speechless": raising(Speechless()),
    "disguised": raising(Disguised()),
    "no-memory": raising(MemoryError()),
    "odd-reason": raising(OSError(5, object())),
    "megabytes": raising(CollectionError("/a" * 5_000_000)),
    "exit": raising(SystemExit(3)),
    "interrupt": raising(KeyboardInterrupt()),
    "generator-exit": raising(GeneratorExit()),
    "base-group": raising(BaseExceptionGroup("g", [SystemExit(1)])),
    "in-the-handler-of-errors": raising(UnicodeDecodeError("ascii", b"", 0, 1, "odd")),
    "after": dict,
    "teardown": dict,
    "audit": dict,
    "stream": dict,
    "stream-exit": dict,
}


def failing_stream(error: BaseException) -> Iterator[bytes]:
    yield b"begun"
    raise error


def add_failures(app: Flask) -> None:
    """Let /fail/KIND fail."""
    access.SCOPE_OF["GET /fail/{kind}"] = access.OPEN

    def fail(kind: str) -> Any:
        if kind.startswith("stream"):
            return Response(failing_stream(SystemExit(1) if kind == "stream-exit" else cycle()))
        return FAILURES[kind]()

    app.add_url_rule("/fail/<kind>", view_func=fail)

    @app.errorhandler(UnicodeDecodeError)
    def fail_again(error: UnicodeDecodeError) -> NoReturn:
        raise Unspeakable from error

    @app.after_request
    def fail_after(response: Response) -> Response:
        if request.path == "/fail/after":
            cyclic()
        return response

    @app.teardown_request
    def fail_at_the_end(_error: BaseException | None) -> None:
        if request.path == "/fail/teardown":
            raise Unspeakable


def cycle() -> Exception:
    error = ValueError("lost")
    error.__cause__ = error
    return error


class FailingLog(AuditLog):
    """Fails at calls of one route in a way that nobody foresees."""

    def append(self, record: dict[str, Any]) -> None:
        """Write one line."""
        if record["event"] == "call" and request.path == "/fail/audit":
            cyclic()
        super().append(record)


if __name__ == "__main__":
    configure("json")
    with bind("127.0.0.1", 0) as listener:
        served = with_log(build_app(), FailingLog(Path(sys.argv[1])))
        add_failures(served)
        serve(served, listener, threads=THREADS)
