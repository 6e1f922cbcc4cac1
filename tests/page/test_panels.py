"""The page's panels: the map of the collection, the report on one sheet, the help, and keys that can be switched off."""

import base64
import re

import pytest
from page_world import QUERY, Reader

pytestmark = pytest.mark.slow
ESCAPE = "\ue00c"


def test_the_map_lists_the_query_first_and_marks_its_hits(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    first = reader.hits()[0]
    reader.press("m")
    reader.find("#map-list li")

    assert "studies. Similar studies often lie close together" in reader.text("#map-status")
    assert reader.text("#map-list li").startswith(QUERY)
    rows = {row.text.split()[0]: row.text for row in reader.all("#map-list li")}
    assert "hit 1" in rows[first]
    assert reader.ask("""
        const canvas = document.getElementById("plane");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.some((value) => value > 0);
    """)


def test_a_point_of_the_map_opens_its_study(reader: Reader) -> None:
    reader.open("/")
    reader.press("m")
    reader.find("#map-list li")
    reader.ask("""
        const canvas = document.getElementById("plane");
        const box = canvas.getBoundingClientRect();
        for (let y = 0; y < box.height; y += 4) for (let x = 0; x < box.width; x += 4) {
          canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + x, clientY: box.top + y }));
          if (document.getElementById("point").hidden) continue;
          canvas.dispatchEvent(new MouseEvent("click", { clientX: box.left + x, clientY: box.top + y }));
          return;
        }
    """)

    assert reader.text("#query h2").startswith("Query: patient")


def test_the_list_beside_the_map_is_searched_and_opened_by_keyboard(reader: Reader) -> None:
    reader.open("/")
    reader.press("m")
    reader.find("#map-search").send_keys(QUERY)
    reader.wait("document.querySelectorAll('#map-list li').length === 1")
    reader.press("\t\n")

    assert reader.text("#query h2") == f"Query: {QUERY}"


def test_films_that_were_sent_have_a_place_on_the_map(reader: Reader) -> None:
    reader.open("/")
    reader.choose("frontal")
    reader.choose("lateral")
    reader.click("#films > button")
    reader.find(".hit")
    reader.press("m")

    assert reader.text("#map-list li").startswith(QUERY)


def test_the_map_is_coloured_by_the_finding_that_is_chosen(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}&finding=Edema")
    hit = reader.hits()[0]
    reader.press("m")
    reader.find("#map-list li")
    reader.ask("""
        const select = document.getElementById("map-finding");
        select.value = "Edema";
        select.dispatchEvent(new Event("change"));
    """)

    reader.wait(
        "[...document.querySelectorAll('#map-list li')].some((row) => "
        "row.textContent.startsWith(arguments[0]) && row.textContent.includes('● present'))",
        hit,
    )


def test_a_call_stands_with_its_reason_on_the_page_and_in_the_report(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    words = reader.text(".predictions [data-finding='Pleural Effusion']")
    reader.ask("window.print = () => { window.printed = true; }; document.getElementById('report-button').click()")
    reader.wait("window.printed")
    sheet = str(reader.ask("return document.getElementById('report').textContent"))

    assert re.search(r"AUROC 0\.\d\d \(0\.\d\d\u2013\d\.\d\d\) on \d+ with, \d+ without", words)
    [call] = re.findall(r"(ruled in|ruled out|possible)$", words, re.MULTILINE)
    reason = {"ruled in": "is at or above", "ruled out": "is below", "possible": "lies between"}[call]
    assert reason in words
    assert re.search(f"Pleural Effusion {call}: 0\\.\\d\\d {reason}", sheet)


def test_the_report_is_one_sheet_with_maps_fingerprint_and_research_use(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    reader.find(".predictions [data-finding]")
    reader.ask("window.print = () => { window.printed = true; }; document.getElementById('report-button').click()")
    reader.wait("window.printed")
    words = str(reader.ask("return document.getElementById('report').textContent"))

    assert QUERY in words
    assert "For research use" in words
    assert str(reader.ask("return document.getElementById('main').dataset.fingerprint")) in words
    assert all(study in words for study in reader.hits()[:6])
    assert reader.ask("return document.querySelectorAll('#report canvas').length") >= 12
    sheet = base64.b64decode(reader.chrome.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", sheet)) == 1


def test_the_report_tells_of_a_map_that_is_not_available(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    reader.find(".predictions [data-finding]")
    reader.ask("""
        const asked = window.fetch;
        window.fetch = (address, ...more) => String(address).includes("/v1/explain")
          ? Promise.reject(new TypeError("no connection")) : asked(address, ...more);
        window.print = () => { window.printed = true; };
        document.getElementById("report-button").click();
    """)
    reader.wait("window.printed")

    told = [str(one.get_attribute("textContent")) for one in reader.all("#report .notice")]
    assert len(told) == 2
    assert all("is not available. The service cannot be reached." in one for one in told)
    assert {one.split(" is not ")[0].partition(" of ")[0] for one in told} == {"The map"}


def test_help_is_shown_by_a_key_and_by_a_button(reader: Reader) -> None:
    reader.open("/")
    reader.press("?")
    assert "heat map: why these two are similar" in reader.text("#help")
    reader.press(ESCAPE)
    reader.wait("!document.getElementById('help').open")
    reader.click("#help-button")
    assert reader.find("#help").is_displayed()


def test_keys_can_be_switched_off_and_stay_off(reader: Reader) -> None:
    reader.open("/")
    reader.press("?")
    reader.click("#keys-on")
    reader.open("/")
    reader.press("?")
    assert not reader.ask("return document.getElementById('help').open")

    reader.click("#help-button")
    reader.click("#keys-on")
    reader.press(ESCAPE + "?")
    assert reader.ask("return document.getElementById('help').open")


def test_a_letter_that_is_typed_is_no_key(reader: Reader) -> None:
    reader.open("/")
    reader.find("#study").send_keys("m?")

    assert reader.find("#study").get_attribute("value") == "m?"
    assert not reader.ask("return document.querySelector('dialog[open]')")
