"""Damaged films, read one after another in a child process, so that a death is noticed and told by its number."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from hostile_files import damaged

from encoder.errors import ImageError
from encoder.films.image import read_image
from encoder.films.jpegls import _pool

MOST_SECONDS = 60.0
"""After which a child counts as hung."""
FAULTS = (
    ArithmeticError,
    AssertionError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    Warning,
)
"""What a reader may raise by mistake; anything else ends the child, which is noticed as a death."""
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass
class Tally:
    """What became of damaged films."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)
    """By number: an error that is no refusal, a result that is no film, a death, a hang."""
    slowest: tuple[float, int] = (0.0, -1)
    """Seconds of the processor's and number: what others on the machine do meanwhile does not count."""
    memory: int = 0
    """Most bytes that a child held for one film, beyond what it held before; Linux only."""

    def sentence(self) -> str:
        """Return the counts in words."""
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in self.outcomes.most_common())
        return (
            f"{self.outcomes.total():,} damaged films: {counts}; at most {self.slowest[0]:.2f} s of "
            f"the processor (number {self.slowest[1]}), most memory {self.memory / 1e6:.0f} MB"
        )


Read = Callable[..., Any]


def fuzz(films: Sequence[bytes], numbers: Iterable[int], read: Read = read_image) -> Tally:
    """Return what becomes of the damaged films of those numbers, a new child after each death."""
    tally, waiting = Tally(), list(numbers)[::-1]
    while waiting:
        ours, theirs = _CONTEXT.Pipe()
        child = _CONTEXT.Process(target=_read_all, args=(list(films), waiting[::-1], read, theirs))
        child.start()
        theirs.close()
        try:
            _follow(ours, tally, waiting)
        except EOFError:
            if waiting:
                _fault(tally, waiting.pop(), "death")
        child.kill()
        child.join()
    return tally


def _follow(ours: Connection, tally: Tally, waiting: list[int]) -> None:
    """Count what the child says until it is done. Raises EOFError where it died."""
    ours.recv()  # it has imported everything
    while waiting:
        if not ours.poll(MOST_SECONDS):
            _fault(tally, waiting.pop(), "hang")
            return
        outcome, fault, seconds, memory = ours.recv()
        number = waiting.pop()
        tally.outcomes[outcome] += 1
        if fault:
            tally.faults[number] = fault
        tally.slowest = max(tally.slowest, (seconds, number))
        tally.memory = max(tally.memory, memory)


def _fault(tally: Tally, number: int, outcome: str) -> None:
    tally.outcomes[outcome] += 1
    tally.faults[number] = outcome


def _read_all(films: list[bytes], numbers: list[int], read: Read, told: Connection) -> None:
    """Read each film in this process and tell what became of it."""
    for film in films:
        _outcome(read_image, film)  # every decoder is loaded before memory is counted
    told.send("begun")
    for number in numbers:
        data = damaged(films, number)
        before = _from_here()
        begun = processor_seconds()
        outcome, fault = _outcome(read, data, None if number % 3 else 256)
        told.send((outcome, fault, processor_seconds() - begun, _memory("VmHWM") - before))


def _outcome(read: Read, data: bytes, least_side: int | None = None) -> tuple[str, str]:
    """Return what a film became, and what is wrong with that."""
    try:
        film = read(data, least_side=least_side)
    except ImageError:
        return "refused", ""
    except FAULTS as error:
        return type(error).__name__, repr(error)[:300]
    right = film.ndim == 2 and film.dtype == np.float32 and 0 <= film.min() < film.max() <= 1
    return ("film", "") if right else ("no film", f"{film.dtype} {film.shape} {film.min()} {film.max()}")


def processor_seconds() -> float:
    """Return what this process and those that decode JPEG-LS for it have worked, user and system, in seconds.

    Where there is no /proc, idle decoders are left out, and those that have ended are counted.
    """
    workers = [Path(f"/proc/{worker._process.pid}/stat") for worker in _pool(os.getpid())._idle]
    stats = [stat.read_text(encoding="ascii").rpartition(")")[2].split() for stat in workers if stat.exists()]
    return sum(os.times()[:4]) + sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def _from_here() -> int:
    """Return the bytes this process holds, and let its peak start anew from them."""
    if (marks := Path("/proc/self/clear_refs")).exists():
        marks.write_text("5", encoding="ascii")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def memory_of(film: Path) -> int:
    """Return the most bytes that reading a film takes beyond what a fresh process holds; Linux only."""
    ours, theirs = _CONTEXT.Pipe()
    child = _CONTEXT.Process(target=_tell_memory, args=(film, theirs))
    child.start()
    theirs.close()
    told: int = ours.recv()
    child.join()
    return told


def _tell_memory(film: Path, told: Connection) -> None:
    before = _from_here()
    read_image(film)
    told.send(_memory("VmHWM") - before)
