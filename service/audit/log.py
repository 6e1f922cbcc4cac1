"""The audit log as it is written: a line is on disk before the call it tells of is answered.

It knows a file of lines; what a call was, `service.audit.trail` tells it.
"""

import errno
import fcntl
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from service.audit.chain import Head, followed, head_path, read_head, sealed
from service.errors import AuditError

TAIL_BYTES = 1 << 24
"""Read from the end of a log as it is continued: more than the lines that all threads write between two heads."""


class AuditLog:
    """A log that is being written, by one process. Safe under threads.

    Threads that append at the same moment share one fsync. The head beside the log is written after it, so that
    whatever a power cut takes, it never speaks of a line that is not there.
    """

    def __init__(self, path: Path) -> None:
        """Continue the log of a file, or begin one.

        What a kill has left of a half-written last line is put aside, into FILE.torn; `torn_bytes` says how much.

        Raises:
            AuditError: another process writes it, its end is not as it was written, or it cannot be written.
        """
        self.path = path
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self._lost = False
        with ExitStack() as handles:
            try:
                self._open(handles)
                self.torn_bytes = self._put_aside()
                self.head = self._durable = self._end()
                self._begin()
            except BlockingIOError:
                raise AuditError(
                    f"another process is writing {str(path)!r}; give each process its own audit file"
                ) from None
            except OSError as error:
                raise self._unwritable(error) from error
            self._handles = handles.pop_all()

    def append(self, record: dict[str, Any]) -> None:
        """Write one line and return when it is on disk.

        Raises:
            AuditError: it cannot be written; or an earlier one could not be brought to the disk, of which the system
                may have let go since, so that no later success would mean anything.
        """
        self._require_kept()
        try:
            with self._writing:
                line, head = sealed(record, self.head)
                self._write(line)
                self.head = head
            with self._syncing:
                if self._durable.lines < head.lines:
                    self._sync()
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> Head:
        """Return how far the log goes, and let go of it."""
        with self._writing, self._syncing:
            self._handles.close()
        return self.head

    def _open(self, handles: ExitStack) -> None:
        self._log = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        handles.callback(os.close, self._log)
        fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new = os.O_CREAT if not os.fstat(self._log).st_size else 0
        try:
            self._side = os.open(head_path(self.path), os.O_RDWR | new, 0o600)
        except FileNotFoundError:
            read_head(self.path)
            raise
        handles.callback(os.close, self._side)

    def _begin(self) -> None:
        """Have both files and their names on disk before the first line is."""
        self._keep_head()
        os.fsync(self._side)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, line: bytes) -> None:
        """A full disk may take half a line, which must not stay."""
        start = os.fstat(self._log).st_size
        if (written := os.write(self._log, line)) < len(line):
            os.ftruncate(self._log, start)
            raise OSError(errno.ENOSPC, f"only {written} bytes of a line could be written")

    def _require_kept(self) -> None:
        if self._lost:
            raise AuditError(
                f"a line of the audit log {str(self.path)!r} could not be written to disk; check the disk, then start "
                "the service again, which checks the end of the log"
            )

    def _sync(self) -> None:
        self._require_kept()  # another thread's line may have been lost while this one waited
        with self._writing:
            reached = self.head
        try:
            os.fsync(self._log)
        except OSError:
            self._lost = True
            raise
        self._durable = reached
        self._keep_head()

    def _keep_head(self) -> None:
        """One write of always the same length within one sector, so that it is whole or not there."""
        os.pwrite(self._side, f"{self._durable}\n".encode("ascii"), 0)

    def _put_aside(self) -> int:
        """Return how many bytes after the last whole line were moved to FILE.torn."""
        size = os.fstat(self._log).st_size
        tail = self._tail()
        torn = tail[tail.rfind(b"\n") + 1 :]
        if torn:
            with self.path.with_name(self.path.name + ".torn").open("ab") as aside:
                aside.write(torn + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            os.ftruncate(self._log, size - len(torn))
        return len(torn)

    def _tail(self) -> bytes:
        return os.pread(self._log, TAIL_BYTES, max(0, os.fstat(self._log).st_size - TAIL_BYTES))

    def _end(self) -> Head:
        """Return how far the log goes, its last lines looked at: they must go through the head beside it."""
        size, tail = os.fstat(self._log).st_size, self._tail()
        if not size and not os.fstat(self._side).st_size:
            return Head()
        beside = read_head(self.path)
        lines = tail.splitlines(keepends=True)[1 if len(tail) < size else 0 :]
        head = None if len(tail) < size else Head()
        passed = {head}
        for line in lines:
            try:
                head = followed(line, head)
            except ValueError as reason:
                raise self._broken(f"after line {(head or beside).lines}: {reason}") from None
            passed.add(head)
        if head is None or beside not in passed:
            raise self._broken(f"its end does not contain the head {beside}, which {head_path(self.path).name!r} names")
        return head

    def _broken(self, reason: str) -> AuditError:
        return AuditError(
            f"the audit log {str(self.path)!r} was edited or damaged ({reason}); check it with: precedent audit "
            f"verify {self.path}; keep it, and start a new file"
        )

    def _unwritable(self, error: OSError) -> AuditError:
        return AuditError(f"cannot write the audit log {str(self.path)!r}: {error.strerror}")
