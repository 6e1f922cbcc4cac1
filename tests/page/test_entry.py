"""The page behind tokens, as a reader sees it: signing in, reading on as before, signing out."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.audit.chain import verify
from service.guard.tokens import create_token

if TYPE_CHECKING:
    from page_world import Reader

pytestmark = pytest.mark.slow

QUERY = "patient00001/study2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def secret(folder: Path) -> str:
    return create_token(folder / "tokens.json", "reader", ["read"])


@pytest.fixture(scope="module")
def further(folder: Path, secret: str) -> list[str]:
    return ["--tokens", str(folder / "tokens.json"), "--audit", str(folder / "audit.jsonl")]


@pytest.fixture
def signed_in(reader: "Reader", secret: str) -> Iterator["Reader"]:
    """Yield the reader in front of the page of a study, signed in by the form."""
    reader.chrome.get(f"{reader.address}/?study={QUERY}")
    reader.find("#token").send_keys(secret)
    reader.click("main.login button")
    reader.wait("document.documentElement.className === 'scripted'")
    yield reader
    reader.chrome.delete_all_cookies()


def test_a_wrong_token_is_told_beside_the_field(reader: "Reader") -> None:
    reader.chrome.get(f"{reader.address}/docs")
    reader.find("#token").send_keys("precedent_wrong")
    reader.click("main.login button")

    assert reader.text("#refused") == "This token is not known."
    assert reader.ask("return document.activeElement.id") == "token"
    assert [line for line in reader.complaints() if "401" not in line] == []


def test_the_page_reads_as_before_once_signed_in(signed_in: "Reader", folder: Path) -> None:
    assert signed_in.ask("return location.search") == f"?study={QUERY}"
    assert len(signed_in.hits()) == 12
    assert signed_in.ask("return document.cookie") == ""
    signed_in.wait("[...document.querySelectorAll('.hit img')].every((film) => film.naturalWidth > 0)")
    signed_in.find("#predictions")
    signed_in.click("#ask summary")
    signed_in.choose("frontal")
    signed_in.click("#films button[type=submit]")
    signed_in.wait("document.querySelector('#query h2')?.textContent.includes('your films')")

    assert len(signed_in.hits()) == 12
    assert verify(folder / "audit.jsonl").lines > 12


def test_signing_out_leads_back_to_the_form(signed_in: "Reader") -> None:
    signed_in.click("nav form button")

    assert signed_in.text("main.login h2") == "Sign in"
    signed_in.chrome.get(f"{signed_in.address}/")
    assert signed_in.ask("return location.pathname") == "/login"
