"""A reader looks closely at films: at their own depth, measured, turned, side by side, on a desk and on a phone."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_files import dicom
from firefox_world import firefox
from page_world import QUERY, ROOM, Reader
from selenium.webdriver import ActionChains

pytestmark = pytest.mark.slow
QUERY_FILM, HIT_FILM = ('.stage[data-side="query"]', '.stage[data-side="hit"]')
HEIGHT, WIDTH = 1000, 800
FLOOR = 2000
"""The phantom's grey, in which a square of 200 pixels has one more, of 4096."""
PIXEL = 0.2
"""Millimetres."""
GREY = """(stage, x, y) => {
    const place = stage.stagePoint({ x: x + 0.5, y: y + 0.5 });
    const brush = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    brush.drawImage(stage.canvas, -Math.floor(place.x), -Math.floor(place.y));
    return brush.getImageData(0, 0, 1, 1).data[0];
}"""
Write = Callable[..., None]


@pytest.fixture
def write(reader: Reader) -> Iterator[Write]:
    """Return what puts a phantom of 12 bits in the place of the query's film."""
    path = reader.films / QUERY / "view1_frontal.jpg"
    shutil.copy(path, path.with_suffix(".away"))

    def put(**header: Any) -> None:
        film = np.full((HEIGHT, WIDTH), FLOOR, np.uint16)
        film[400:600, 300:500] += 1
        film[0, 0], film[0, 1] = 0, 4095
        path.write_bytes(dicom(film, BitsStored=12, HighBit=11, **header))

    yield put
    path.with_suffix(".away").rename(path)


def compare(reader: Reader) -> None:
    """Open the first hit beside the query, and wait until both are drawn."""
    reader.open(f"/?study={QUERY}")
    reader.find(".hit")
    reader.press("1")
    reader.wait("[...document.querySelectorAll('.stage')].filter((one) => one.dataset.bits).length === 2")


def of_stage(reader: Reader, script: str, *values: Any) -> Any:
    """Return what a script says of the query's `stage` and its `lens`; `lenses` are those of all."""
    start = "const { shown } = await room('viewer/compare.js'); const [stage] = shown.stages;"
    return reader.later(f"{start} const {{ lens, lenses }} = stage; done({script})", *values)


def grey(reader: Reader, x: float, y: float) -> int:
    """Return what the screen shows, 0 to 255, of a pixel of the query's film."""
    return int(of_stage(reader, f"({GREY})(stage, arguments[0], arguments[1])", x, y))


def drag(reader: Reader, *points: tuple[float, float]) -> None:
    """Drag from one pixel of the query's film to another."""
    stage = reader.find(QUERY_FILM)
    centre = stage.rect["width"] / 2, stage.rect["height"] / 2
    places = [
        of_stage(reader, "(({ x, y }) => [x, y])(stage.stagePoint({ x: arguments[0], y: arguments[1] }))", *one)
        for one in points
    ]
    steps = ActionChains(reader.chrome, duration=20)
    for at, (x, y) in enumerate(places):
        steps.move_to_element_with_offset(stage, round(x - centre[0]), round(y - centre[1]))
        if at == 0:
            steps.click_and_hold()
    steps.release().perform()


@pytest.mark.parametrize("shaded", [True, False])
def test_one_step_of_grey_in_4096_is_seen_once_the_window_is_narrow(reader: Reader, write: Write, shaded: bool) -> None:
    write(WindowCenter=[2048, 2001], WindowWidth=[4096, 4])
    if not shaded:
        script = {"source": "HTMLCanvasElement.prototype.getContext = ((own) => function (kind, ...rest) "
                  "{ return kind === 'webgl2' ? null : own.call(this, kind, ...rest); })"
                  "(HTMLCanvasElement.prototype.getContext)"}  # fmt: skip
        kept = reader.chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        compare(reader)
        wide = [grey(reader, 400, 500), grey(reader, 100, 500)]
        reader.click("#preset option[value='Window 2']")
        narrow = [grey(reader, 400, 500), grey(reader, 100, 500)]
    finally:
        if not shaded:
            reader.chrome.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", kept)

    assert abs(wide[0] - wide[1]) <= 1
    expected = [255 * ((value - 2000.5) / 3 + 0.5) for value in (FLOOR + 1, FLOOR)]  # PS3.3, C.11.2.1.2.1
    assert narrow == pytest.approx(expected, abs=1.5)
    assert reader.text(f"{QUERY_FILM} .scale-readout").endswith("W 4.0 L 2001")


