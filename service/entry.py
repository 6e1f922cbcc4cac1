"""Where a person at a browser gives a token, and gives it back.

The browser keeps a session in a cookie that no script can read; what it opens, `service.doors` knows.
"""

from urllib.parse import urlsplit

from flask import g, make_response, redirect, render_template, request, url_for
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, Field
from werkzeug.exceptions import Forbidden, Unauthorized
from werkzeug.wrappers import Response as BaseResponse

from service import doors
from service.errors import RequestError, as_sentence, refusal_of
from service.openapi import SERVICE, content, form_body, refusals
from service.origins import require_own_page

api = APIBlueprint("entry", __name__, abp_tags=[SERVICE], abp_responses=refusals(400, 500))


class Next(BaseModel):
    """Where to go on after signing in."""

    next: str = Field("/", max_length=doors.MAX_NEXT, description="a path of this service; others are not followed")


class LoginForm(Next):
    """The form of the sign-in page."""

    token: str = Field("", max_length=256)


@api.get("/login", responses={200: content("text/html"), 303: {"description": "nothing to sign in to"}})
def login(query: Next) -> str | BaseResponse:
    """The page that takes a token"""
    if not doors.locked():
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
    """Take a token and begin a session, in a cookie that scripts cannot read"""
    if not request.form:
        raise RequestError("expected the form of the sign-in page, got none")
    tokens = doors.tokens()
    if tokens is None:
        return redirect(url_for("pages.page"), 303)
    require_own_page()
    try:
        token = doors.admitted(tokens, form.token.strip() or None)
        g.scopes = token.scopes
        doors.require("read")
    except (Unauthorized, Forbidden) as refusal:
        doors.slow()
        return render_template("login.html", next=form.next, message=as_sentence(refusal_of(refusal)[2])), 401
    response, secure = redirect(_own(form.next), 303), _secure()
    name = doors.SECURE_COOKIE if secure else doors.COOKIE
    _end_sessions(response, but=name)
    response.set_cookie(name, doors.sessions().begin(token), httponly=True, samesite="Strict", secure=secure)
    return response


@api.post("/logout", responses={303: {"description": "signed out"}, **refusals(403, 503)})
def sign_out() -> BaseResponse:
    """End the session"""
    require_own_page()
    response = make_response(redirect(url_for("entry.login"), 303))
    if doors.locked():
        _end_sessions(response)
    return response


def _end_sessions(response: BaseResponse, but: str = "") -> None:
    """End what the browser's cookies name and have it forget them, but for the cookie `but`. Raises SessionsError."""
    for name in doors.COOKIES:
        if name in request.cookies:
            doors.sessions().end(request.cookies[name])
            if name != but:
                response.delete_cookie(name, httponly=True, samesite="Strict", secure=name == doors.SECURE_COOKIE)


def _secure() -> bool:
    """A reverse proxy that speaks https speaks http to us; the browser says what it sees."""
    return request.is_secure or urlsplit(request.headers.get("Origin", "")).scheme == "https"


def _own(address: str) -> str:
    """Return a path of this service, or its page: what leads elsewhere is not followed."""
    plain = address.isascii() and address.isprintable() and "\\" not in address
    return address if plain and address.startswith("/") and not address.startswith("//") else url_for("pages.page")
