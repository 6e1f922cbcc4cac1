"""A reader whose service goes away keeps what is on the page, is told, and tries again once it is back."""

import signal
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from page_world import ENCODER, QUERY, Reader, Relay, build_collection, served, serving

from service.guard.tokens import create_token

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


IMPATIENT = """
    window.most = 1500;
    const held = AbortSignal.timeout.bind(AbortSignal);
    AbortSignal.timeout = (given) => { window.given = given; return held(Math.min(given, window.most)); };
    const { get, set } = Object.getOwnPropertyDescriptor(XMLHttpRequest.prototype, "timeout");
    const property = { get, set(given) { window.sent = given; set.call(this, Math.min(given, window.most)); } };
    Object.defineProperty(XMLHttpRequest.prototype, "timeout", property);
"""
LATE = "The service did not answer in time. Try again"
AWAY = "The service cannot be reached. Try again"
MINUTES = 3 * 60_000


def narrow(reader: Reader) -> None:
    """Ask for another number of hits."""
    reader.ask("document.getElementById('filters').elements.k.value = '24'")
    reader.ask("document.getElementById('filters').dispatchEvent(new Event('change'))")


def send(reader: Reader, film: Path | None = None) -> None:
    """Send a frontal film."""
    reader.ask("document.getElementById('ask').open = true")
    reader.choose("frontal", film)
    reader.click("#films > button")


