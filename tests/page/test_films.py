"""A reader looks at films: side by side, zoomed, windowed and inverted together, with heat maps, all kept in the URL."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from page_world import ONE_VIEW, QUERY, Reader

pytestmark = pytest.mark.slow
QUERY_FILM, HIT_FILM = ('.stage[data-side="query"]', '.stage[data-side="hit"]')


def compare(reader: Reader, study: str = QUERY, words: str = "") -> str:
    """Open the first hit of a study beside it and return its name."""
    reader.open(f"/?study={study}{words}")
    reader.find(".hit")
    reader.press("1")
    drawn(reader)
    return reader.hits()[0]


def drawn(reader: Reader) -> None:
    """Wait until every film that is open is drawn."""
    reader.wait(
        "document.querySelector('.stage') && "
        "[...document.querySelectorAll('.stage:not(.empty-stage)')].every((one) => one.dataset.bits)"
    )


def lens(reader: Reader, side: str, what: str) -> Any:
    """Return what a script says of the `lens` of a side's first film, or of its `stage`."""
    found = (
        f"const stage = shown.stages.find((one) => one.side === arguments[0]); const {{ lens }} = stage; done({what})"
    )
    return reader.later(f"const {{ shown }} = await room('viewer/compare.js'); {found}", side)


def placed(reader: Reader, side: str) -> str:
    """Return how a side's film is moved and scaled."""
    return str(lens(reader, side, "lens.matrix().toString()"))


def zoomed(reader: Reader, stage: str, before: str) -> None:
    """Wait until a film's readout is another."""
    reader.wait("document.querySelector(`${arguments[0]} .scale-readout`).textContent !== arguments[1]", stage, before)


def window(reader: Reader, side: str) -> tuple[float, float]:
    """Return the slope and the intercept of a side's window, from black to white both in [0, 1]."""
    slope, intercept = lens(reader, side, "[lens.tone.line[0] * 255, lens.tone.line[1]]")
    return slope, intercept


def test_a_hit_opens_beside_the_query_with_the_same_view(reader: Reader) -> None:
    hit = compare(reader)

    captions = [one.text for one in reader.all(".stage .caption")]
    assert captions == ["Query · frontal", f"Hit 1 · {hit} · frontal"]
    assert reader.ask("return document.activeElement.closest('dialog').id") == "compare"
    reader.press("b")
    assert [one.get_attribute("data-view") for one in reader.all(".stage")] == ["frontal"] * 2 + ["lateral"] * 2


def test_zoom_and_pan_are_linked_until_they_are_parted(reader: Reader) -> None:
    compare(reader)
    before, readout = placed(reader, "query"), reader.text(f"{QUERY_FILM} .scale-readout")
    reader.wheel(QUERY_FILM, -400)
    zoomed(reader, QUERY_FILM, readout)
    reader.press("g")
    reader.drag(HIT_FILM, 40, 25)
    query, hit = placed(reader, "query"), placed(reader, "hit")
    where = "[lens.zoom, lens.x, lens.y]"
    assert lens(reader, "query", where) == pytest.approx(lens(reader, "hit", where))

    reader.press("kk")
    assert reader.text("[data-do=link]").startswith("Not linked")
    reader.drag(HIT_FILM, -60, 0)
    assert placed(reader, "query") == query
    assert placed(reader, "hit") != hit
    reader.press("kwr")
    assert placed(reader, "query") == before


def test_a_film_is_zoomed_without_the_other_view(reader: Reader) -> None:
    compare(reader)
    reader.press("b")
    frontal, lateral = (f'.stage[data-side="query"][data-view="{view}"]' for view in ("frontal", "lateral"))
    drawn(reader)
    before = reader.text(f"{frontal} .scale-readout"), reader.text(f"{lateral} .scale-readout")
    reader.wheel(frontal, -300)
    zoomed(reader, frontal, before[0])

    assert reader.text(f"{lateral} .scale-readout") == before[1]
    reader.press("r")
    assert reader.text(f"{frontal} .scale-readout") == before[0]