def test_a_film_is_shown_as_its_header_says(reader: Reader, write: Write) -> None:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.add_new("LUTDescriptor", "US", [3, FLOOR - 1, 16])
    item.add_new("LUTData", "US", [0, 40000, 65535])
    write(VOILUTSequence=[item], PhotometricInterpretation="MONOCHROME1")
    compare(reader)

    assert [grey(reader, 100, 500), grey(reader, 400, 500)] == pytest.approx([255 * (1 - 40000 / 65535), 0], abs=1)
    reader.press("i")
    assert grey(reader, 400, 500) == 255


def test_a_drag_moves_the_window_in_proportion_to_its_width(reader: Reader, write: Write) -> None:
    write(WindowCenter=[2048, 2001], WindowWidth=[4096, 40])
    compare(reader)
    seen = []
    for preset in ("Window 1", "Window 2"):
        reader.click(f"#preset option[value='{preset}']")
        before = of_stage(reader, "lens.window")
        reader.drag(QUERY_FILM, -100, 50)
        after = of_stage(reader, "lens.window")
        seen.append((after["width"] / before["width"], (after["center"] - before["center"]) / before["width"]))
        reader.press("r")

    assert seen[0][0] == pytest.approx(0.61, abs=0.02)
    assert seen[0] == pytest.approx(seen[1])


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"ImagerPixelSpacing": [PIXEL, PIXEL]}, "mm at the detector"),
        ({"ImagerPixelSpacing": [0.3, 0.3], "PixelSpacing": [PIXEL, PIXEL]}, "mm"),
        ({}, "px"),
    ],
)
def test_a_known_distance_is_measured_within_a_hundredth(
    reader: Reader, write: Write, header: dict[str, Any], words: str
) -> None:
    write(**header)
    compare(reader)
    reader.press("d")
    drag(reader, (100, 200), (700, 800))
    length, _, rest = reader.text("#measures li span").removeprefix("Query, frontal: ").partition(" ")

    true = np.hypot(600, 600) * (PIXEL if header else 1)
    assert float(length) == pytest.approx(true, rel=0.01)
    assert rest == words
    assert ("No spacing" in reader.text("#spacing")) == (not header)
    assert words.removeprefix("mm") in reader.text(f"{QUERY_FILM} .scale-bar")
    reader.click("#measures button")
    assert not reader.all("#measures li")


def test_angle_and_cardiothoracic_ratio(reader: Reader, write: Write) -> None:
    write(ImagerPixelSpacing=[PIXEL, PIXEL])
    compare(reader)
    reader.press("c")
    drag(reader, (300, 600), (520, 610))  # a slip of the hand: the line runs across all the same
    drag(reader, (200, 700), (640, 700))
    assert reader.wait("document.querySelectorAll('#measures li').length === 1")
    ratio = reader.text("#measures li span")
    assert ratio.startswith("Query, frontal: CTR 0.5")
    assert of_stage(reader, "stage.measures[0].points[1].y === stage.measures[0].points[0].y")

    reader.press("a")
    drag(reader, (200, 200), (400, 200))
    drag(reader, (400, 400), (400, 400))
    angle = reader.all("#measures li span")[1].text
    assert float(angle.removeprefix("Query, frontal: ").removesuffix("°")) == pytest.approx(90, abs=1)
    sums = reader.later("""
        const { angleOf, ratioOf } = await room("viewer/measures.js");
        const film = { spacing: { across: 1, down: 2 }, aspect: 2 };
        const [o, e, s] = [{ x: 0, y: 0 }, { x: 2, y: 0 }, { x: 2, y: 1 }];
        done([angleOf(film, [e, o, s]), ratioOf([{ x: 9 }, { x: 4 }, { x: 0 }, { x: 12.5 }])]);
    """)
    assert sums == pytest.approx([45, 0.4])


