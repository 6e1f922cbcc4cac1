"""Lines of what was fetched from a PACS, brought into a collection and sent to a PACS, for `precedent audit verify`."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from index.errors import CollectionError, WriteFailed
from service.audit.log import AuditLog
from service.errors import AuditError


class PacsAudit:
    """A log of its own; none where no file is named. Safe under threads."""

    def __init__(self, path: Path | None) -> None:
        """Continue the log of a file, or begin one. Raises CollectionError: it cannot be continued."""
        try:
            self._log = None if path is None else AuditLog(path)
        except AuditError as refusal:
            raise CollectionError(str(refusal)) from None
        self.write("start", torn_bytes=0 if self._log is None else self._log.torn_bytes)

    def close(self) -> None:
        """Let go of the file."""
        if self._log is not None:
            self._log.close()

    def write(self, event: str, **facts: Any) -> None:
        """Write a line. Raises WriteFailed: the disk does not take it."""
        if self._log is None:
            return
        try:
            self._log.append({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts})
        except AuditError as refusal:
            raise WriteFailed(str(refusal)) from None

    @contextmanager
    def around(self, method: str, **facts: Any) -> Iterator[dict[str, Any]]:
        """Write what is about to be done, and what came of it once it is done: "failed" where it was not.

        Yields:
            What the second line says beside the facts, to be filled in.

        Raises:
            WriteFailed: the disk does not take a line; where it is the first, nothing may be done.
        """
        facts = {"request_id": secrets.token_hex(8), "method": method, **facts}
        self.write("intent", **facts)
        result: dict[str, Any] = {}
        try:
            yield result
        except BaseException:
            self.write("done", **facts, result="failed")
            raise
        self.write("done", **facts, **({"result": "done"} | result))
