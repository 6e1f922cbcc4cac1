"""The service below a path that a proxy shows it by: every address, redirect and cookie has the path, and none but it."""

import re
from pathlib import Path

import click
import pytest
from flask.testing import FlaskClient
from service_world import build_app, build_client, with_tokens

from scripts.verbs.running.serve import require_tokens
from service.errors import MountError
from service.guard.access import COOKIE, SECURE_COOKIE, SECURE_COOKIE_BELOW
from service.guard.tokens import create_token
from service.loader import from_env
from service.prefix import parse_prefix

PREFIX = "/precedent"
BROWSER = {"Accept": "text/html"}
KNOWN = "patient00001/study1"
_ADDRESS = re.compile(r"""(?:href|src|action|data-[a-z]+)="(/[^"]*)\"""")


@pytest.fixture
def client() -> FlaskClient:
    return build_client(prefix=PREFIX)


@pytest.mark.parametrize("base", [PREFIX, ""])
@pytest.mark.parametrize("path", ["/", f"/?study={KNOWN}", "/docs", "/stduy"])
def test_every_address_of_a_page_lies_below_the_prefix(client: FlaskClient, base: str, path: str) -> None:
    page = client.get(base + path, headers=BROWSER)  # with the prefix, or where the proxy takes it off
    addresses = set(_ADDRESS.findall(page.text))

    assert addresses
    assert not [one for one in addresses if not one.startswith(f"{PREFIX}/")]
    for address in addresses:
        with client.get(address.replace("&amp;", "&")) as answer:
            assert answer.status_code == 200 or "view=" in address, address


def test_the_bare_prefix_is_the_page_and_a_longer_word_is_not(client: FlaskClient) -> None:
    assert "Precedent" in client.get(PREFIX, headers=BROWSER).text
    assert client.get(f"{PREFIX}s/healthz").status_code == 404
    assert client.get(f"{PREFIX}{PREFIX}/healthz").status_code == 404


def test_the_document_names_the_server_below_the_prefix(client: FlaskClient) -> None:
    assert client.get(f"{PREFIX}/openapi.json").get_json()["servers"] == [{"url": PREFIX}]
    assert "servers" not in build_client().get("/openapi.json").get_json()


@pytest.fixture
def secret(tmp_path: Path) -> str:
    return create_token(tmp_path / "tokens.json", "reader", ["read"])


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_prefix_that_a_request_claims_is_not_believed(tmp_path: Path, secret: str, prefix: str) -> None:
    client = with_tokens(build_app(prefix=prefix), tmp_path / "tokens.json").test_client()
    claims = {"X-Forwarded-Prefix": "//evil.example", "X-Script-Name": "/evil", "Authorization": f"Bearer {secret}"}
    page = client.get("/", headers=BROWSER | claims, environ_overrides={"SCRIPT_NAME": "//evil.example"})
    stranger = client.get("/", headers=BROWSER, environ_overrides={"SCRIPT_NAME": "//evil.example"})

    assert page.status_code == 200
    assert "evil" not in page.text
    assert stranger.headers["Location"].startswith(f"{prefix}/login?")


@pytest.mark.parametrize(("origin", "name"), [("http", COOKIE), ("https", SECURE_COOKIE_BELOW)])
def test_signing_in_leads_back_below_the_prefix_with_a_cookie_for_it_alone(
    client: FlaskClient, tmp_path: Path, secret: str, origin: str, name: str
) -> None:
    client = with_tokens(client.application, tmp_path / "tokens.json").test_client()
    asked = client.get(f"{PREFIX}/?study={KNOWN}", headers=BROWSER)
    assert asked.headers["Location"] == f"{PREFIX}/login?next=/?study%3D{KNOWN}"
    sent = {"token": secret, "next": f"/?study={KNOWN}"}
    answer = client.post(f"{PREFIX}/login", data=sent, headers={"Origin": f"{origin}://localhost"})
    cookie = answer.headers["Set-Cookie"]

    assert (answer.status_code, answer.headers["Location"]) == (303, f"{PREFIX}/?study={KNOWN}")
    assert cookie.startswith(f"{name}=")
    assert f"Path={PREFIX}" in cookie.split("; ")
    session = cookie.partition(";")[0]
    shown = client.application.test_client(use_cookies=False)
    also = f"{SECURE_COOKIE}=another-service's; {session}"
    assert shown.get(f"{PREFIX}/info", headers={"Cookie": also}).status_code == 200
    left = shown.post(f"{PREFIX}/logout", headers={"Cookie": also})
    assert left.headers["Location"] == f"{PREFIX}/login"
    assert f"Path={PREFIX}" in left.headers["Set-Cookie"].split("; ")
    assert shown.get(f"{PREFIX}/info", headers={"Cookie": also}).status_code == 401


@pytest.mark.parametrize("elsewhere", ["/../other/", "/%2e%2e/other", "/a/%2E./..", "//evil.example", "/\\evil"])
def test_signing_in_leads_to_no_other_service_of_the_host(
    client: FlaskClient, tmp_path: Path, secret: str, elsewhere: str
) -> None:
    client = with_tokens(client.application, tmp_path / "tokens.json").test_client()
    answer = client.post(f"{PREFIX}/login", data={"token": secret, "next": elsewhere})

    assert answer.headers["Location"] == f"{PREFIX}/"


@pytest.mark.parametrize(
    "prefix", ["precedent", "//evil.example", "/a b", "/..", "/a/../b", "/ä", "/a?b", "/" + "a" * 200]
)
def test_a_prefix_of_no_plain_words_is_refused(prefix: str) -> None:
    with pytest.raises(MountError, match="expected a path prefix of"):
        parse_prefix(prefix)


@pytest.mark.parametrize("prefix", ["/v1", "/docs/of/mine", "/film", "/static"])
def test_a_prefix_that_is_a_route_of_our_own_is_refused(prefix: str) -> None:
    with pytest.raises(MountError, match="choose another word"):
        build_client(prefix=parse_prefix(prefix))


def test_a_slash_at_the_end_is_no_part_of_a_prefix() -> None:
    assert [parse_prefix(word) for word in ("", "/", "/a/", " /a/b.c ")] == ["", "", "/a", "/a/b.c"]


def test_a_prefix_without_tokens_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="come through a proxy"):
        require_tokens("127.0.0.1", None, (), PREFIX)
    words = {"PRECEDENT_INDEX": "index", "PRECEDENT_ENCODER": "encoder", "PRECEDENT_PREFIX": PREFIX}
    with pytest.raises(MountError, match="come through a proxy"):
        from_env(words)
