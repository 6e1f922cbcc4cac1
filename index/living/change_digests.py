"""By what a change that was turned, moved or lost is noticed: a SHA-256 of each, their sum, and a seal on the facts.

Knows values as SQLite gives them back, which may be of any type where the file is damaged; it must not know the file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = 64 * "0"
"""The sum of no changes."""


def digest(sequence: Any, study_id: Any, text: Any, blob: Any) -> str:
    """Return the SHA-256 of a change, 64 hex digits; "" where its parts are of types that no change has."""
    try:
        parts = (str(sequence).encode(), study_id.encode(), (text or "").encode(), bytes(memoryview(blob or b"")))
    except (AttributeError, TypeError):
        return ""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()


def summed(total: str, added: Sequence[str], gone: Sequence[str] = ()) -> str:
    """Return a sum of digests, modulo 2^256 and in hex, with some more and some less: the same in any order."""
    value = int(total, 16) + sum(int(one, 16) for one in added) - sum(int(one, 16) for one in gone)
    return f"{value % 2**256:064x}"


def seal(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of facts, 64 hex digits; "" where they are of types that no fact has."""
    try:
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    except TypeError:
        return ""
