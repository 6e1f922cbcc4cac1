"""Every route times every credential: who passes, who is asked for more, who is asked to slow down."""

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from service_world import build_app, with_tokens

from service.guard.access import COOKIE, OF_COOKIE, OPEN, SCOPE_OF, scope_of
from service.guard.rate_limit import RateLimit
from service.guard.sessions import Sessions
from service.guard.tokens import SCOPES, TokenFile, create_token, now, revoke_token
from service.watch.requests import path_template

APP = build_app()
ROUTES = sorted(
    (method, rule.rule, path_template(rule.rule))
    for rule in APP.url_map.iter_rules()
    for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return a token of each scope, one without each, and those that open nothing; `path` is their file."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    made = {scope: create_token(path, scope, [scope]) for scope in SCOPES}
    made |= {f"no-{scope}": create_token(path, f"no-{scope}", [*({*SCOPES} - {scope})]) for scope in SCOPES}
    made["all"] = create_token(path, "all", list(SCOPES))
    made["expired"] = create_token(path, "expired", list(SCOPES), lifetime=timedelta(0))
    made["revoked"] = create_token(path, "revoked", list(SCOPES))
    revoke_token(path, "revoked")
    return made | {"unknown": made["all"][:-1] + "!", "path": str(path)}


@pytest.fixture(scope="module")
def app(secrets: dict[str, str]) -> Flask:
    """Return an application that asks for those tokens, and never to slow down."""
    return with_tokens(build_app(calls_at_once=100_000), Path(secrets["path"]))


def ask(app: Flask, method: str, rule: str, **headers: str) -> Any:
    """Return the answer of a route to a request that says nothing but who asks."""
    client, path = app.test_client(), rule.replace("<path:filename>", "page.css")
    if cookie := headers.pop("Cookie", ""):
        client.set_cookie(COOKIE, cookie)
    return client.open(re.sub("<[^>]+>", "none", path), method=method, headers=headers, buffered=True)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@lru_cache
def session(path: str, secret: str) -> str:
    """Return a session that a token has begun."""
    token = TokenFile(Path(path)).holder(secret)
    assert token is not None
    return Sessions(Path(path)).begin(token)


def cookie(own: dict[str, str], name: str) -> dict[str, str]:
    return {"Cookie": session(own["path"], own[name])}


STATES: dict[str, Callable[[dict[str, str], str], tuple[dict[str, str], int | None]]] = {
    "nothing": lambda own, scope: ({}, 401),
    "an empty header": lambda own, scope: ({"Authorization": ""}, 401),
    "a password": lambda own, scope: ({"Authorization": "Basic YTpi"}, 401),
    "a token no file holds": lambda own, scope: (bearer(own["unknown"]), 401),
    "a token with a letter outside ASCII": lambda own, scope: (bearer("\xe9" + own["all"]), 401),
    "an expired token": lambda own, scope: (bearer(own["expired"]), 401),
    "a revoked token": lambda own, scope: (bearer(own["revoked"]), 401),
    "a hash from the file": lambda own, scope: (bearer(TokenFile(Path(own["path"]))._current()[0].sha256), 401),
    "every scope but the route's": lambda own, scope: (bearer(own[f"no-{scope}"]), 403),
    "the route's scope alone": lambda own, scope: (bearer(own[scope]), None),
    "every scope": lambda own, scope: (bearer(own["all"]), None),
    "a bad header over a good cookie": lambda own, scope: (bearer(own["unknown"]) | cookie(own, "all"), 401),
    "a session": lambda own, scope: (cookie(own, "all"), None if scope in OF_COOKIE else 401),
    "a session without the scope": lambda own, scope: (cookie(own, f"no-{scope}"), 403 if scope in OF_COOKIE else 401),
    "a session of a revoked token": lambda own, scope: (cookie(own, "revoked"), 401),
    "a session of an expired token": lambda own, scope: (cookie(own, "expired"), 401),
    "a session as a token": lambda own, scope: (bearer(session(own["path"], own["all"])), 401),
    "a token as a session": lambda own, scope: ({"Cookie": own["all"]}, 401),
    "a hash of a session": lambda own, scope: (
        {"Cookie": hashlib.sha256(session(own["path"], own["all"]).encode()).hexdigest()},
        401,
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_every_route_opens_for_its_scope_and_for_nothing_else(app: Flask, secrets: dict[str, str], state: str) -> None:
    for method, rule, template in ROUTES:
        if (scope := SCOPE_OF[f"{method} {template}"]) == OPEN:
            continue
        headers, expected = STATES[state](secrets, scope)
        response = ask(app, method, rule, **headers)
        status, body = response.status_code, response.get_json(silent=True)

        assert (status == expected) if expected else status not in (401, 403, 429), (method, rule, status, body)
        assert ("WWW-Authenticate" in response.headers) == (status == 401), (method, rule)
        assert expected is None or body["error"]["code"] == {401: "unauthorized", 403: "forbidden"}[status]
        assert expected != 403 or repr(scope) in body["error"]["message"], (method, rule)


@pytest.mark.parametrize("state", STATES)
def test_an_open_route_is_open_whatever_is_shown(app: Flask, secrets: dict[str, str], state: str) -> None:
    headers, _ = STATES[state](secrets, "read")
    for path in ("/healthz", "/login", "/static/css/page.css"):
        assert ask(app, "GET", path, **headers).status_code == 200


@pytest.mark.parametrize("route", ["GET /info", "DELETE /v1/studies/{study_id}", "POST /v1/embeddings"])
def test_a_route_without_a_scope_keeps_the_service_from_starting(monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    monkeypatch.delitem(SCOPE_OF, route)

    with pytest.raises(LookupError, match=f"got none of {re.escape(route)}; add it to"):
        build_app()


def test_the_table_names_no_route_that_is_not_there() -> None:
    assert set(SCOPE_OF) == {f"{method} {template}" for method, _, template in ROUTES}


def test_every_scope_opens_some_route_and_only_health_and_the_entry_are_open() -> None:
    assert set(SCOPE_OF.values()) == {*SCOPES, OPEN}
    opened = {route for route, scope in SCOPE_OF.items() if scope == OPEN}
    assert opened == {"GET /healthz", "GET /login", "POST /login", "POST /logout", "GET /static/{filename}"}


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "BREW"])
def test_without_a_token_nobody_learns_which_addresses_exist(app: Flask, secrets: dict[str, str], method: str) -> None:
    for path in ("/nowhere", "/v1//studies", "/info/"):
        assert ask(app, method, path).status_code == 401
        assert ask(app, method, path, **bearer(secrets["metrics"])).status_code in (404, 405)


def test_options_and_head_ask_for_a_token_as_get_does(app: Flask, secrets: dict[str, str]) -> None:
    for method in ("HEAD", "OPTIONS"):
        assert ask(app, method, "/info").status_code == 401
        assert ask(app, method, "/info", **bearer(secrets["read"])).status_code == 200
    assert ask(app, "HEAD", "/info", **bearer(secrets["write"])).status_code == 403


def test_a_search_by_a_vector_needs_the_scope_of_vectors(app: Flask, secrets: dict[str, str]) -> None:
    both = create_token(Path(secrets["path"]), "reader-of-vectors", ["read", "vectors"])
    client = app.test_client()
    by_vector, by_study = {"embedding": [1.0, 0.0]}, {"study_id": "patient00001/study1"}
    refused = client.post("/v1/search", json=by_vector, headers=bearer(secrets["read"]))

    assert (refused.status_code, "'vectors'" in refused.text) == (403, True)
    assert client.post("/v1/search", json=by_vector, headers=bearer(both)).status_code == 200
    assert client.post("/v1/search", json=by_study, headers=bearer(secrets["read"])).status_code == 200
    for secret in (secrets["read"], both):  # the page takes films alone
        assert client.post("/", json=by_vector, headers=bearer(secret)).status_code == 400


def test_a_new_a_revoked_and_a_spoilt_file_take_effect_at_the_next_request(tmp_path: Path) -> None:
    path, app = tmp_path / "tokens.json", build_app()
    first = create_token(path, "first", ["read"])
    app = with_tokens(app, path)
    second = create_token(path, "second", ["read"])

    assert [ask(app, "GET", "/info", **bearer(one)).status_code for one in (first, second)] == [200, 200]
    revoke_token(path, "first")
    assert [ask(app, "GET", "/info", **bearer(one)).status_code for one in (first, second)] == [401, 200]
    path.chmod(0o644)
    spoilt = ask(app, "GET", "/info", **bearer(second))
    assert (spoilt.status_code, str(tmp_path) in spoilt.text) == (503, False)
    assert ask(app, "GET", "/healthz").status_code == 200
    path.unlink()
    assert ask(app, "GET", "/info", **bearer(second)).status_code == 503


def test_a_token_is_held_to_its_pace_and_no_other_pays_for_it(secrets: dict[str, str]) -> None:
    app = with_tokens(build_app(calls_at_once=3, calls_a_second=1), Path(secrets["path"]))
    answers = [ask(app, "GET", "/v1/studies/none", **bearer(secrets["read"])) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [404, 404, 404, 429]
    assert answers[-1].headers["Retry-After"] == "1"
    assert ask(app, "GET", "/v1/studies/none", **bearer(secrets["all"])).status_code == 404
    strangers = [ask(app, "GET", "/info").status_code for _ in range(4)]
    assert strangers == [401, 401, 401, 429]
    assert ask(app, "GET", "/info", **bearer(secrets["all"])).status_code == 200


def test_a_pace_saves_up_no_more_than_its_burst() -> None:
    clock = iter([0.0, 0.0, 0.0, 0.5, 0.6, 100.0, 100.0, 100.0])
    rate = RateLimit(2, 2, lambda: next(clock))

    assert [rate.take("a") for _ in range(8)] == [True, True, False, True, False, True, True, False]


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", 200),
        ("127.8.0.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("::ffff:10.0.0.7", 403),
        ("10.0.0.7", 403),
        ("0.0.0.0", 403),
        ("::", 403),
        ("", 403),
        ("unix:", 403),
        ("nonsense", 403),
    ],
)
def test_without_tokens_only_the_machine_itself_is_answered(peer: str, status: int) -> None:
    client: FlaskClient = build_app().test_client()

    assert client.get("/info", environ_base={"REMOTE_ADDR": peer}).status_code == status
    assert client.get("/healthz", environ_base={"REMOTE_ADDR": peer}).status_code == 200


OF_PROXIES = [
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded",
    "X-Real-IP",
    "Via",
    "CF-Connecting-IP",
    "CF-Ray",
    "X-Client-IP",
    "True-Client-IP",
    "Fastly-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Forwarded-For",
    "X-Envoy-External-Address",
    "X-ProxyUser-Ip",
    "CDN-Loop",
    "Client-IP",
]


@pytest.mark.parametrize("header", OF_PROXIES)
def test_without_tokens_what_a_proxy_passes_on_is_refused_with_a_remedy(header: str) -> None:
    client = build_app().test_client()
    for said in ("10.0.0.7", "127.0.0.1", ""):
        refused = client.get("/info", headers={header: said})

        assert (refused.status_code, refused.get_json()["error"]["code"]) == (403, "forbidden")
        assert "start it with --tokens FILE" in refused.get_json()["error"]["message"]
        assert client.get("/healthz", headers={header: said}).status_code == 200


def test_with_tokens_a_proxy_may_say_what_it_likes(app: Flask, secrets: dict[str, str]) -> None:
    for header in OF_PROXIES:
        assert ask(app, "GET", "/info", **bearer(secrets["read"]), **{header: "10.0.0.7"}).status_code == 200


def test_the_document_says_which_scope_each_operation_asks_for(app: Flask, secrets: dict[str, str]) -> None:
    client = app.test_client()
    document = client.get("/openapi.json", headers=bearer(secrets["read"])).get_json()

    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    assert document["paths"]["/v1/embeddings"]["post"]["security"] == [{"bearer": ["vectors"]}]
    assert {"200", "401", "403", "429"} <= set(document["paths"]["/v1/embeddings"]["post"]["responses"])
    assert "security" not in document["paths"]["/healthz"]["get"]
    assert "security" not in build_app().test_client().get("/openapi.json").text.replace("securitySchemes", "")


def test_times_are_compared_in_utc() -> None:
    assert now().tzinfo is not None
    assert scope_of(None, "GET") is None
