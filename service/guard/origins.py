"""Where a request comes from: under which host name, from which page, from which machine.

It knows a request's headers.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from flask import request
from werkzeug.exceptions import Forbidden
from werkzeug.wsgi import host_is_trusted

from service.errors import RequestError

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OF_PROXIES = frozenset(
    {
        "forwarded",
        "via",
        "cdn-loop",
        "client-ip",
        "x-real-ip",
        "x-real-port",
        "x-host",
        "x-scheme",
        "x-remote-ip",
        "x-remote-addr",
        "x-original-url",
        "x-rewrite-url",
        "x-arr-ssl",
        "x-amzn-trace-id",
        "x-cloud-trace-context",
        "proxy-connection",
    }
)
_BEGUN_BY_PROXIES = (
    "x-forwarded",
    "x-original-",
    "x-originating-",
    "x-envoy-",
    "x-proxy",
    "x-azure-",
    "x-appengine-",
    "cf-",
    "cloudfront-",
    "fastly-",
    "fly-",
    "x-ssl-",
    "ssl-client-",
)
_ENDED_BY_PROXIES = ("-client-ip", "-connecting-ip", "-user-ip", "-forwarded-for")
_REMEDY = "start it with --tokens FILE"


def require_own_name(names: Collection[str]) -> None:
    """Refuse a foreign name: that of a web page which was pointed to this address since. Raises RequestError.

    Not Flask's TRUSTED_HOSTS, which lets no route through, /healthz neither: probes ask a container by its address.
    """
    if not host_is_trusted(request.host.lower(), names):
        raise RequestError(
            f"this service does not answer under the name {request.host!r}; to allow a name, start it with "
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
        raise Forbidden("expected this request from a page of this service, got it from a page of another address")


def require_near() -> None:
    """Without tokens, answer this machine alone, whatever address the server listens on. Raises Forbidden.

    A proxy on this machine has this machine's address and passes strangers on. What it says of itself gives it away:
    headers of the kind that proxies add, or HTTP/1.0, which nginx speaks to what is behind it unless told otherwise.
    """
    if not _is_loopback(request.remote_addr):
        raise Forbidden(
            f"this service has no tokens, so it answers only its own machine, at a loopback address; {_REMEDY}"
        )
    forwarded = (name for name, _ in request.headers if _is_of_proxy(name.lower()))
    sign = next(forwarded, "HTTP/1.0" if request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0" else None)
    if sign is not None:
        raise Forbidden(
            "this service has no tokens, so it answers only its own machine, and this request came through a proxy, "
            f"as {sign[:60]} shows; {_REMEDY}"
        )


def _is_loopback(peer: str | None) -> bool:
    """Return whether an address is this machine's own; none, as of a Unix socket, may be anybody's."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_of_proxy(header: str) -> bool:
    return header in _OF_PROXIES or header.startswith(_BEGUN_BY_PROXIES) or header.endswith(_ENDED_BY_PROXIES)
