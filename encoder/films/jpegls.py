"""Decoding JPEG-LS in processes of their own, which some damaged frames would keep busy for seconds, or end."""

import atexit
import os
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.errors import ImageError
from encoder.films.jpegls_process import REPLY, REQUEST

_SECONDS, _PIXELS_A_SECOND = 1, 4_000_000
"""Processor time for a frame: at least, and what the slowest machine decodes; a usual one is five times as fast."""
_WAIT = 30  # seconds by the clock for each of the processor's: a worker that was stopped does not work at all


def decode_jpegls(frame: bytes, pixels: int) -> npt.NDArray[Any]:
    """Return the pixels of a frame of known size, (H, W) or (H, W, samples) of 8 or 16 bits. Safe under threads.

    Raises:
        ImageError: the frame is damaged.
    """
    pool = _pool(os.getpid())
    for take in (pool.taken, _Worker):
        worker = take()
        try:
            decoded = worker.decode(frame, _SECONDS + pixels // _PIXELS_A_SECOND)
        except _EndedBefore:
            continue
        pool.give_back(worker)
        if isinstance(decoded, str):
            raise ImageError(f"expected a whole JPEG-LS frame, got a damaged one ({decoded})")
        return decoded
    raise ImageError("expected a process that decodes JPEG-LS, got one that ends at once; try again")


class _EndedBefore(Exception):
    """A worker was, or may have been, killed while it was idle, such as by the system; another one should try."""


class _Worker:
    """One process, which one thread at a time may use."""

    def __init__(self) -> None:
        program = [sys.executable, "-P", str(Path(__file__).with_name("jpegls_process.py")), str(os.getpid())]
        # In a session of its own, so that who interrupts this process leaves a frame in hand alone.
        self._process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._answered = self._late = False

    def decode(self, frame: bytes, seconds: int) -> npt.NDArray[Any] | str:
        """Return the pixels, or what is wrong with the frame. The process is ended by anything that is raised.

        Raises:
            ImageError: the process ended over the frame. _EndedBefore: it may have ended before.
        """
        deadline = threading.Timer(_WAIT * seconds, self._give_up)
        deadline.daemon = True
        deadline.start()
        try:
            self._send(struct.pack(REQUEST, len(frame), seconds), frame)
            decoded = self._received(seconds)
            self._answered = True
            return decoded
        except BaseException:
            self.end()
            raise
        finally:
            deadline.cancel()

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _send(self, *parts: bytes) -> None:
        assert self._process.stdin is not None
        if self._process.poll() is not None:
            raise _EndedBefore
        try:
            for part in parts:
                self._process.stdin.write(part)
            self._process.stdin.flush()
        except OSError:
            raise _EndedBefore from None

    def _received(self, seconds: int) -> npt.NDArray[Any] | str:
        wrong, rows, columns, samples, size = struct.unpack(REPLY, self._read(struct.calcsize(REPLY), seconds))
        if wrong:
            return self._read(wrong, seconds).decode(errors="replace")
        pixels = np.frombuffer(self._read(rows * columns * samples * size, seconds), f"u{size}")
        return pixels.reshape((rows, columns) if samples == 1 else (rows, columns, samples))

    def _read(self, count: int, seconds: int) -> bytes:
        assert self._process.stdout is not None
        content = self._process.stdout.read(count)
        if len(content) < count:
            if self._process.wait() == -getattr(signal, "SIGXCPU", 0) or self._late:
                raise ImageError(
                    f"expected a JPEG-LS frame that is decoded in {seconds} s, got one that is not; it is damaged"
                )
            if self._answered:
                raise _EndedBefore
            raise ImageError("expected a whole JPEG-LS frame, got a damaged one (the decoder ended)")
        return content

    def end(self) -> None:
        """Kill the process and release its pipes."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # of what is left to write, to a process that has ended
                    pipe.close()
        self._process.wait()


class _Pool:
    """The idle workers of this process, at most one for each core."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def taken(self) -> _Worker:
        """Return an idle worker, or a fresh one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Worker()

    def give_back(self, worker: _Worker) -> None:
        """Give a worker back, or end it where enough are idle."""
        with self._lock:
            kept = len(self._idle) < (os.cpu_count() or 1)
            if kept:
                self._idle.append(worker)
        if not kept:
            worker.end()

    def close(self) -> None:
        """End the idle workers, unless this is a copy that a fork made of their owner."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()


@cache
def _pool(process: int) -> _Pool:
    """Return the workers of a process; a fork has its own, because shared pipes could mix up films."""
    return _Pool()
