"""One question to another server over HTTP, bounded in time and bytes; what it answers is for the caller to judge.

Redirects and the environment's proxies are not followed, and a connection serves one question.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from service.errors import MountError


class Reply(NamedTuple):
    """What a server has answered."""

    status: int
    content: bytes
    """One byte more than was asked for at most, where there is more."""


def parse_address(text: str, what: str, remedy: str) -> SplitResult:
    """Return the address that a text names: https, or on this machine http.

    Args:
        what: would be sent there unencrypted. remedy: says where a token is taken from.

    Raises:
        MountError: it is none, or holds a password or a query.
    """
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        host = ""
    if not host or url.scheme not in ("http", "https") or url.username or url.password or url.query or url.fragment:
        raise MountError(
            f"expected an address such as http://127.0.0.1:8001/embed, without a password or a query, got "
            f"{text[:200]!r}; {remedy}"
        )
    if url.scheme == "http" and not _is_loopback(host):
        raise MountError(
            f"expected https:// for {host!r}, for {what} would be sent there unencrypted; http:// is for this machine "
            "alone"
        )
    return url


def ask(
    url: SplitResult,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str],
    *,
    seconds: float,
    most_bytes: int,
    tls: ssl.SSLContext | None = None,
) -> Reply:
    """Return what a server answers to a POST, or without a body to a GET.

    Args:
        seconds: from the connection to the last byte of the answer.
        tls: which certificates are trusted over https; None trusts the system's.

    Raises:
        OSError, HTTPException: no answer in time, or none that is HTTP.
    """
    host = url.hostname or ""
    line: http.client.HTTPConnection
    if url.scheme == "https":
        line = http.client.HTTPSConnection(host, url.port, timeout=seconds, context=tls)
    else:
        line = http.client.HTTPConnection(host, url.port, timeout=seconds)
    ends = threading.Timer(seconds, partial(_cut, line))  # a byte now and then would be waited for without end
    ends.daemon = True
    try:
        ends.start()
        line.request("GET" if body is None else "POST", path, body, dict(headers))
        response = line.getresponse()
        return Reply(response.status, response.read(most_bytes + 1))
    finally:
        ends.cancel()
        line.close()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cut(line: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):
        line.sock.shutdown(socket.SHUT_RDWR)