def test_a_drag_changes_the_window_and_a_key_inverts_it(reader: Reader) -> None:
    compare(reader)
    assert window(reader, "query") == pytest.approx((1.0, 0.0))
    reader.drag(QUERY_FILM, -100, 60)
    slope, intercept = window(reader, "query")

    assert slope > 1.2
    assert window(reader, "hit") == pytest.approx((slope, intercept))
    assert float(str(reader.find("#width").get_attribute("value"))) == pytest.approx(255 / slope, abs=1)
    reader.press("i")
    assert lens(reader, "hit", "lens.tone.inverted")
    assert reader.find("[data-do=invert]").get_attribute("aria-pressed") == "true"


def test_parted_sides_keep_windows_of_their_own_and_are_inverted_together(reader: Reader) -> None:
    compare(reader)
    reader.press("kk")
    reader.drag(HIT_FILM, -100, 0)
    assert window(reader, "query") == pytest.approx((1.0, 0.0))
    assert window(reader, "hit")[0] > 1.2
    assert reader.text("#window-title") == "Window of the query"

    reader.press("i")
    assert lens(reader, "query", "lens.tone.inverted")
    assert lens(reader, "hit", "lens.tone.inverted")


def test_a_film_stays_in_its_place_at_the_end_of_the_zoom(reader: Reader) -> None:
    compare(reader)
    for _ in range(8):
        reader.wheel(QUERY_FILM, -800)
    reader.wait("Number(document.querySelector('.scale-readout').textContent.split(' ')[0]) > 2000")
    end = placed(reader, "query")
    reader.ask("""
        const stage = document.querySelector('.stage[data-side="query"]');
        const { left, top } = stage.getBoundingClientRect();
        stage.dispatchEvent(new WheelEvent("wheel", { deltaY: -800, clientX: left + 20, clientY: top + 20 }));
    """)

    assert placed(reader, "query") == end


def test_a_heat_map_says_on_both_sides_why_two_studies_are_alike(reader: Reader) -> None:
    compare(reader)
    reader.press("s")
    reader.wait("document.querySelectorAll('#trust li').length >= 2")

    heat = reader.wait("document.querySelector('.heat-layer canvas').style.transform")
    where = "(({ a, d, e, f }) => [a, d, e, f])"
    film = lens(reader, "query", f"{where}(lens.matrix())")
    assert film == pytest.approx(lens(reader, "query", f"{where}(new DOMMatrix('{heat}'))"), rel=1e-4)
    assert any(
        one in reader.text("#trust") for one in ("upported: ", "Not supported: ", "Empty map: ", "Cannot be checked: ")
    )


def stripes(reader: Reader, folder: Path) -> None:
    """Search with a picture of stripes in the frontal's place, and wait until it is called unfamiliar."""
    cv2.imwrite(str(folder / "stripes.png"), np.tile(np.uint8([[30] * 40 + [220] * 40]), (400, 5)))
    reader.open("/")
    reader.choose("frontal", folder / "stripes.png")
    reader.choose("lateral")
    reader.click("#films > button")
    reader.find("#unfamiliar")
    reader.find(".predictions [data-finding]")


def test_the_warning_of_an_unfamiliar_film_stays_in_the_viewer_and_beside_every_map(
    reader: Reader, tmp_path: Path
) -> None:
    stripes(reader, tmp_path)
    words = reader.text("#unfamiliar")
    reader.press("1")
    assert reader.text("#compare .unfamiliar") == words
    reader.press("s")
    reader.wait("document.querySelectorAll('#trust li').length === 2")

    assert all("the query is unfamiliar" in one.text for one in reader.all("#trust li"))
    assert [one.text for one in reader.all(".doubt")] == ["Unreliable: the query is unfamiliar"] * 2
    reader.press("\ue00c")
    reader.wait("!document.getElementById('compare').open")
    reader.press("m")
    assert reader.text("#map .unfamiliar") == words


