"""Who may pass: which scope each route asks for, what a request shows for it, and how often it may come.

On a service without tokens only the machine itself may pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from flask import Flask, redirect, request, url_for
from werkzeug.datastructures import Authorization, WWWAuthenticate
from werkzeug.exceptions import Forbidden, TooManyRequests, Unauthorized
from werkzeug.http import parse_cookie
from werkzeug.local import LocalProxy
from werkzeug.routing import Rule
from werkzeug.wrappers import Response as BaseResponse

from service.context import call, running
from service.errors import RequestError, SessionsError, TokensError
from service.guard.origins import require_near, require_own_name, require_own_page
from service.guard.rate_limit import RateLimit
from service.guard.sessions import Sessions
from service.guard.tokens import Token, TokenFile, now
from service.limits import Limits
from service.watch.requests import ALIVE, path_template

OPEN = "open"
SCOPE_OF = {
    "GET /healthz": OPEN,
    "GET /login": OPEN,
    "POST /login": OPEN,
    "POST /logout": OPEN,
    "GET /static/{filename}": OPEN,
    "GET /docs/static/{filename}": "read",
    "GET /": "read",
    "POST /": "read",
    "GET /film/{study_id}": "read",
    "GET /hits": "read",
    "GET /docs": "read",
    "GET /docs/guide": "read",
    "GET /openapi.json": "read",
    "GET /info": "read",
    "GET /readyz": "metrics",
    "GET /metrics": "metrics",
    "POST /v1/search": "read",
    "POST /v1/searches": "read",
    "POST /v1/queries": "read",
    "GET /v1/queries/{query_id}": "read",
    "DELETE /v1/queries/{query_id}": "read",
    "POST /v1/queries/{query_id}/mend": "read",
    "GET /v1/queries/{query_id}/image": "read",
    "POST /v1/predict": "read",
    "POST /v1/explain": "read",
    "GET /v1/map": "read",
    "POST /v1/map": "read",
    "GET /v1/studies": "read",
    "GET /v1/studies/{study_id}": "read",
    "GET /v1/studies/{study_id}/image": "read",
    "GET /v1/studies/{study_id}/similar": "read",
    "POST /v1/embeddings": "vectors",
    "GET /v1/remote": "remote",
    "POST /v1/remote/search": "remote",
    "POST /v1/studies": "write",
    "DELETE /v1/studies/{study_id}": "write",
    "POST /v1/indexes/{name}/activate": "admin",
}
"""The one table: a route that is not here keeps the service from starting."""
COOKIE = "precedent_session"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""Over https: a browser takes a cookie of that name from this very host alone, and never sends it in the clear."""
SECURE_COOKIE_BELOW = f"__Secure-{COOKIE}"
"""The same below a prefix, whose cookie goes to no other path: one of `__Host-` goes to every path of the host."""
OF_COOKIE = frozenset({"read", "vectors"})
"""Scopes of what a page asks. A cookie opens nothing else, so that no foreign page can have anything changed."""
STRANGERS = ""
"""Under which all are counted together who show no token, or come by a foreign name: no token has that name."""
NEAR = ""
"""The name of all who ask a service without tokens."""
MAX_NEXT = 4096
"""Characters of an address to which a browser is led back."""

_EXPECTED = "expected a token: Authorization: Bearer TOKEN"


@dataclass(frozen=True)
class AccessControl:
    """Who may ask one application for what; without tokens whoever is on this machine may ask for all."""

    rate: RateLimit
    hosts: tuple[str, ...]
    cookie_names: tuple[str, str]
    """Under which a browser keeps a session: over https, and in the clear."""
    tokens: TokenFile | None = None
    sessions: Sessions | None = None
    """Beside the tokens."""

    @classmethod
    def of(cls, limits: Limits, tokens: TokenFile | None = None) -> "AccessControl":
        """Return access control that requires one of these tokens, on a loopback address too; None requires none."""
        names = (SECURE_COOKIE_BELOW if limits.prefix else SECURE_COOKIE, COOKIE)
        rate = RateLimit(limits.calls_a_second, limits.calls_at_once)
        return cls(rate, limits.hosts, names, tokens, None if tokens is None else Sessions(tokens.path))

    def sender(self, environ: Mapping[str, Any]) -> str | None:
        """Return the name of the token of who sends this request; None of those who may not come in at all.

        Asked before a body is received, to be spared a stranger's. Without tokens all have one name.

        Args:
            environ: WSGI's, of which the headers are read.
        """
        if self.tokens is None:
            return NEAR
        given = Authorization.from_header(environ.get("HTTP_AUTHORIZATION"))
        try:
            if given is not None:
                token = self.tokens.holder(given.token) if given.token else None
            else:
                token = self.of_session(self.session_of(parse_cookie(environ.get("HTTP_COOKIE"))))
        except (TokensError, SessionsError):
            return None
        return token.name if token is not None and token.state(now()) == "valid" else None

    def session_of(self, cookies: Mapping[str, str]) -> str | None:
        """Return the session that cookies name."""
        return next((cookies[name] for name in self.cookie_names if name in cookies), None)

    def of_session(self, session: str | None) -> Token | None:
        """Return the token that a session stands for, whatever its state. Raises TokensError, SessionsError."""
        if not session or self.tokens is None or self.sessions is None:
            return None
        sha256 = self.sessions.token_of(session)
        return None if sha256 is None else self.tokens.of_hash(sha256)


