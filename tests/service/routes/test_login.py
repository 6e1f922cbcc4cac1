"""Signing in at a browser: a cookie that scripts cannot read, no way in from another page, none out to another host."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from service_world import build_app, build_client, with_tokens

from service.guard.access import COOKIE, SECURE_COOKIE
from service.guard.sessions import KEPT, LIFETIME, Sessions, sessions_path
from service.guard.tokens import TokenFile, create_token, now, revoke_token

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
STUDY = "patient00001/study1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture
def secret(path: Path) -> str:
    return create_token(path, "reader", ["read"])


@pytest.fixture
def client(path: Path, secret: str) -> FlaskClient:
    """Return a client of a service that asks for tokens."""
    return with_tokens(build_app(), path).test_client()


def test_a_browser_is_led_to_the_form_and_back_to_what_it_asked_for(client: FlaskClient, secret: str) -> None:
    sent_on = client.get(f"/?study={STUDY}&k=24", headers=BROWSER)
    assert sent_on.status_code == 302
    assert sent_on.headers["Location"] == "/login?next=/?study%3Dpatient00001/study1%26k%3D24"
    form = client.get(sent_on.headers["Location"], headers=BROWSER).text
    assert 'name="next" value="/?study=patient00001/study1&amp;k=24"' in form

    signed_in = client.post("/login", data={"token": f" {secret}\n", "next": f"/?study={STUDY}&k=24"})
    assert (signed_in.status_code, signed_in.headers["Location"]) == (303, f"/?study={STUDY}&k=24")
    page = client.get(f"/?study={STUDY}&k=24", headers=BROWSER)
    assert (page.status_code, "Sign out" in page.text) == (200, True)


def test_a_script_is_told_in_json(client: FlaskClient) -> None:
    for path in ("/", "/docs", "/info"):
        assert client.get(path).get_json()["error"]["code"] == "unauthorized"
    assert client.post("/", headers=BROWSER).status_code == 401


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(client: FlaskClient, secret: str) -> None:
    plain = client.post("/login", data={"token": secret}).headers["Set-Cookie"]
    behind_a_proxy = client.post("/login", data={"token": secret}, headers={"Origin": "https://localhost"})
    itself = client.post("/login", data={"token": secret}, base_url="https://localhost")

    assert "HttpOnly" in plain
    assert "SameSite=Strict" in plain
    assert "Path=/" in plain
    assert "Secure" not in plain
    assert "Expires" not in plain
    for answer in (behind_a_proxy, itself):
        secure = answer.headers.getlist("Set-Cookie")[-1]
        assert secure.startswith(f"{SECURE_COOKIE}=")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} == set(secure.split("; ")[1:])


@pytest.mark.parametrize("token", ["", "wrong", "é", "precedent_", "a\x00b"])
def test_a_wrong_token_gets_the_form_again_and_no_cookie(client: FlaskClient, token: str) -> None:
    refused = client.post("/login", data={"token": token, "next": "/docs"})

    assert (refused.status_code, refused.mimetype) == (401, "text/html")
    assert 'role="alert"' in refused.text
    assert 'name="next" value="/docs"' in refused.text
    assert "Set-Cookie" not in refused.headers
    assert not token or token not in refused.text.replace("precedent token", "")


def test_no_flood_of_strangers_keeps_anybody_from_signing_in(path: Path, secret: str) -> None:
    app = with_tokens(build_app(calls_at_once=2, calls_a_second=1), path)
    client = app.test_client()
    floods: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/login", {}),
        ("POST", "/login", {"data": {"token": "wrong"}}),
        ("POST", "/logout", {}),
        ("GET", "/info", {}),
        ("GET", "/info", {"headers": {"Host": "evil.example"}}),
    ]
    last = [[client.open(to, method=how, **given) for _ in range(4)][-1].status_code for how, to, given in floods]

    assert last == [200, 429, 303, 429, 429]
    assert client.get("/", headers=BROWSER).headers["Location"].startswith("/login")
    assert client.get("/login").status_code == 200
    assert client.post("/login", data={"token": secret}).status_code == 303
    assert client.get("/info").status_code == 200


def test_signing_in_is_held_to_the_pace_of_its_token(path: Path, secret: str) -> None:
    app = with_tokens(build_app(calls_at_once=2, calls_a_second=1), path)
    answers = [app.test_client().post("/login", data={"token": secret}).status_code for _ in range(3)]

    assert answers == [303, 303, 429]


def test_a_token_that_cannot_read_does_not_sign_in(client: FlaskClient, path: Path) -> None:
    refused = client.post("/login", data={"token": create_token(path, "watch", ["metrics"])})

    assert (refused.status_code, "scope &#39;read&#39;" in refused.text) == (401, True)


def test_a_revoked_token_is_signed_out_at_the_next_request(client: FlaskClient, path: Path, secret: str) -> None:
    client.post("/login", data={"token": secret})
    assert client.get("/info").status_code == 200
    revoke_token(path, "reader")

    assert client.get("/info").status_code == 401
    assert client.get("/", headers=BROWSER).headers["Location"].startswith("/login")


def test_signing_out_takes_the_cookie_away(client: FlaskClient, secret: str) -> None:
    client.post("/login", data={"token": secret})
    left = client.post("/logout")

    assert (left.status_code, left.headers["Location"]) == (303, "/login")
    assert client.get_cookie(COOKIE) is None
    assert client.get("/info").status_code == 401


def signed_in(client: FlaskClient, secret: str) -> str:
    """Sign in and return the session."""
    client.post("/login", data={"token": secret})
    kept = client.get_cookie(COOKIE)
    assert kept is not None
    return kept.value


def shows(client: FlaskClient, session: str) -> int:
    """Return what a browser with that session alone is answered."""
    other = client.application.test_client()
    other.set_cookie(COOKIE, session)
    return other.get("/info").status_code


def test_the_cookie_is_no_token_and_neither_is_told_by_the_other(client: FlaskClient, path: Path, secret: str) -> None:
    session = signed_in(client, secret)

    assert session not in (secret, signed_in(client, secret))
    assert secret not in client.post("/login", data={"token": secret}).headers["Set-Cookie"]
    kept = path.read_bytes() + sessions_path(path).read_bytes()
    assert not any(word.encode() in kept for word in (session, secret))
    assert sessions_path(path).stat().st_mode & 0o777 == 0o600
    assert client.get("/info", headers={"Authorization": f"Bearer {session}"}).status_code == 401


def test_a_session_that_was_signed_out_opens_nothing_for_whoever_has_kept_it(client: FlaskClient, secret: str) -> None:
    session = signed_in(client, secret)
    assert shows(client, session) == 200
    client.post("/logout")

    assert shows(client, session) == 401


def test_signing_in_never_takes_a_session_that_was_given(client: FlaskClient, secret: str) -> None:
    client.set_cookie(COOKIE, "planted")
    first = signed_in(client, secret)
    second = signed_in(client, secret)

    assert [shows(client, one) for one in ("planted", first, second)] == [401, 401, 200]


def test_a_session_ends_with_the_day_and_the_oldest_of_very_many(path: Path, secret: str) -> None:
    token, at = TokenFile(path).holder(secret), [now()]
    assert token is not None
    sessions = Sessions(path, lambda: at[0])
    begun = []
    for _ in range(KEPT + 2):
        begun.append(sessions.begin(token))
        at[0] += timedelta(seconds=1)

    assert [sessions.token_of(one) is None for one in begun] == 2 * [True] + KEPT * [False]
    at[0] += LIFETIME - timedelta(seconds=1)
    assert sessions.token_of(begun[-1]) is None


def test_another_process_takes_the_session_and_its_end(client: FlaskClient, path: Path, secret: str) -> None:
    session = signed_in(client, secret)
    other = with_tokens(build_app(), path)
    second = other.test_client()
    second.set_cookie(COOKIE, session)

    assert second.get("/info").status_code == 200
    client.post("/logout")
    assert second.get("/info").status_code == 401


@pytest.mark.parametrize("spoil", [lambda file: file.chmod(0o644), lambda file: file.write_bytes(b"x" * 9_000)])
def test_sessions_that_cannot_be_believed_let_nobody_in_and_tokens_go_on(
    client: FlaskClient, path: Path, secret: str, spoil: Callable[[Path], Any]
) -> None:
    signed_in(client, secret)
    spoil(sessions_path(path))

    for refused in (client.get("/info"), client.post("/login", data={"token": secret}), client.post("/logout")):
        assert (refused.status_code, str(path.parent) in refused.text) == (503, False)
    assert (
        client.application.test_client().get("/info", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    )


ELSEWHERE = [
    "https://evil.example/",
    "//evil.example",
    "/\\evil.example",
    "javascript:alert(1)",
    "\t//evil.example",
    "/\r\nX: y",
    "evil",
    "",
]


@pytest.mark.parametrize("address", ELSEWHERE)
def test_nobody_is_led_to_another_host(client: FlaskClient, secret: str, address: str) -> None:
    signed_in = client.post("/login", data={"token": secret, "next": address})

    assert (signed_in.status_code, signed_in.headers["Location"]) == (303, "/")


FOREIGN = {
    "another site": {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    "another port of this host": {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9999"},
    "another site in an old browser": {"Origin": "https://evil.example"},
    "another port in an old browser": {"Origin": "http://localhost:9999"},
    "a page that hides where it is from": {"Origin": "null"},
}


@pytest.mark.parametrize("page", FOREIGN)
def test_a_page_of_another_address_can_send_nothing_with_the_cookie(
    client: FlaskClient, secret: str, page: str
) -> None:
    client.post("/login", data={"token": secret})
    for path in ("/", "/v1/search", "/login", "/logout"):
        given = {"data": {"token": secret}} if path == "/login" else {"json": {"study_id": STUDY}}
        refused = client.post(path, **given, headers=FOREIGN[page])

        assert (refused.status_code, refused.get_json()["error"]["code"]) == (403, "forbidden")
    assert client.get_cookie(COOKIE) is not None


@pytest.mark.parametrize("page", FOREIGN)
def test_without_tokens_a_page_of_another_address_can_send_nothing_either(page: str) -> None:
    client = build_client()

    assert client.post("/v1/search", json={"study_id": STUDY}, headers=FOREIGN[page]).status_code == 403
    assert client.post("/v1/search", json={"study_id": STUDY}).status_code == 200


def test_the_own_page_can_search_with_the_cookie(client: FlaskClient, secret: str) -> None:
    client.post("/login", data={"token": secret})
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}, {}):
        assert client.post("/v1/search", json={"study_id": STUDY}, headers=headers).status_code == 200


def test_the_form_loads_nothing_from_outside_and_nothing_inline(client: FlaskClient) -> None:
    answer = client.get("/login")

    assert "default-src 'none'; script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=", answer.text)
    for address in re.findall(r'(?:src|href|action)="([^"]*)"', answer.text):
        assert address == "/login" or client.get(address, buffered=True).status_code == 200


def test_without_tokens_there_is_nothing_to_sign_in_to() -> None:
    client = build_client()

    assert client.get("/login").headers["Location"] == "/"
    assert client.post("/login", data={"token": "x"}).headers["Location"] == "/"
    assert "Sign out" not in client.get("/").text