def test_all_of_it_works_from_the_keyboard(reader: Reader, write: Write) -> None:
    write(ImagerPixelSpacing=[PIXEL, PIXEL])
    compare(reader)
    reader.press("1")
    assert reader.text(f"{QUERY_FILM} .scale-readout").startswith("100 %")
    reader.ask("document.activeElement.blur()")
    reader.press("d\ue007\ue014\ue007")  # a point, 60 pixels on, another
    assert float(reader.text("#measures li span").split()[2]) == pytest.approx(60 * PIXEL, abs=0.1)
    reader.press("\ue003")
    assert not reader.all("#measures li")
    reader.press("t")
    assert of_stage(reader, "[lens.turn, lenses.of('hit', 'frontal').turn]") == [1, 1]
    corner = of_stage(reader, "lens.matrix().b > 0 && lens.matrix().a < 1e-9")  # what was across runs down
    assert corner
    reader.press("x0")
    assert of_stage(reader, "[lens.flipped, lens.zoom]") == [True, 1]
    reader.press("z")
    assert reader.find(f"{QUERY_FILM} .loupe")
    reader.press("r")
    assert of_stage(reader, "[lens.turn, lens.flipped]") == [0, False]


def test_sides_are_linked_by_anatomy_by_pixel_or_not(reader: Reader, write: Write) -> None:
    write()
    compare(reader)
    both = "[lens, lenses.of('hit', 'frontal')].map((one) => [one.zoom, one.x, one.zoom * one.fit])"
    reader.press("+")
    (zoom, _, scale), (other_zoom, _, other_scale) = of_stage(reader, both)
    assert other_zoom == zoom
    assert other_scale != pytest.approx(scale)
    reader.press("k")
    assert of_stage(reader, both)[0][2] == pytest.approx(of_stage(reader, both)[1][2])
    reader.press("k+")
    assert of_stage(reader, both)[0][2] != pytest.approx(of_stage(reader, both)[1][2])


def test_how_films_hang_is_remembered_and_nothing_of_a_study(reader: Reader) -> None:
    compare(reader)
    reader.press("gkb")
    compare_again = "document.querySelectorAll('.stage').length"
    reader.press("\ue00c")
    reader.open(f"/?study={QUERY}")
    reader.find(".hit")
    reader.press("2")

    assert reader.wait(f"{compare_again} === 4")
    assert reader.find("[data-tool=pan]").get_attribute("aria-pressed") == "true"
    assert reader.text("[data-do=link]").startswith("Linked by pixel")
    kept = reader.ask("return JSON.stringify(window.localStorage)")
    assert set(reader.ask("return Object.keys(window.localStorage)")) <= {"precedent.hanging", "precedent.keys"}
    assert "patient" not in kept


def test_a_phone_shows_one_film_and_a_swipe_the_other(reader: Reader) -> None:
    reader.screen(390, 844)
    compare(reader)
    shown = (
        "[...document.querySelectorAll('.stage')].filter((one) => one.checkVisibility()).map((one) => one.dataset.side)"
    )
    assert reader.ask(f"return {shown}") == ["query"]
    assert reader.ask("return document.documentElement.scrollWidth <= 390")
    assert reader.find("[data-tool=pan]").get_attribute("aria-pressed") == "true"
    box = reader.find(QUERY_FILM).rect
    y = int(box["y"] + box["height"] / 2)
    for x, kind in ((300, "touchStart"), (200, "touchMove"), (90, "touchMove"), (90, "touchEnd")):
        points = [] if kind == "touchEnd" else [{"x": x, "y": y}]
        reader.chrome.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert reader.wait(f"({shown}).join() === 'hit'")
    assert reader.find("[data-side=hit]").get_attribute("aria-pressed") == "true"
    reader.click("#sides [data-side=query]")
    assert reader.ask(f"return {shown}") == ["query"]