access = cast(AccessControl, LocalProxy(lambda: running.access))
"""That of the running application."""


def register(app: Flask) -> None:
    """Check every request of `app`. Raises LookupError where a route has no scope in the table."""
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            scope_of(rule, method)
    app.before_request(_check)


def scope_of(rule: Rule | None, method: str) -> str | None:
    """Return the scope that a route asks for; None where there is no route, or only its methods are asked for.

    Raises:
        LookupError: a route that is not in the table.
    """
    if rule is None or method == "OPTIONS":
        return None
    route = f"{'GET' if method == 'HEAD' else method} {path_template(rule.rule)}"
    if route not in SCOPE_OF:
        raise LookupError(
            f"expected a scope of every route, got none of {route}; add it to service.guard.access.SCOPE_OF"
        )
    return SCOPE_OF[route]


def scopes() -> dict[str, str | None]:
    """Return the scope of every route, None where it is open."""
    return {route: None if scope == OPEN else scope for route, scope in SCOPE_OF.items()}


def require(scope: str) -> None:
    """Refuse a request whose token lacks a scope beyond its route's. Raises Forbidden."""
    if locked() and scope not in call.scopes:
        raise Forbidden(f"this request needs a token with the scope {scope!r}, which this one lacks")


def require_rate(calls: int) -> None:
    """Count further calls of the running request's token, which a request of several makes. Raises TooManyRequests."""
    if locked() and not access.rate.take(call.principal or STRANGERS, calls):
        raise TooManyRequests(
            "more searches at once than this token may make; ask for fewer, or try again in some seconds", retry_after=1
        )


def locked() -> bool:
    """Return whether the running application asks for tokens."""
    return access.tokens is not None


def _check() -> BaseResponse | None:
    """Let the request pass, or refuse it; a browser without a token is shown where to give one."""
    rule = request.url_rule
    scope = scope_of(rule, request.method)
    if rule is None or rule.rule != ALIVE:
        _require_own_name()
    if scope == OPEN:
        if rule is not None and rule.endpoint.startswith("login.") and locked():
            _count(STRANGERS)
        return None
    if access.tokens is None:
        require_near()
        require_own_page()
        call.exact = True
        return None
    try:
        note_scopes(_shown(access.tokens, scope))
    except Unauthorized:
        _count(call.principal or STRANGERS)
        if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
            return redirect(url_for("login.login", next=request.full_path.rstrip("?")[:MAX_NEXT]))
        slow()
        raise
    if scope is not None:
        require(scope)
    return None


def _require_own_name() -> None:
    try:
        require_own_name(access.hosts)
    except RequestError:
        _count(STRANGERS)
        slow()
        raise


def _count(name: str) -> None:
    """Note whether the holder of a token that is valid no more, or all who show none together, keep to their rate.

    Else they could fill the audit log: beyond it a request is counted there and not logged. The way to the sign-in
    page stays open however many ask, so that nobody can keep others from signing in.
    """
    call.over_rate = not access.rate.take(name)


def slow() -> None:
    """Refuse a request beyond that rate. Raises TooManyRequests."""
    if call.over_rate:
        raise TooManyRequests("too many requests without a valid token; try again in a second", retry_after=1)


def admitted(known: TokenFile, secret: str | None) -> Token:
    """Return the valid token that `secret` is, and note whose it is; from then on its own rate alone counts.

    Raises:
        Unauthorized: it is none. TooManyRequests: beyond that rate.
    """
    token = known.holder(secret) if secret else None
    if token is None:
        raise _unauthorized("this token is not known" if secret else _EXPECTED)
    return _valid(token)


def note_scopes(token: Token) -> None:
    """Note what the running request may, of which this is the token."""
    call.scopes, call.exact = token.scopes, "vectors" in token.scopes


def _shown(known: TokenFile, scope: str | None) -> Token:
    """Return the valid token of the header or, for what a page of ours asks, of the session in the cookie."""
    if "Authorization" in request.headers:
        given = request.authorization
        return admitted(known, given.token if given is not None and given.type == "bearer" else None)
    if (session := access.session_of(request.cookies)) is None:
        raise _unauthorized(_EXPECTED)
    if scope is not None and scope not in OF_COOKIE:
        raise _unauthorized("this route accepts a token only in the header Authorization: Bearer TOKEN")
    require_own_page()
    token = access.of_session(session)
    if token is None:
        raise _unauthorized("this session has ended; sign in again")
    return _valid(token)


def _valid(token: Token) -> Token:
    call.principal = token.name
    if (state := token.state(now())) != "valid":
        raise _unauthorized(f"this token is {state}; ask for a new one")
    call.over_rate = False
    if not access.rate.take(token.name):
        raise TooManyRequests("too many requests with this token; try again in a second", retry_after=1)
    return token


def _unauthorized(sentence: str) -> Unauthorized:
    return Unauthorized(sentence, www_authenticate=WWWAuthenticate("bearer", {"realm": "precedent"}))
