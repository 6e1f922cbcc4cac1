"""The page fits its reader: screens of any size, colours that stand out, true sentences, a bar while films travel."""

import re
from itertools import product

import pytest
from folders import ROOT
from page_world import ONE_VIEW, QUERY, Reader

STATIC = ROOT / "service" / "static"
SMALL, LARGE = (1280, 800), (3840, 2160)
TEXTS = ("text", "quiet", "accent", "present", "uncertain", "absent", "refused")
GROUNDS = ("ground", "panel", "raised")


def colour(name: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour of the page's ground."""
    digits = re.search(rf"--{name}: #(\w{{6}});", (STATIC / "css" / "page.css").read_text())
    assert digits, name
    red, green, blue = bytes.fromhex(digits[1])
    return red, green, blue


def luminance(name: str) -> float:
    """Return the relative luminance that WCAG 2.2 defines of sRGB."""
    parts = [part / 255 for part in colour(name)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("text", "ground"), list(product(TEXTS, GROUNDS)))
def test_text_stands_out_from_its_ground(text: str, ground: str) -> None:
    assert (luminance(text) + 0.05) / (luminance(ground) + 0.05) >= 4.5  # AA for text of any size


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_nothing_is_cut_off_at_the_side(reader: Reader, size: tuple[int, int]) -> None:
    reader.screen(*size)
    for path, keys in (("/", ""), (f"/?study={QUERY}", ""), (f"/?study={QUERY}", "1"), (f"/?study={QUERY}", "m")):
        reader.open(path)
        reader.press(keys)
        reader.wait("!arguments[0] || document.querySelector('dialog[open]')", keys)
        assert reader.ask("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        dialog = "(document.querySelector('dialog[open]') ?? document.body).getBoundingClientRect().right"
        assert reader.ask(f"return {dialog} <= document.documentElement.clientWidth")


@pytest.mark.slow
def test_a_large_screen_shows_both_views_of_both_studies(reader: Reader) -> None:
    reader.screen(*LARGE)
    reader.open(f"/?study={QUERY}")
    reader.press("1")

    reader.find(".stage")
    assert len(reader.all(".stage")) == 4


@pytest.mark.slow
def test_a_bar_moves_while_films_travel(reader: Reader) -> None:
    reader.open("/")
    reader.choose("frontal")
    reader.choose("lateral")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 20_000}
    reader.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", slow)
    reader.click("#films > button")

    assert reader.wait(
        "document.getElementById('progress').checkVisibility()"
        " && /^(Sending the films|Reading)/.test(document.getElementById('status').textContent)"
    )
    reader.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    reader.find(".hit")
    assert not reader.all("#progress")[0].is_displayed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "beginning"),
    [
        ((0.30, 0.80, 0.60, 0.50), "Supported: blurring the highlighted area lowers the score more"),
        ((0.30, 0.50, 0.60, 0.50), "Partly supported: blurring the highlighted area lowers"),
        ((0.60, 0.80, 0.60, 0.50), "Partly supported: the highlighted area alone keeps"),
        ((0.60, 0.50, 0.60, 0.50), "Not supported: "),
        ((-0.2, 0.04, 0.01, 0.00), "Cannot be checked: "),
    ],
)
def test_the_sentence_on_a_map_is_true_of_its_figures(
    reader: Reader, scores: tuple[float, ...], beginning: str
) -> None:
    reader.open("/")
    names = ("deletion", "insertion", "random_deletion", "random_insertion")
    map_of = dict(zip(names, scores, strict=True)) | {"canvas": True}
    sentence = reader.chrome.execute_async_script(
        "import('/static/viewer/explain.js').then((room) => arguments[1](room.trustSentence(arguments[0])))", map_of
    )

    assert str(sentence).startswith(beginning)


@pytest.mark.slow
def test_a_probe_that_disagrees_with_the_neighbours_is_flagged(reader: Reader) -> None:
    reader.open("/")
    ids = sorted(str(film.parent.relative_to(reader.films)) for film in reader.films.glob("*/*/view1_frontal.jpg"))
    study = reader.chrome.execute_async_script(
        """
        const [studies, done] = arguments;
        const ask = (body) => fetch("/v1/predict", {
          method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
        }).then((answer) => answer.json());
        (async () => {
          for (const id of studies) {
            const { predictions } = await ask({ study_id: id });
            if (predictions.some((one) => one.disagrees)) return id;
          }
          return null;
        })().then(done);
        """,
        ids,
    )
    assert study, "no study of the collection is disagreed on"
    reader.open(f"/?study={study}")

    assert "probe and neighbours disagree" in reader.text(".predictions [data-finding] .disagrees")


@pytest.mark.slow
def test_a_lateral_film_alone_is_a_query(reader: Reader) -> None:
    reader.open("/")
    reader.choose("lateral")
    reader.click("#films > button")
    reader.find(".hit")
    reader.press("1")

    assert reader.find('.stage[data-side="query"]').get_attribute("data-view") == "lateral"
    reader.press("f")
    stage = reader.find('.stage[data-side="query"]')
    assert stage.get_attribute("data-sentence") == "This study has no frontal film."


@pytest.mark.slow
def test_a_map_of_a_study_with_one_view_tells_of_that_view_alone(reader: Reader) -> None:
    reader.open(f"/?study={ONE_VIEW}")
    reader.find(".hit")
    reader.press("1")
    reader.find(".stage")
    reader.press("s")
    reader.wait("document.querySelector('#trust li')?.textContent.startsWith('Query, frontal')")
    reader.press("l")

    reader.wait("!document.getElementById('trust').textContent.includes('Query')")


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "first"), [("1", "#stages"), ("m", ".plane")])
def test_on_a_narrow_screen_a_dialog_has_one_column(reader: Reader, keys: str, first: str) -> None:
    reader.screen(400, 800)
    reader.open(f"/?study={QUERY}")
    reader.find(".hit")
    reader.press(keys)
    box, bar, rail = (reader.find(f"dialog[open] {one}").rect for one in (first, ".bar", ".rail"))

    assert box["width"] > 380
    assert bar["y"] + bar["height"] <= box["y"] + 1
    assert rail["y"] >= box["y"] + box["height"] - 1
    reader.screen(*SMALL)