def test_a_film_that_is_sent_is_seen_at_its_own_depth(reader: Reader, tmp_path: Path) -> None:
    film = np.tile(np.linspace(0, 4095, 400, dtype=np.uint16), (300, 1))
    (tmp_path / "ramp.dcm").write_bytes(dicom(film, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096))
    reader.open("/")
    reader.choose("frontal", tmp_path / "ramp.dcm")
    reader.click("#films > button")
    reader.find(".hit")
    reader.press("1")
    reader.wait(f"document.querySelector('{QUERY_FILM}')?.dataset.bits === '12'")

    assert grey(reader, 100, 150) == pytest.approx(255 * int(film[0, 100]) / 4095, abs=2)
    assert reader.text(f"{QUERY_FILM} .scale-readout").endswith("W 4096 L 2048")


def test_a_part_that_is_drawn_is_searched_by_and_found_on_the_hits(reader: Reader) -> None:
    compare(reader)
    before = reader.hits()
    reader.click("[data-tool=region]")
    width, height = of_stage(reader, "[stage.film.width, stage.film.height]")
    drag(reader, (width * 0.1, height * 0.2), (width * 0.3, height * 0.3))
    drag(reader, (width * 0.5, height * 0.5), (width * 0.8, height * 0.9))  # in the place of the first
    assert len(reader.all(".marks polygon")) == 1
    assert reader.text("#measures li span").endswith("Region, 30 by 40 % of the film")
    reader.click("#like-part")
    words = "new URLSearchParams(window.location.search)"
    reader.wait(f"{words}.has('region') && document.querySelector('.hit .place[viewBox]')")

    region = [float(side) for side in reader.ask(f"return {words}.get('region')").split(",")]
    assert region == pytest.approx([0.5, 0.5, 0.8, 0.9], abs=0.02)
    assert len(reader.all(".hit .place")) == len(reader.all(".hit .where")) == len(reader.hits())
    assert reader.text("#by-part").startswith("Ranked by the marked part of the query, 50 to 80 % across")
    boxes = "['img', '.place rect'].map((one) => document.querySelector(`#query .film ${one}`).getBoundingClientRect())"
    film, box = reader.ask(f"return {boxes}.map(({{ x, y, width, height }}) => [x, y, width, height])")
    side = min(film[2] / width, film[3] / height)  # the picture lies in the middle, as large as fits
    assert box[2] == pytest.approx(0.3 * width * side, rel=0.1)
    assert box[0] == pytest.approx(film[0] + film[2] / 2, abs=5)
    reader.click("[data-whole-film]")
    reader.wait("!document.querySelector('.hit .place, #by-part')")
    assert (reader.hits(), reader.ask(f"return {words}.has('region')")) == (before, False)
    reader.ask("window.history.back()")
    reader.wait(f"{words}.has('region') && document.querySelector('.hit .place[viewBox]')")


@pytest.mark.long
def test_films_are_seen_and_measured_in_firefox_too(reader: Reader, write: Write, tmp_path: Path) -> None:
    write(WindowCenter="2001", WindowWidth="4", ImagerPixelSpacing=[PIXEL, PIXEL])
    with firefox(tmp_path / "firefox") as other:
        other.open(f"{reader.address}/?study={QUERY}")
        other.wait("document.documentElement.className === 'scripted' && document.querySelector('.hit [data-compare]')")
        other.ask("document.querySelector('.hit [data-compare]').click()")
        other.wait("[...document.querySelectorAll('.stage')].filter((one) => one.dataset.bits).length === 2")
        start = f"{ROOM} const [stage] = (await room('viewer/compare.js')).shown.stages;"
        greys = [other.ask(f"{start} return ({GREY})(stage, {x}, 500)") for x in (400, 100)]
        other.ask("document.querySelector('[data-do=actual]').click()")
        for keys in ("d", "Enter", "ArrowRight", "Enter"):
            other.ask(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{keys}', bubbles: true }}))")
        length = other.ask("return document.querySelector('#measures li span').textContent")

    assert greys == pytest.approx([255 * ((value - 2000.5) / 3 + 0.5) for value in (FLOOR + 1, FLOOR)], abs=1.5)
    assert float(length.split()[2]) == pytest.approx(60 * PIXEL, abs=0.1)