def test_a_map_that_is_not_to_be_relied_on_is_grey_and_striped(reader: Reader, tmp_path: Path) -> None:
    look = "const {filter, maskImage} = getComputedStyle(document.querySelector('.heat-layer')); return [filter, maskImage]"
    compare(reader)
    reader.press("s")
    reader.wait("document.querySelector('.heat-layer canvas')")
    assert reader.ask(look) == ["none", "none"]

    stripes(reader, tmp_path)
    reader.press("1")
    reader.find(".stage")
    reader.press("s")
    reader.wait("document.querySelector('.doubted canvas')")
    filtered, mask = reader.ask(look)
    assert filtered == "grayscale(1)"
    assert mask.startswith("repeating-linear-gradient")


def test_the_warning_stays_while_the_same_films_are_predicted_anew(reader: Reader, tmp_path: Path) -> None:
    stripes(reader, tmp_path)
    reader.ask("window.fetch = () => new Promise(() => {})")
    reader.click(".predictions .menu summary")
    reader.click("#tta")
    reader.wait("document.querySelector('.predictions').textContent.includes('Computing predictions')")

    assert reader.text("#unfamiliar").startswith("Unfamiliar")


def test_the_warning_needs_no_predictions(reader: Reader, tmp_path: Path) -> None:
    stripes(reader, tmp_path)
    reader.ask("""
        const ask = window.fetch;
        window.fetch = (path, ...rest) =>
          String(path).includes("/v1/predict") ? Promise.reject(new TypeError("no connection")) : ask(path, ...rest);
    """)
    words = reader.text("#unfamiliar")
    reader.press("n")
    reader.choose("frontal", tmp_path / "stripes.png")
    reader.click("#films > button")
    reader.wait("document.querySelector('.predictions').textContent.includes('cannot be reached')")

    assert reader.text("#unfamiliar").startswith(words[:60])


