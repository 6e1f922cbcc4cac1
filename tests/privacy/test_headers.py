"""A header that has a name where a number or a word of the standard belongs is refused without quoting it.

pydicom quotes it in a log of its own, which goes nowhere on the command line, and without its words in the service.
"""

from typing import Any

import pytest
from canary_films import MARKER
from film_files import dicom

from encoder.errors import ImageError
from encoder.films.image import read_image

NUMBER = "1234567890"  # as long as the marker, which no writer takes for a number


def refused_or_read(film: bytes) -> str:
    """Return the refusal, or "" where the film is read all the same."""
    assert MARKER.encode() in film.lower()
    try:
        read_image(film, name="frontal")
    except ImageError as refusal:
        return str(refusal)
    return ""


@pytest.mark.parametrize(
    "keyword",
    ["RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "NumberOfFrames", "ImagesInAcquisition"],
)
def test_a_name_in_the_place_of_a_number_is_not_quoted(keyword: str, capfd: pytest.CaptureFixture[str]) -> None:
    elements: dict[str, Any] = {"WindowCenter": 1500, "WindowWidth": 1000, "RescaleIntercept": 0, "RescaleSlope": 1}
    film = dicom(**elements | {keyword: NUMBER}).replace(NUMBER.encode(), MARKER.encode())

    told = refused_or_read(film)

    assert told or keyword in ("ImagesInAcquisition", "WindowCenter", "WindowWidth")
    assert MARKER not in told + str(capfd.readouterr())


@pytest.mark.parametrize(
    "keyword",
    ["PhotometricInterpretation", "Modality", "BodyPartExamined", "VOILUTFunction", "SpecificCharacterSet"],
)
def test_a_name_in_the_place_of_a_word_is_not_quoted(
    keyword: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    word = "ISO_IR 100" if keyword == "SpecificCharacterSet" else "A" * len(MARKER)
    film = dicom(**{"WindowCenter": 1500, "WindowWidth": 1000, keyword: word})
    film = film.replace(word.encode(), MARKER.upper().encode())

    told = refused_or_read(film) + str(capfd.readouterr()) + str([one.message for one in recwarn])
    assert MARKER not in told.lower()


def test_a_name_in_the_place_of_an_encoding_is_not_quoted() -> None:
    syntax = b"1.2.840.10008.1.2.1"
    film = dicom().replace(syntax, MARKER.encode().ljust(len(syntax), b"\0"))

    assert "expected pixel data in a known encoding, got one that no standard names" in refused_or_read(film)
