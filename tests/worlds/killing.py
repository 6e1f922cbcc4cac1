"""Work in a child process that is killed at a random moment, as by SIGKILL or a power switch that spares the disk."""

import multiprocessing
import random
import time
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "index.built.collection",
        "scripts.cli",
        "scripts.verbs.preparing.export",
        "service.app",
        "pytest",
        "pandas",
        "torch._refs",
        "encoder.embedder",
        "highdicom",
        "scripts.pacs.feed",
        "scripts.pacs.sending",
        "scripts.pacs.structured_report",
    ]
)


class Killer:
    """Starts work and kills it, at moments spread over the time that the whole of it takes."""

    def __init__(self, seed: int) -> None:
        self._source, self._whole = random.Random(seed), 0.0
        self.killed = self.finished = 0

    def run_whole(self, work: Callable[..., None], *words: Any) -> None:
        """Do the work once without a kill, which tells how long it takes."""
        child = started(work, words)
        begun = time.monotonic()
        child.join()
        self._whole = time.monotonic() - begun
        assert child.exitcode == 0

    def run(self, work: Callable[..., None], *words: Any) -> bool:
        """Do the work and kill it somewhere; return whether it was finished before."""
        child = started(work, words)
        child.join(self._source.uniform(0, self._whole))
        child.kill()
        child.join()
        finished = child.exitcode == 0
        self.finished += finished
        self.killed += not finished
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


def _begin(told: Any, work: Callable[..., None], words: tuple[Any, ...]) -> None:
    told.send(True)
    work(*words)
