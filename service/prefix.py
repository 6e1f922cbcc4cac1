"""The path below which a proxy shows the service: taken off each request's own, and put before every address.

What a request says of it, as X-Forwarded-Prefix or SCRIPT_NAME do, is not believed.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

from service.errors import MountError

_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
MAX_PREFIX = 200


def parse_prefix(text: str) -> str:
    """Return a prefix such as /precedent, without a slash at its end; "" where there is none.

    Raises:
        MountError: it is no path of plain words.
    """
    prefix = text.strip().rstrip("/")
    if prefix and (len(prefix) > MAX_PREFIX or not _PREFIX.fullmatch(prefix)):
        raise MountError(
            f"expected a path prefix of a-z, A-Z, 0-9, '.', '_', '~' and '-' between slashes, such as /precedent, got "
            f"{text[:100]!r}"
        )
    return prefix


def register(app: Flask, prefix: str) -> None:
    """Have `app` answer below a prefix, whether the proxy before it takes that off or leaves it on.

    Raises:
        MountError: a route of the service's own begins with the same word, so that the two could not be told apart.
    """
    first = prefix.split("/")[1] if prefix else None
    if any(rule.rule.split("/")[1] == first for rule in app.url_map.iter_rules()):
        raise MountError(
            f"expected a prefix other than the service's own /{first}, got {prefix!r}; choose another word"
        )
    app.config["APPLICATION_ROOT"] = prefix or "/"
    app.wsgi_app = _Below(app.wsgi_app, prefix)  # type: ignore[method-assign]


class _Below:
    """A WSGI application below a prefix, which is empty where it has the whole host."""

    def __init__(self, app: Callable[..., Iterable[bytes]], prefix: str) -> None:
        self._app, self._prefix = app, prefix

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Return the answer of the application to the request without the prefix."""
        path, prefix = environ.get("PATH_INFO", ""), self._prefix
        environ["SCRIPT_NAME"] = prefix
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            environ["PATH_INFO"] = path.removeprefix(prefix) or "/"
        return self._app(environ, start_response)
