"""A reader searches at the page: films, filters, stored studies, predictions, refusals, and what the URL keeps."""

from pathlib import Path

import pytest
from page_world import QUERY, Reader

pytestmark = pytest.mark.slow


def send(reader: Reader) -> None:
    """Send the query's frontal film, whose patient is told."""
    reader.open("/")
    reader.choose("frontal")
    reader.find("#films [name=patient_id]").send_keys(QUERY.partition("/")[0])
    reader.click("#films > button")
    reader.find(".hit")


def test_two_films_are_chosen_sent_and_answered_with_hits(reader: Reader) -> None:
    reader.open("/")
    reader.choose("frontal")
    reader.choose("lateral")
    assert reader.text(".drop-name") == "view1_frontal.jpg"
    reader.click("#films > button")

    assert len(reader.find("#query .films").find_elements("css selector", "img")) == 2
    assert len(reader.hits()) == 12
    assert "similar cases of" in reader.text("#results h2")
    assert reader.wait("document.querySelector('.hit img').naturalWidth") > 100


EMPTY = "drop, paste or choose a film"


def drop(reader: Reader, place: str, *names: str) -> bool:
    """Drop files of these names onto the first element of a selector, and return whether the page caught them."""
    return not reader.ask(
        """
        const held = new DataTransfer();
        for (const name of arguments[1]) held.items.add(new File([name], name));
        const event = new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true });
        return document.querySelector(arguments[0]).dispatchEvent(event);
        """,
        place,
        names,
    )


def chosen(reader: Reader) -> list[str]:
    """Return what stands in the frontal's and the lateral's place."""
    return [str(one.get_attribute("textContent")) for one in reader.all(".drop-name")]


def test_a_film_can_be_dropped(reader: Reader) -> None:
    reader.open("/")

    assert drop(reader, ".drop:last-child", "dropped.dcm")
    assert chosen(reader) == [EMPTY, "dropped.dcm"]
    assert reader.text("#status") == "dropped.dcm is the lateral film."


@pytest.mark.parametrize("place", ["footer", "#study", "#help h2"])
def test_a_drop_anywhere_on_the_page_is_caught_and_begins_a_new_query(reader: Reader, place: str) -> None:
    reader.open("/")
    drop(reader, ".drop", "anna.dcm")
    reader.find("#films [name=patient_id]").send_keys("anna")
    if place.startswith("#help"):
        reader.click("#help-button")

    assert drop(reader, place, "bruno.dcm")
    assert chosen(reader) == ["bruno.dcm", EMPTY]
    assert reader.find("#films [name=patient_id]").get_attribute("value") == ""
    assert "What was chosen before was removed" in reader.text("#status")
    assert not reader.all("dialog[open]")


def test_of_two_films_that_are_dropped_the_lateral_goes_to_its_place(reader: Reader) -> None:
    reader.open("/")
    assert drop(reader, ".drop", "chest-lat.png", "chest.png")

    assert chosen(reader) == ["chest.png", "chest-lat.png"]
    assert drop(reader, "body", "Thorax seitlich.dcm")
    assert chosen(reader) == [EMPTY, "Thorax seitlich.dcm"]


def test_more_films_than_a_study_has_places_are_told_and_left(reader: Reader) -> None:
    reader.open("/")
    drop(reader, ".drop", "one.png")
    assert drop(reader, "body", "two.png", "three.png", "four.png")

    assert "3 films were dropped" in reader.text("#status")
    assert chosen(reader) == ["one.png", EMPTY]


def test_a_film_is_taken_out_by_its_button_or_by_a_key(reader: Reader) -> None:
    reader.open("/")
    reader.choose("frontal")
    reader.choose("lateral")
    reader.click(".drop .out")
    assert chosen(reader) == [EMPTY, "view2_lateral.jpg"]
    assert reader.text("#status") == "The frontal film was removed."
    assert reader.ask("return document.activeElement.name") == "frontal"

    reader.press("\t\ue017")
    assert chosen(reader) == [EMPTY, EMPTY]
    assert not [one for one in reader.all(".drop .out") if one.is_displayed()]


def test_new_films_find_both_places_and_the_patient_empty(reader: Reader) -> None:
    send(reader)
    reader.click("#ask summary")
    assert chosen(reader) == [EMPTY, EMPTY]
    assert reader.find("#films [name=patient_id]").get_attribute("value") == ""

    reader.choose("lateral")
    reader.press("n")
    assert chosen(reader) == [EMPTY, EMPTY]


