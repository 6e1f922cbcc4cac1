"""Whence a request comes: by which name, from which page, from which machine.

It knows a request's headers; it must not know tokens or routes.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from flask import request
from werkzeug.exceptions import Forbidden
from werkzeug.wsgi import host_is_trusted

from service.errors import RequestError

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def require_own_name(names: Collection[str]) -> None:
    """Refuse a foreign name: that of a web page which was pointed to this address since. Raises RequestError.

    Not Flask's TRUSTED_HOSTS, which lets no route through, /healthz neither: probes ask a container by its address.
    """
    if not host_is_trusted(request.host.lower(), names):
        raise RequestError(
            f"this service goes by another name than {request.host!r}; serve names one that a proxy or others use by "
            "--public-name NAME"
        )


def require_own_page() -> None:
    """Refuse what a page of another address has had a browser send. Raises Forbidden.

    A SameSite cookie goes along from another port of this host too, so that more is looked at: Fetch Metadata where
    the browser sends it, and the Origin where it does not.
    """
    if request.method in SAFE:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = site == "same-origin" if site else origin is None or urlsplit(origin).netloc == request.host
    if not own:
        raise Forbidden("expected this request from a page of this service, got one of another address")


def require_near() -> None:
    """Without tokens, answer this machine alone, whatever address the server listens on. Raises Forbidden."""
    peer = request.remote_addr
    try:
        near = not peer or ipaddress.ip_address(peer).is_loopback
    except ValueError:
        near = False
    if not near:
        raise Forbidden("this service has no tokens, so it answers its own machine alone; start it with --tokens FILE")
