"""Signing in and out at a browser.

The browser keeps a session in a cookie that no script can read; what it opens, `service.guard.access` knows.
"""

from urllib.parse import unquote, urlsplit

from flask import current_app, make_response, redirect, render_template, request, url_for
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, Field
from werkzeug.exceptions import Forbidden, Unauthorized
from werkzeug.wrappers import Response as BaseResponse

from service.api.openapi import SERVICE, content, form_body, refusals
from service.errors import RequestError, as_sentence, refusal_of
from service.guard.access import MAX_NEXT, access, admitted, locked, note_scopes, require, slow
from service.guard.origins import require_own_page
from service.guard.sessions import Sessions

api = APIBlueprint("login", __name__, abp_tags=[SERVICE], abp_responses=refusals(400, 500))


class Next(BaseModel):
    """Where to go on after signing in."""

    next: str = Field(
        "/", max_length=MAX_NEXT, description="a path of this service to go to after signing in; any other is ignored"
    )


class LoginForm(Next):
    """The form of the sign-in page."""

    token: str = Field("", max_length=256)


@api.get("/login", responses={200: content("text/html"), 303: {"description": "nothing to sign in to"}})
def login(query: Next) -> str | BaseResponse:
    """The sign-in page"""
    if not locked():
        return redirect(url_for("pages.page"), 303)
    return render_template("login.html", next=query.next)


@api.post(
    "/login",
    responses={
        303: {"description": "signed in: a session is in a cookie"},
        401: content("text/html"),
        **refusals(403, 413, 429, 503),
    },
    openapi_extensions=form_body(LoginForm),
)
def sign_in(form: LoginForm) -> tuple[str, int] | BaseResponse:
    """Sign in with a token, which starts a session in a cookie that scripts cannot read"""
    if not request.form:
        raise RequestError("expected the form of the sign-in page, got another request")
    tokens, sessions = access.tokens, access.sessions
    if tokens is None or sessions is None:
        return redirect(url_for("pages.page"), 303)
    require_own_page()
    try:
        token = admitted(tokens, form.token.strip() or None)
        note_scopes(token)
        require("read")
    except (Unauthorized, Forbidden) as refusal:
        slow()
        return render_template("login.html", next=form.next, message=as_sentence(refusal_of(refusal)[2])), 401
    response, secure = redirect(_own(form.next), 303), _secure()
    name = access.cookie_names[0 if secure else 1]
    _end_sessions(sessions, response, but=name)
    response.set_cookie(name, sessions.begin(token), path=_path(), httponly=True, samesite="Strict", secure=secure)
    return response


@api.post("/logout", responses={303: {"description": "signed out"}, **refusals(403, 503)})
def sign_out() -> BaseResponse:
    """Sign out"""
    require_own_page()
    response = make_response(redirect(url_for("login.login"), 303))
    if access.sessions is not None:
        _end_sessions(access.sessions, response)
    return response


def _end_sessions(sessions: Sessions, response: BaseResponse, but: str = "") -> None:
    """End what the browser's cookies name and have it forget them, but for the cookie `but`. Raises SessionsError."""
    over_https, _ = names = access.cookie_names
    for name in names:
        if name in request.cookies:
            sessions.end(request.cookies[name])
            if name != but:
                response.delete_cookie(name, path=_path(), httponly=True, samesite="Strict", secure=name == over_https)


def _path() -> str:
    """Return below which path a browser sends the cookie: what else the host shows is not sent it."""
    path: str = current_app.config["APPLICATION_ROOT"]
    return path


def _secure() -> bool:
    """A reverse proxy that speaks https speaks http to us; the browser says what it sees."""
    return request.is_secure or urlsplit(request.headers.get("Origin", "")).scheme == "https"


def _own(address: str) -> str:
    """Return the address of a path of this service, or of its page: what leads elsewhere is not followed."""
    plain = address.isascii() and address.isprintable() and "\\" not in address
    if not plain or not address.startswith("/") or address.startswith("//"):
        return url_for("pages.page")
    if ".." in unquote(address.partition("?")[0]).split("/"):
        return url_for("pages.page")
    return request.script_root + address