def test_a_filter_asks_about_the_query_that_is_shown_not_about_films_chosen_since(
    reader: Reader, tmp_path: Path
) -> None:
    send(reader)
    before = reader.hits()
    (tmp_path / "letter.jpg").write_text("of another patient")
    reader.press("n")
    reader.choose("lateral", tmp_path / "letter.jpg")
    reader.click("[name=sex] option[value='']+option")
    reader.wait("document.getElementById('results').getAttribute('aria-busy') === 'false'")

    assert not reader.all(".refused")
    assert set(reader.hits()) & set(before)
    assert not [study for study in reader.hits() if study.startswith(QUERY.partition("/")[0])]
    assert chosen(reader) == [EMPTY, "letter.jpg"]


def test_films_stay_the_query_where_a_filter_of_theirs_is_refused(reader: Reader) -> None:
    send(reader)
    reader.ask("""
        document.querySelector("[name=age_from]").value = -1;
        document.querySelector("[name=age_from]").dispatchEvent(new Event("change", { bubbles: true }));
    """)
    reader.find(".refused")
    assert reader.find("#query .film").is_displayed()
    reader.click("#unfilter")
    reader.find(".hit")
    assert all("400" in one for one in reader.complaints())


def test_the_patient_that_is_told_is_left_out(reader: Reader) -> None:
    send(reader)

    assert not [study for study in reader.hits() if study.startswith(QUERY.partition("/")[0])]


def test_without_a_film_a_sentence_asks_for_one(reader: Reader) -> None:
    reader.open("/")
    reader.click("#films > button")

    assert reader.text("#status") == "Choose at least one film first."


def test_a_file_that_is_no_film_is_refused_in_words(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "letter.jpg").write_text("Dear colleague")
    reader.open("/")
    reader.choose("lateral", tmp_path / "letter.jpg")
    reader.click("#films > button")

    assert "expected a JPEG, PNG or DICOM" in reader.text(".refused")
    assert reader.find("#films > button").is_displayed()
    assert all("415" in one for one in reader.complaints())


