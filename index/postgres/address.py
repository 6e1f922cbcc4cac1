"""Addresses of collections in PostgreSQL, as libpq's own, with the collection's name at the end and no password."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from index.engines.address import ServerAddress
from index.errors import CollectionError

_SCHEMES = ("postgresql://", "postgres://")
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")
"""With what a build adds, a name of PostgreSQL, which has 63 characters at most."""
_NAME = re.compile(r"[^/\x00-\x1f\x7f]{1,63}")
_OPTIONS = ("host", "sslmode", "sslrootcert", "sslcert", "sslkey")
"""Of libpq's parameters those that an address may hold; others, such as PGPASSFILE, stand in the environment."""
_EXPECTED = "postgresql://USER@HOST:5432/DATABASE/COLLECTION?sslmode=verify-full"
_SECRET = (
    "expected an address without a password; put it into PGPASSWORD or ~/.pgpass, and of libpq's parameters only "
    f"{', '.join(_OPTIONS)} into the address"
)


@dataclass(frozen=True)
class PostgresAddress(ServerAddress):
    """Where a collection is. What is left out is libpq's to find, in the environment or as its default."""

    engine: ClassVar[str] = "PostgreSQL"
    backend: ClassVar[str] = "postgres"

    server: str
    """HOST or HOST:PORT, "" for libpq's own."""
    user: str
    database: str
    collection: str
    options: tuple[tuple[str, str], ...] = ()
    """Of _OPTIONS, such as ("sslmode", "verify-full")."""

    def __str__(self) -> str:
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        options = f"?{urlencode(self.options, safe='/')}" if self.options else ""
        return f"postgresql://{user}{self.server}/{quote(self.database, safe='')}/{self.collection}{options}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What libpq is given to connect by."""
        host, port = _host_and_port(self.server)
        named = {"user": self.user, "host": host, "port": port, "dbname": self.database}
        return {name: value for name, value in named.items() if value} | dict(self.options)


def is_postgres(text: str) -> bool:
    """Return whether a text means a collection in PostgreSQL."""
    return text.startswith(_SCHEMES)


def parse_postgres(text: str) -> PostgresAddress:
    """Return what an address means.

    Raises:
        CollectionError: it is none, or holds a password or another parameter than may stand there; neither is repeated.
    """
    told = repr(text) if not set(text) & set("@?#") else "another text"  # beside these may stand what is secret
    wrong = CollectionError(f"expected an address such as {_EXPECTED}, got {told}")
    try:
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        port = parts.port
    except ValueError:
        raise wrong from None
    user, _, server = parts.netloc.rpartition("@")
    if ":" in user or not set(options) <= set(_OPTIONS) or parts.fragment:
        raise CollectionError(_SECRET)
    path = parts.path.removeprefix("/").split("/")
    if not is_postgres(text) or len(path) != 2 or port == 0 or (port is not None and not parts.hostname):
        raise wrong
    user, database, collection = unquote(user), unquote(path[0]), path[1]
    if not (_NAME.fullmatch(database) and (not user or _NAME.fullmatch(user)) and _COLLECTION.fullmatch(collection)):
        raise wrong
    if "host" in options and (parts.hostname or not options["host"].startswith("/")):
        raise wrong
    return PostgresAddress(server, user, database, collection, tuple(sorted(options.items())))


def _host_and_port(server: str) -> tuple[str, str]:
    parts = urlsplit(f"//{server}")
    return parts.hostname or "", str(parts.port or "")
