"""Which view and projection a header says, in the standard's codes and in the words of five languages."""

from typing import Any

import pytest

from index.importing.dicom_view import View, said_by_words, view_of


@pytest.mark.parametrize(
    ("words", "view", "projection"),
    [
        ("PA", "frontal", "PA"),
        ("P-A", "frontal", "PA"),
        ("P.A.", "frontal", "PA"),
        ("A/P", "frontal", "AP"),
        ("ANTEROPOSTERIOR", "frontal", "AP"),
        ("posterior-anterior", "frontal", "PA"),
        ("Posterior to anterior", "frontal", "PA"),
        ("ChestPA", "frontal", "PA"),
        ("CHESTAP", "frontal", "AP"),
        ("Chest AP/PA", "frontal", ""),
        ("Thorax p. a.", "frontal", "PA"),
        ("Thorax dorso-ventral", "frontal", "PA"),
        ("poumons de face", "frontal", ""),
        ("postéro-antérieur debout", "frontal", "PA"),
        ("tórax proyección postero-anterior", "frontal", "PA"),
        ("torace antero-posteriore a letto", "frontal", "AP"),
        ("LL", "lateral", "LL"),
        ("RL", "lateral", "RL"),
        ("TORACE LL", "lateral", ""),
        ("LATERAL", "lateral", ""),
        ("Lat. Chest", "lateral", ""),
        ("L.L.", "lateral", "LL"),
        ("links seitlich", "lateral", "LL"),
        ("Thorax rechts anliegend", "lateral", "RL"),
        ("thorax profil gauche", "lateral", "LL"),
        ("tórax perfil", "lateral", ""),
        ("torace latero-laterale", "lateral", ""),
        ("LLD", "neither", "LLD"),
        ("décubitus latéral", "neither", ""),
        ("Thorax Linksseitenlage", "neither", ""),
        ("Thorax schräg", "neither", ""),
        ("RAO", "neither", "RAO"),
        ("Chest PA and lateral", "", ""),
        ("poumons face/profil", "", ""),
        ("Bilateral ribs", "", ""),
        ("X-RAY CHEST", "", ""),
        ("CXR PORTABLE", "", ""),
        ("PACS laterality", "", ""),
        ("", "", ""),
    ],
)
def test_words_say_a_view_and_a_projection(words: str, view: str, projection: str) -> None:
    said = said_by_words(words)

    assert (said.view, said.projection) == (view, projection)


@pytest.mark.parametrize(
    ("value", "view", "projection"),
    [
        ("R-10206", "frontal", "AP"),
        ("399348003", "frontal", "AP"),
        ("R-10214", "frontal", "PA"),
        ("272479007", "frontal", "PA"),
        ("R-10202", "frontal", ""),
        ("R-10236", "lateral", "LL"),
        ("399173006", "lateral", "LL"),
        ("399198007", "lateral", "RL"),
        ("R-102CD", "lateral", ""),
        ("399135007", "", "LAO"),
        ("R-102C1", "", ""),
    ],
)
def test_a_code_of_cid_4010_says_it_whatever_its_meaning_is_called(value: str, view: str, projection: str) -> None:
    assert view_of(codes=[(value, "im Hause anders genannt")]) == View(view, projection, disputed=False)


def test_a_code_of_the_house_is_known_by_its_meaning() -> None:
    assert view_of(codes=[("99-17", "links seitlich")]) == View("lateral", "LL", disputed=False)


def test_a_modifier_that_says_decubitus_makes_it_neither_view() -> None:
    assert view_of(codes=[("R-10206", "antero-posterior"), ("F-10319", "")]) == View("", "LLD", disputed=False)


@pytest.mark.parametrize(
    ("places", "view"),
    [
        ({"codes": [("R-10236", "")], "position": "PA"}, View("lateral", "LL", disputed=True)),
        ({"position": "PA", "orientation": ["A", "F"]}, View("frontal", "PA", disputed=True)),
        ({"position": "PA", "orientation": ["A", "F"], "series": ["lat"]}, View("lateral", "", disputed=True)),
        ({"codes": [("R-10206", "")], "position": "PA"}, View("frontal", "AP", disputed=True)),
        ({"codes": [("R-10202", "")], "position": "PA"}, View("frontal", "PA", disputed=False)),
        ({"position": "AP", "series": ["Chest decubitus"]}, View("", "", disputed=False)),
        ({"series": ["Chest PA and lateral", "chest ap"]}, View("frontal", "AP", disputed=False)),
        ({"position": "PA", "study": ["Chest lateral"]}, View("frontal", "PA", disputed=False)),
        ({"study": ["Thorax seitlich"]}, View("lateral", "", disputed=False)),
    ],
)
def test_of_places_that_disagree_most_decide_and_the_code_of_as_many(places: dict[str, Any], view: View) -> None:
    assert view_of(**places) == view


@pytest.mark.parametrize(
    ("series", "view"),
    [
        ("Thorax Bettaufnahme", View("frontal", "AP", disputed=False)),
        ("thorax au lit", View("frontal", "AP", disputed=False)),
        ("décubitus dorsal", View("frontal", "AP", disputed=False)),
        ("Chest lateral supine", View("lateral", "", disputed=False)),
        ("Thorax pa liegend", View("frontal", "PA", disputed=False)),
        ("tórax portátil", View("", "AP", disputed=False)),
        ("Chest frontal portable", View("frontal", "AP", disputed=False)),
    ],
)
def test_somebody_lying_is_filmed_from_the_front_where_nothing_says_more(series: str, view: View) -> None:
    assert view_of(series=[series]) == view
