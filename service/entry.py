"""Where a person at a browser gives a token, and gives it back.

The token goes into a cookie that no script can read; what it opens, `service.doors` knows.
"""

from urllib.parse import urlsplit

from flask import g, make_response, redirect, render_template, request, url_for
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, Field
from werkzeug.exceptions import Forbidden, Unauthorized
from werkzeug.wrappers import Response as BaseResponse

from service import doors
from service.errors import RequestError
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
        303: {"description": "signed in: the token is in a cookie"},
        401: content("text/html"),
        **refusals(403, 413, 429, 503),
    },
    openapi_extensions=form_body(LoginForm),
)
def sign_in(form: LoginForm) -> tuple[str, int] | BaseResponse:
    """Take a token and keep it in a cookie that scripts cannot read"""
    if not request.form:
        raise RequestError("expected the form of the sign-in page, got none")
    tokens = doors.tokens()
    if tokens is None:
        return redirect(url_for("pages.page"), 303)
    require_own_page()
    try:
        g.scopes = doors.admitted(tokens, form.token.strip() or None).scopes
        doors.require("read")
    except (Unauthorized, Forbidden) as refusal:
        doors.slow()
        return render_template("login.html", next=form.next, message=_sentence(refusal)), 401
    response = redirect(_own(form.next), 303)
    response.set_cookie(doors.COOKIE, form.token.strip(), httponly=True, samesite="Strict", secure=_secure())
    return response


@api.post("/logout", responses={303: {"description": "signed out"}, **refusals(403)})
def sign_out() -> BaseResponse:
    """Forget the token"""
    require_own_page()
    response = make_response(redirect(url_for("entry.login"), 303))
    response.delete_cookie(doors.COOKIE, httponly=True, samesite="Strict")
    return response


def _sentence(refusal: Unauthorized | Forbidden) -> str:
    text = refusal.description or refusal.name
    return f"{text[:1].upper()}{text[1:]}."


def _secure() -> bool:
    """A reverse proxy that speaks https speaks http to us; the browser says what it sees."""
    return request.is_secure or urlsplit(request.headers.get("Origin", "")).scheme == "https"


def _own(address: str) -> str:
    """Return a path of this service, or its page: what leads elsewhere is not followed."""
    plain = address.isascii() and address.isprintable() and "\\" not in address
    return address if plain and address.startswith("/") and not address.startswith("//") else url_for("pages.page")