def test_an_answer_that_never_comes_is_given_up_and_asked_for_again(
    visitor: Reader, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(*words(tmp_path_factory.getbasetemp())) as (server, address):
        visitor.chrome.get(f"{address}/?study={QUERY}")
        visitor.find("#predictions .rows")
        hits = visitor.hits()
        visitor.ask(IMPATIENT)
        server.send_signal(signal.SIGSTOP)
        narrow(visitor)
        assert (visitor.text(LOST), visitor.hits()) == (LATE, hits)
        assert visitor.ask("return window.given") == MINUTES
        send(visitor)
        visitor.wait("window.sent && !document.querySelector('#films > button').disabled")
        assert (visitor.text(LOST), visitor.hits()) == (LATE, hits)
        assert visitor.ask("return window.sent") >= MINUTES
        visitor.ask("document.getElementById('tta').click()")
        visitor.wait("document.querySelector('#predictions .again')")
        assert visitor.text("#predictions > .hint") == LATE
        assert visitor.find("#predictions .rows")

        server.send_signal(signal.SIGCONT)
        visitor.ask("window.most = Infinity")
        visitor.click(AGAIN)
        visitor.wait("document.querySelector('#query h2')?.textContent === 'Query: your films'")
    visitor.complaints()


def test_films_that_are_cut_off_on_their_way_stay_and_can_be_sent_again(
    visitor: Reader, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = words(tmp_path_factory.getbasetemp())
    film = tmp_path / "large.png"
    cv2.imwrite(str(film), np.random.default_rng(0).integers(0, 256, (4_000, 4_000), dtype=np.uint8))
    with serving(*given) as (server, address):
        visitor.chrome.get(f"{address}/?study={QUERY}")
        visitor.find("#predictions .rows")
        hits = visitor.hits()
        server.send_signal(signal.SIGSTOP)
        send(visitor, film)
        visitor.wait("/: [1-9]\\d? %/.test(document.getElementById('status').textContent)")
        server.kill()
        assert (visitor.text(LOST), visitor.hits()) == (AWAY, hits)
        assert visitor.text(".drop.chosen .drop-name") == "large.png"
    with served(*given, port=urlsplit(address).port or 0):
        visitor.click(AGAIN)
        visitor.wait("document.querySelector('#query h2')?.textContent === 'Query: your films'")
    visitor.complaints()


@pytest.mark.parametrize(
    ("most", "told"), [(40, "The answer was incomplete or not from this service. Try again"), (2_000, AWAY)]
)
@pytest.mark.parametrize("asks", [narrow, send])
def test_an_answer_that_ends_in_its_middle_leaves_what_is_shown(
    visitor: Reader, asks: Callable[[Reader], None], most: int, told: str
) -> None:
    with Relay(visitor.address) as relay:
        Thread(target=relay.serve_forever, daemon=True).start()
        visitor.chrome.get(f"{relay.address}/?study={QUERY}")
        visitor.find("#predictions .rows")
        hits = visitor.hits()
        relay.most = most
        asks(visitor)
        assert (visitor.text(LOST), visitor.hits()) == (told, hits)
        visitor.wait("!document.querySelector('#films > button').disabled")
        relay.most = None
        visitor.click(AGAIN)
        visitor.wait(f"!document.querySelector('{LOST}')")
        visitor.find("#predictions .rows")
        relay.shutdown()
    visitor.complaints()


def press_map(reader: Reader) -> None:
    """Follow the first study of the map's list."""
    reader.ask("document.querySelector('#map-list a').click()")


def choose_other(reader: Reader) -> None:
    """Choose the other collection."""
    reader.click("#collection option:nth-child(2)")


def open_hit(reader: Reader) -> None:
    """Step to the next hit beside the open films."""
    reader.ask("document.querySelector('#compare [data-do=next]').click()")


WAYS: dict[str, tuple[str, Callable[[Reader], None]]] = {
    "a card's study": ("", lambda reader: reader.click(".hit .more")),
    "the head": ("", lambda reader: reader.click("h1 a")),
    "the API": ("", lambda reader: reader.click("nav a")),
    "a study by name": ("", lambda reader: reader.find("#study").send_keys("\n")),
    "another collection": ("", choose_other),
    "the page before": ("", lambda reader: reader.ask("history.back()")),
    "a study of the map": ("map", press_map),
    "a card's study beside the films": ("compare", lambda reader: reader.click("#compare-more a")),
    "the next hit": ("compare", open_hit),
}


def test_no_way_to_another_page_leaves_this_one_while_the_service_is_away(
    visitor: Reader, tmp_path_factory: pytest.TempPathFactory
) -> None:
    index = build_collection(tmp_path_factory.getbasetemp() / "page") / "index"
    given = ["main", "other"]
    given = [*(f"{name}={index}" for name in given), "--encoder", str(ENCODER)]
    with served(*given) as address:
        visitor.chrome.get(f"{address}/?study={QUERY}&collection=main")
        visitor.click("h1 a")
        visitor.wait("location.search === ''")
        visitor.chrome.get(f"{address}/?study={QUERY}&collection=main")
        visitor.press("m")
        visitor.find("#map-list a")
        visitor.ask("document.getElementById('map').close()")
        narrow(visitor)
        visitor.wait("document.querySelectorAll('.hit').length > 12")
        visitor.press("1")
        visitor.find("#compare-more a")
        visitor.ask("document.getElementById('compare').close()")
    hits = visitor.hits()
    for way, (dialog, go) in WAYS.items():
        if dialog:
            visitor.ask(f"document.getElementById('{dialog}').showModal()")
        go(visitor)
        place = f"#{dialog} .told > .refused" if dialog else LOST
        assert visitor.text(place) == AWAY, way
        assert visitor.hits() == hits
        visitor.ask(f"document.querySelector('{place}').remove()")
        if dialog:
            visitor.ask(f"document.getElementById('{dialog}').close()")
    visitor.click(".hit .more")
    study = hits[0]
    with served(*given, port=urlsplit(address).port or 0):
        visitor.click(AGAIN)
        visitor.wait("document.querySelector('#query h2')?.textContent === `Query: ${arguments[0]}`", study)
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
        visitor.wait("document.querySelector('.stage[data-side=\"hit\"]')?.dataset.bits")
        visitor.chrome.get(f"{address}/nowhere")
        visitor.click("main.login a")
        visitor.wait("location.pathname === '/precedent/'")
    visitor.chrome.delete_all_cookies()
    visitor.complaints()
