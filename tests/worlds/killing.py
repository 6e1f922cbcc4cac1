"""Work in a child process that is killed at a random moment, as by SIGKILL or a power switch that spares the disk."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["index.built.collection", "scripts.cli", "scripts.verbs.preparing.export", "service.app"]
)


class Killer:
    """Starts work and kills it, at moments spread over the time that the whole of it takes."""

    def __init__(
        self,
        seed: int,
        start: Callable[[Callable[..., None], tuple[Any, ...]], Any] | None = None,
        *,
        pacing: bool = False,
    ) -> None:
        """Take a seed of the moments.

        Args:
            start: starts a child, where it is not `started`.
            pacing: keep about two kills to one piece of work that is finished before, however busy the machine is.
        """
        self._start, self._pacing = start or started, pacing
        self._source, self._whole = random.Random(seed), 0.0
        self.killed = self.finished = 0

    def run_whole(self, work: Callable[..., None], *words: Any) -> None:
        """Do the work once without a kill, which tells how long it takes."""
        child = self._start(work, words)
        begun = time.monotonic()
        child.join()
        self._whole = time.monotonic() - begun
        assert child.exitcode == 0

    def run(self, work: Callable[..., None], *words: Any) -> bool:
        """Do the work and kill it somewhere; return whether it was finished before."""
        child = self._start(work, words)
        child.join(self._source.uniform(0, self._whole))
        child.kill()
        child.join()
        finished = child.exitcode == 0
        self.finished += finished
        self.killed += not finished
        if self._pacing:
            self._whole *= 0.9 if finished else 1.05
        return finished

    def sentence(self) -> str:
        """Return the counts in words."""
        return f"{self.killed} killed within {1000 * self._whole:.0f} ms, {self.finished} done before"


def started(work: Callable[..., None], words: tuple[Any, ...]) -> Any:
    """Return a child that is about to begin: it has been started, and says so."""
    ours, theirs = _CONTEXT.Pipe()
    child = _CONTEXT.Process(target=_begin, args=(theirs, work, words))
    child.start()
    theirs.close()
    ours.recv()
    return child


class Warm:
    """A process that has loaded all that work needs, and forks a child for each piece of it: a start costs little."""

    def __init__(self, ready: Callable[..., Any], *words: Any) -> None:
        """Start it; what `ready` returns is what each piece of work is given first."""
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_fork_on, args=(theirs, ready, words))
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def started(self, work: Callable[..., None], words: tuple[Any, ...]) -> "_Forked":
        """Return a child that has been started."""
        self._pipe.send((work, words))
        return _Forked(self._pipe, self._pipe.recv())

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.join()


class _Forked:
    """A child of a child, as `multiprocessing` shows one of our own."""

    exitcode: int | None = None

    def __init__(self, pipe: Any, pid: int) -> None:
        self._pipe, self._pid = pipe, pid

    def join(self, timeout: float | None = None) -> None:
        if self.exitcode is None and self._pipe.poll(timeout):
            self.exitcode = self._pipe.recv()

    def kill(self) -> None:
        if self.exitcode is None:
            with suppress(ProcessLookupError):  # it ends just now
                os.kill(self._pid, signal.SIGKILL)


def _fork_on(pipe: Any, ready: Callable[..., Any], words: tuple[Any, ...]) -> None:
    held = ready(*words)
    pipe.send(True)
    with suppress(EOFError):
        while True:
            work, words = pipe.recv()
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    work(held, *words)
                    code = 0
                finally:
                    os._exit(code)
            pipe.send(pid)
            pipe.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _begin(told: Any, work: Callable[..., None], words: tuple[Any, ...]) -> None:
    told.send(True)
    work(*words)
