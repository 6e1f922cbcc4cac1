"""A reader chooses between two collections; every address keeps the choice."""

import pytest
from page_world import QUERY, Reader, build_index

pytestmark = pytest.mark.slow
FEW = "patient00002/study1"


@pytest.fixture(scope="module")
def further(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    few = tmp_path_factory.mktemp("few")
    build_index(few, patients=5, seed=8)
    return [f"few={few / 'index'}"]


def test_a_collection_is_chosen_and_searched(reader: Reader) -> None:
    reader.open("/")
    assert reader.ask("return [...document.getElementById('collection').options].map((one) => one.value)") == [
        "main",
        "few",
    ]
    reader.click("#collection option[value=few], #collection option:nth-child(2)")
    reader.wait("location.search === '?collection=few' && document.documentElement.className === 'scripted'")
    assert "of few" in reader.text(".collection")
    reader.find("#study").send_keys(f"{FEW}\n")
    reader.find(".hit")

    assert len(reader.hits()) == 4
    assert "collection=few" in reader.chrome.current_url
    assert all("collection=few" in str(link.get_attribute("href")) for link in reader.all(".hit .more"))


def test_films_predictions_and_likeness_are_those_of_the_chosen_collection(reader: Reader) -> None:
    reader.open(f"/?study={FEW}&collection=few")
    assert reader.wait("document.querySelector('#query img').naturalWidth") > 100
    reader.find(".predictions [data-finding]")
    reader.press("1")
    reader.find(".stage")
    reader.press("s")
    reader.wait("document.querySelectorAll('#trust li').length === 2")

    own = "performance.getEntriesByType('resource').map((one) => one.name).find((name) => name.includes('depth=own'))"
    assert "collection=few" in reader.wait(own)


def test_films_that_are_sent_are_searched_in_the_chosen_collection(reader: Reader) -> None:
    reader.open("/?collection=few")
    reader.choose("frontal")
    reader.click("#films > button")
    reader.find(".hit")
    reader.ask("""
        const sex = document.querySelector("[name=sex]");
        sex.value = "";
        sex.dispatchEvent(new Event("change", { bubbles: true }));
    """)

    reader.wait("document.getElementById('results').getAttribute('aria-busy') === 'false'")
    assert len(reader.hits()) == 5


def test_a_study_of_another_collection_is_unknown_here(reader: Reader) -> None:
    reader.open("/?study=patient00020/study1&collection=few")

    assert "No study 'patient00020/study1'" in reader.text(".refused")
    reader.open(f"/?study={QUERY}&collection=nowhere")
    assert "No collection 'nowhere'" in reader.text(".refused")
    assert all("404" in one for one in reader.complaints())


def test_a_collection_without_a_map_offers_none(reader: Reader) -> None:
    reader.open("/?collection=few")
    assert not reader.find("#map-button").is_enabled()
    reader.open("/?collection=main")
    assert reader.find("#map-button").is_enabled()
