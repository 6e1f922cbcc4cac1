"""A reader whose service goes away keeps what is on the page, is told, and tries again once it is back."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_world import ENCODER, QUERY, Reader, build_collection, served

from service.tokens import create_token

pytestmark = pytest.mark.slow
LOST = "#results > .refused"
AGAIN = "#results > .refused .again"


def words(base: Path) -> list[str | Path]:
    """Return what is served: a collection with a probe."""
    world = build_collection(base / "page")
    return [f"main={world / 'index'}", "--encoder", ENCODER, "--probe", world / "probe"]


def test_what_is_shown_stays_while_the_service_is_away(
    visitor: Reader, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = words(tmp_path_factory.getbasetemp())
    with served(*given) as address:
        visitor.chrome.get(f"{address}/?study={QUERY}")
        visitor.find("#predictions .rows")
        hits = visitor.hits()
    assert len(hits) == 12

    visitor.ask("document.querySelector('[name=sex]').value = 'Female'")
    visitor.ask("document.getElementById('filters').dispatchEvent(new Event('change'))")
    assert visitor.text(LOST) == "The service cannot be reached. Try again"
    assert (visitor.hits(), visitor.text("#query h2")) == (hits, f"Query: {QUERY}")
    visitor.choose("frontal")
    visitor.ask("document.getElementById('ask').open = true")
    visitor.click("#films > button")
    visitor.wait(
        "document.querySelector('#results > .refused .again:not(:disabled)') && !document.querySelector('#films > button').disabled"
    )
    assert visitor.hits() == hits
    assert visitor.text(".drop.chosen .drop-name") == "view1_frontal.jpg"

    with served(*given, port=urlsplit(address).port or 0):
        visitor.click(AGAIN)
        visitor.wait("document.querySelector('#query h2')?.textContent === 'Query: your films'")
        visitor.wait(f"!document.querySelector('{LOST}')")
        visitor.find("#predictions .rows")
        assert visitor.all(".drop.chosen") == []
    visitor.complaints()


BUSY = """
    const held = window.fetch;
    window.fetch = async () => {
      window.fetch = held;
      return new Response(arguments[1], { status: arguments[0], headers: { "Content-Type": arguments[2] } });
    };
    const filters = document.getElementById("filters");
    filters.elements.k.value = "24";
    filters.dispatchEvent(new Event("change"));
"""
JSON = '{"error": {"code": "busy", "message": "too many at once", "request_id": "1"}}'
PAGE = '<main class="login"><section><h2>Busy</h2><p>Too many at once.</p></section></main>'
SIGN_IN = '<main class="login"><form><input name="token"></form></main>'


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (429, JSON, "application/json", "Too many at once."),
        (503, PAGE, "text/html; charset=utf-8", "Too many at once."),
        (502, "<h1>nginx</h1>", "text/html", "The service answered 502."),
        (504, "{", "application/json", "The service answered 504."),
        (200, SIGN_IN, "text/html", "You are signed out. Sign in again, in another tab."),
    ],
)
def test_a_refusal_that_passes_leaves_what_is_shown(
    reader: Reader, status: int, body: str, kind: str, told: str
) -> None:
    reader.open(f"/?study={QUERY}")
    reader.find("#predictions .rows")
    hits = reader.hits()
    reader.ask(BUSY, status, body, kind)

    assert reader.text(LOST) == f"{told} Try again"
    assert reader.hits() == hits
    reader.click(AGAIN)
    reader.wait(f"document.querySelectorAll('.hit').length > {len(hits)} && !document.querySelector('{LOST}')")


def test_predictions_that_were_lost_are_asked_for_again(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    reader.find("#predictions .rows")
    reader.chrome.execute_cdp_cmd("Network.enable", {})
    away = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    reader.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", away)
    reader.ask("document.getElementById('tta').click()")
    assert reader.text("#predictions > .hint") == "The service cannot be reached. Try again"
    reader.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", {**away, "offline": False})
    reader.click("#predictions .again")

    assert reader.find("#predictions .rows")
    assert [line for line in reader.complaints() if "ERR_INTERNET_DISCONNECTED" not in line] == []


def test_the_page_works_below_a_prefix(
    visitor: Reader, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = create_token(tmp_path / "tokens.json", "reader", ["read"])
    given = words(tmp_path_factory.getbasetemp())
    with served(*given, "--tokens", tmp_path / "tokens.json", "--prefix", "/precedent") as address:
        assert address.endswith("/precedent")
        visitor.chrome.get(f"{address}/?study={QUERY}")
        visitor.find("#token").send_keys(secret)
        visitor.click("main.login button")
        visitor.find("#predictions .rows")
        visitor.wait("[...document.querySelectorAll('.hit img')].some((film) => film.naturalWidth > 0)")
        visitor.press("1")
        visitor.wait("document.querySelector('.stage[data-side=\"hit\"] img')?.naturalWidth > 0")
        visitor.chrome.get(f"{address}/nowhere")
        visitor.click("main.login a")
        visitor.wait("location.pathname === '/precedent/'")
    visitor.chrome.delete_all_cookies()
    visitor.complaints()