def test_predictions_on_their_way_arrive_though_a_filter_changes_meanwhile(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    reader.find(".predictions [data-finding]")
    reader.ask("""
        const ask = window.fetch;
        window.fetch = async (path, ...rest) => {
          if (String(path).includes("/v1/predict")) await new Promise((ready) => { window.go = ready; });
          return ask(path, ...rest);
        };
    """)
    reader.click(".predictions .menu summary")
    reader.click("#tta")
    reader.wait("Boolean(window.go)")
    reader.click("[name=sex] option[value='']+option")
    reader.wait("location.search.includes('sex=')")
    reader.ask("window.go()")

    reader.find(".predictions [data-finding]")


@pytest.mark.parametrize(
    ("scores", "doubt"),
    [
        ((0.2, 0.7, 0.5, 0.4), ""),
        ((0.5, 0.7, 0.5, 0.4), ""),
        ((0.5, 0.4, 0.5, 0.4), "Unreliable: no better than a random map"),
        ((0.01, 0.02, 0.02, 0.01), "Unreliable: the score is too low to explain"),
    ],
)
def test_a_map_that_holds_no_better_than_a_random_one_is_doubted(
    reader: Reader, scores: tuple[float, ...], doubt: str
) -> None:
    reader.open("/")
    names = ("deletion", "insertion", "random_deletion", "random_insertion")
    script = """
        const [scores, done] = arguments;
        import("/static/viewer/explain.js").then(({ doubtOf }) => done(
          [true, false].map((side) => doubtOf({ ...scores, canvas: {}, side: side ? "hit" : "query" }, side, false))));
    """
    assert reader.chrome.execute_async_script(script, dict(zip(names, scores, strict=True))) == [doubt, doubt]


def test_the_slider_makes_the_heat_map_weaker(reader: Reader) -> None:
    compare(reader)
    opacity = "return getComputedStyle(document.querySelector('.heat-layer')).opacity"
    assert float(reader.ask(opacity)) == 0.55
    reader.press("[[")
    assert float(reader.ask(opacity)) == pytest.approx(0.35)
    reader.press("h")
    assert float(reader.ask(opacity)) == 0
    reader.press("h")
    assert float(reader.ask(opacity)) == pytest.approx(0.35)


def test_a_finding_is_explained_from_its_prediction(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    reader.click('[data-finding="Pleural Effusion"] .actions button')

    assert reader.wait("document.querySelector('.heat-layer canvas')?.width") > 100
    assert reader.find("#why-finding").get_attribute("value") == "Pleural Effusion"
    assert len(reader.all(".stage")) == 1
    reader.wait("document.querySelectorAll('#trust li').length === 1")


def test_a_view_that_a_study_lacks_is_told(reader: Reader) -> None:
    compare(reader, ONE_VIEW)
    reader.press("l")

    stage = reader.find(QUERY_FILM)
    assert "empty-stage" in str(stage.get_attribute("class"))
    assert stage.get_attribute("data-sentence") == "This study has no lateral film."


def test_a_film_that_is_gone_is_told_on_its_card_on_its_stage_and_beside_the_map(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    film = reader.films / reader.hits()[0] / "view1_frontal.jpg"
    film.rename(film.with_suffix(".away"))
    try:
        reader.open(f"/?study={QUERY}")
        assert reader.wait("document.querySelector('.hit .film').matches('.lost')")
        reader.press("1")
        assert reader.wait("document.querySelector(arguments[0])?.matches('.lost')", HIT_FILM)
        reader.press("s")
        assert reader.wait("document.getElementById('why-status').textContent.includes('is not in the image root')")
    finally:
        film.with_suffix(".away").rename(film)
    assert all("404" in one for one in reader.complaints())


def test_a_url_opens_the_same_films_with_the_same_map(reader: Reader) -> None:
    hit = compare(reader)
    reader.press("ls")
    reader.wait("location.search.includes('why=similar') && location.search.includes('view=lateral')")
    reader.wait("document.querySelector('.heat-layer canvas') || document.querySelector('#trust li')")
    reader.chrome.refresh()

    assert reader.text("#compare-title") == f"Query and {hit}"
    assert reader.find(HIT_FILM).get_attribute("data-view") == "lateral"
    assert reader.find("[name=why]:checked").get_attribute("value") == "similar"
    reader.wait("document.querySelectorAll('#trust li').length >= 2")


@pytest.mark.parametrize(
    ("words", "place", "sentence"),
    [
        ("hit=nobody", ".refused", "No study 'nobody'"),
        ("hit={hit}&why=wealth", "#why-status", "expected one of the probe"),
    ],
)
def test_what_a_url_names_and_nobody_knows_is_told(reader: Reader, words: str, place: str, sentence: str) -> None:
    hit = compare(reader)
    reader.open(f"/?study={QUERY}&{words.format(hit=hit)}")

    reader.wait("document.querySelector(arguments[0])?.textContent.includes(arguments[1])", place, sentence)
    assert all("Failed to load resource" in one for one in reader.complaints())


def test_back_and_escape_close_the_films(reader: Reader) -> None:
    compare(reader)
    reader.chrome.back()
    reader.wait("!document.getElementById('compare').open")
    assert "hit=" not in reader.chrome.current_url
    reader.press("2")
    reader.wait("document.getElementById('compare').open && location.search.includes('hit=')")
    reader.press("\ue00c")
    reader.wait("!document.getElementById('compare').open && !location.search.includes('hit=')")


def test_keys_walk_from_hit_to_hit(reader: Reader) -> None:
    compare(reader)
    second = reader.hits()[1]
    reader.press(".")
    reader.wait("document.getElementById('compare-title').textContent === arguments[0]", f"Query and {second}")
    reader.press(",")
    reader.wait("document.querySelector('.stage[data-side=hit] .caption').textContent.startsWith('Hit 1')")


def test_a_method_that_cannot_be_used_is_refused_in_words(reader: Reader) -> None:
    compare(reader)
    reader.ask("document.getElementById('method').append(new Option('palm reading', 'palmistry', true, true))")
    reader.press("s")

    reader.wait("document.getElementById('why-status').textContent.includes('palmistry')")
    assert all("/v1/explain" in one for one in reader.complaints())