def test_a_service_that_is_gone_is_told(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    reader.find(".predictions [data-finding]")
    reader.ask("window.fetch = () => Promise.reject(new TypeError('no connection'))")
    reader.click("[name=sex] option[value='']+option")

    assert reader.text(".refused") == "The service cannot be reached. Try again"


def test_an_unknown_study_is_refused_in_words(reader: Reader) -> None:
    reader.open("/?study=nobody")

    assert "No study 'nobody'" in reader.text(".refused")
    assert all("404" in one for one in reader.complaints())


def test_an_unknown_finding_is_refused_and_stands_in_the_filters(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}&finding=Ghost")

    assert "Ghost" in reader.text(".refused")
    assert reader.text("#chosen") == "Ghost"
    assert all("400" in one for one in reader.complaints())
    reader.click("#unfilter")
    reader.wait("document.querySelectorAll('.hit').length === 12")
    reader.wait("document.getElementById('chosen').textContent === 'any'")


def test_a_stored_study_is_found_by_its_name(reader: Reader) -> None:
    reader.open("/")
    reader.find("#study").send_keys(f"{QUERY}\n")

    assert reader.text("#query h2") == f"Query: {QUERY}"
    assert len(reader.hits()) == 12


def test_a_filter_narrows_the_hits_and_stands_in_the_url(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    reader.click(".filters .menu summary")
    reader.click('[name=finding][value="Pleural Effusion"]')
    reader.wait("location.search.includes('finding=Pleural+Effusion')")
    reader.wait(
        "[...document.querySelectorAll('.hit')].every((hit) => "
        "hit.querySelector('.present').textContent.includes('Pleural Effusion'))"
    )
    narrowed = reader.hits()

    assert reader.text("#chosen") == "Pleural Effusion"
    reader.chrome.refresh()
    assert reader.hits() == narrowed
    reader.click("#unfilter")
    reader.wait("!location.search.includes('finding')")


def test_sex_and_age_narrow_the_hits_of_films_too(reader: Reader) -> None:
    send(reader)
    reader.ask("""
        document.querySelector("[name=age_from]").value = 40;
        document.querySelector("[name=sex]").value = "Female";
        document.querySelector("[name=sex]").dispatchEvent(new Event("change", { bubbles: true }));
    """)
    reader.wait("[...document.querySelectorAll('.hit .facts')].every((line) => line.textContent.startsWith('Female'))")

    ages = [float(one.text.split(" · ")[1].split()[0]) for one in reader.all(".hit .facts")]
    assert ages
    assert min(ages) >= 40


def test_more_like_this_makes_a_hit_the_query_and_keeps_the_filters(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}&projection=PA")
    hit = reader.hits()[0]
    reader.click(".hit .more")

    reader.wait("document.querySelector('#query h2').textContent === arguments[0]", f"Query: {hit}")
    assert "projection=PA" in reader.chrome.current_url


def test_predictions_stand_beside_the_neighbours_vote(reader: Reader) -> None:
    send(reader)
    first = reader.find(".predictions [data-finding]")

    assert first.find_element("css selector", ".call").text.split(maxsplit=1)[1] in (
        "ruled in",
        "possible",
        "ruled out",
    )
    assert "vote" in first.find_element("css selector", ".figures").text
    shown = [float(one.text.split()[0]) for one in reader.all(".predictions .figures")]
    assert shown == sorted(shown, reverse=True)


def test_a_contrast_pair_opens_beside_the_query(reader: Reader) -> None:
    reader.open(f"/?study={QUERY}")
    reader.click('[data-finding="Pleural Effusion"] .actions button:last-child')
    reader.find(".counterpart")
    words = [one.text for one in reader.all(".counterpart strong")]
    reader.click(".counterpart .film")

    assert words == ["with Pleural Effusion", "without Pleural Effusion"]
    assert reader.find("#compare .stage[data-side=hit]")
    # Closing goes back in the browser's history; left under way, it would take the next test's page away.
    reader.click("#compare .close")
    reader.wait("!location.search.includes('hit=')")


def test_a_photograph_of_something_else_is_called_unfamiliar(reader: Reader, tmp_path: Path) -> None:
    import cv2
    import numpy as np

    stripes = np.tile(np.uint8([[30] * 40 + [220] * 40]), (400, 5))
    cv2.imwrite(str(tmp_path / "stripes.png"), stripes)
    reader.open("/")
    reader.choose("frontal", tmp_path / "stripes.png")
    reader.click("#films > button")

    assert reader.text("#unfamiliar").startswith("Unfamiliar film: it may not be a chest film")


def test_films_stay_the_query_over_a_reload_a_filter_and_the_way_back(reader: Reader) -> None:
    send(reader)
    hits, films = reader.hits(), reader.ask("return document.querySelector('#query img').src")
    assert "?query=" in reader.chrome.current_url
    assert films.startswith(f"{reader.address}/v1/queries/")
    reader.chrome.refresh()
    assert reader.hits() == hits
    assert reader.wait("document.querySelector('#query img').naturalWidth > 0")
    reader.ask("performance.clearResourceTimings()")
    reader.click("[name=sex] option[value='']+option")
    reader.wait("location.search.includes('sex=') && document.getElementById('results').ariaBusy === 'false'")
    names = reader.ask("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert films not in names  # the picture is the one that was there
    reader.click(".hit .more")
    reader.wait("location.search.includes('study=')")
    reader.ask("history.back()")
    reader.wait(
        "location.search.includes('query=') && document.querySelector('#query h2')?.textContent === 'Query: your films'"
    )
    assert reader.find("#predictions .rows")


def test_films_that_the_service_has_forgotten_are_sent_again_unseen(reader: Reader) -> None:
    send(reader)
    hits = reader.hits()
    forgotten = "fetch(`/v1/queries/${new URLSearchParams(location.search).get('query')}`, {method: 'DELETE'})"
    before = reader.chrome.current_url
    reader.ask(f"window.gone = false; {forgotten}.then(() => {{ window.gone = true; }})")
    reader.wait("window.gone")
    reader.ask("document.getElementById('filters').dispatchEvent(new Event('change'))")
    reader.wait("location.href !== arguments[0]", before)
    reader.wait("document.getElementById('results').ariaBusy === 'false'")
    assert reader.hits() == hits

    reader.ask(f"window.gone = false; {forgotten}.then(() => {{ window.gone = true; }})")
    reader.wait("window.gone")
    reader.chrome.refresh()
    assert "send the films again" in reader.text(".refused")
    assert all("404" in one for one in reader.complaints())


def test_two_frontals_are_told_beside_the_query_in_the_viewer_and_aloud(reader: Reader) -> None:
    reader.open("/")
    reader.choose("frontal")
    reader.choose("lateral", reader.films / "patient00003/study1/view1_frontal.jpg")
    reader.click("#films > button")
    notice = reader.text("#query .notice")

    assert notice.startswith("Two frontals: the film given as lateral looks")
    assert reader.ask("return document.getElementById('said').textContent") == notice
    assert len(reader.hits()) == 12
    reader.press("q")
    assert reader.text("#compare-facts .notice") == notice


def test_films_of_two_patients_are_refused_and_stay_to_be_taken_out(reader: Reader, tmp_path: Path) -> None:
    from film_files import dicom

    reader.open("/")
    for view in ("frontal", "lateral"):
        (tmp_path / f"{view}.dcm").write_bytes(dicom(PatientID=f"SECRET-{view}"))
        reader.choose(view, tmp_path / f"{view}.dcm")
    reader.click("#films > button")

    assert "of two patients" in reader.text(".refused")
    assert "SECRET" not in reader.ask("return document.documentElement.outerHTML")
    assert [one.is_displayed() for one in reader.all(".drop .out")] == [True, True]
    assert all("422" in one for one in reader.complaints())
