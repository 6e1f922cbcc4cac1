"""Headers that hold more than any film's: what is not asked for costs nothing, and the rest has a budget."""

import io
import struct
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from film_files import RAMP, ROUNDED, dicom

from encoder.errors import ImageError
from encoder.films.dicom_elements import read_header
from encoder.films.image import read_image

EMPTY = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
OPEN = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
CLOSED, ENDED = struct.pack("<HHI", 0xFFFE, 0xE00D, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
PRIVATE, WINDOW, TABLES = (0x0029, 0x1010), (0x0028, 0x1050), (0x0028, 0x3010)
MOST_MEMORY = 4_000_000
"""Bytes that a header of megabytes may take; pydicom takes 200 MB for one."""


def element(tag: tuple[int, int], vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    if vr in (b"SQ", b"UN", b"UC", b"OB"):
        return struct.pack("<HH2sHI", *tag, vr, 0, size) + value
    return struct.pack("<HH2sH", *tag, vr, size) + value


def with_elements(inserted: bytes) -> bytes:
    """Return a film that has those bytes before its pixels."""
    film = dicom()
    place = film.index(b"\xe0\x7f\x10\x00OW")
    return film[:place] + inserted + film[place:]


def implicit(inserted: bytes) -> bytes:
    """Return the same without VRs, under a header of its own."""
    sizes = [(0x02, 1), (0x10, 48), (0x11, 64), (0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)]
    told = b"".join(struct.pack("<HHIH", 0x0028, number, 2, value) for number, value in sizes)
    grey = struct.pack("<HHI", 0x0028, 0x0004, 12) + b"MONOCHROME2 "
    pixels = struct.pack("<HHI", 0x7FE0, 0x0010, RAMP.nbytes) + RAMP.tobytes()
    return bytes(128) + b"DICM\2\0\x10\0UI\x12\0" + b"1.2.840.10008.1.2\0" + told + grey + inserted + pixels


def sequence(tag: tuple[int, int], vr: bytes, items: bytes) -> bytes:
    return element(tag, vr, items + ENDED, 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("inserted", "reason"),
    [
        (element(WINDOW, b"DS", b"1\\" * 30_000), "expected WindowCenter of at most 4096 bytes, got 60000"),
        (sequence(TABLES, b"SQ", EMPTY * 600_000), "at most 20000 elements and items"),
        (element(TABLES, b"SQ", EMPTY * 600_000), "at most 20000 elements and items"),
        (sequence(TABLES, b"SQ", (OPEN + CLOSED) * 300_000), "at most 20000 elements and items"),
        (sequence(PRIVATE, b"UN", EMPTY * 600_000), "at most 20000 elements and items"),
        (element(PRIVATE, b"CS", b"") * 500_000, "at most 20000 elements and items"),
        ((element(PRIVATE, b"SQ", b"", 0xFFFFFFFF) + OPEN) * 100_000, "at most 16 levels of sequences"),
        (element(PRIVATE, b"OB", b"", 2**31), "ends within an element"),
    ],
    ids=["values", "items", "items of a length", "open items", "unknown", "elements", "levels", "length"],
)
def test_a_header_over_its_budget_is_refused_in_little_memory(inserted: bytes, reason: str) -> None:
    film = with_elements(inserted)
    tracemalloc.start()

    with pytest.raises(ImageError, match=reason):
        read_image(film)

    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()


def test_a_header_without_vrs_has_the_same_budget() -> None:
    window = struct.pack("<HHI", *WINDOW, 10**6) + b"1\\" * 500_000
    items = struct.pack("<HHI", *TABLES, 8 * 600_000) + EMPTY * 600_000

    np.testing.assert_allclose(read_image(implicit(b"")), RAMP / 3780, atol=ROUNDED)
    with pytest.raises(ImageError, match="expected WindowCenter of at most 4096 bytes, got 1000000"):
        read_image(implicit(window))
    with pytest.raises(ImageError, match="at most 20000 elements and items"):
        read_image(implicit(items))


@pytest.mark.parametrize(
    "inserted",
    [
        element(PRIVATE, b"OB", bytes(5_000_000)),
        element(PRIVATE, b"UC", b"A\\" * 2_000_000),
        element(PRIVATE, b"SQ", EMPTY * 600_000),
        sequence(PRIVATE, b"OB", struct.pack("<HHI", 0xFFFE, 0xE000, 10**6) + bytes(10**6)),
        sequence(PRIVATE, b"SQ", (OPEN + sequence(PRIVATE, b"SQ", EMPTY) + CLOSED) * 100),
    ],
    ids=["bytes", "text", "items", "fragments", "within each other"],
)
def test_what_is_not_asked_for_is_stepped_over(inserted: bytes) -> None:
    film = with_elements(inserted)
    tracemalloc.start()

    np.testing.assert_array_equal(read_image(film), read_image(dicom()))

    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("inserted", "fault", "pixels"),
    [
        (element(PRIVATE, b"OB", b"", 2**31), "ends within an element", False),
        (element(TABLES, b"SQ", element(PRIVATE, b"CS", b"")), "expected an item of a sequence", False),
        (element(WINDOW, b"DS", b"1\\" * 30_000), "expected WindowCenter of at most 4096 bytes", True),
    ],
    ids=["length", "no item", "too long"],
)
def test_a_damaged_header_is_read_as_far_as_it_goes_and_says_so(inserted: bytes, fault: str, pixels: bool) -> None:
    found = read_header(io.BytesIO(with_elements(inserted)), ["Rows", "WindowCenter", "VOILUTSequence"])

    assert found is not None
    assert found.header.integer("Rows") == RAMP.shape[0]
    assert "WindowCenter" not in found.header
    assert fault in found.fault
    assert (found.pixels is not None, found.too_large) == (pixels, False)


@pytest.mark.parametrize("start", [132, 128])
def test_a_file_without_its_preamble_is_read_as_it_is_imported(start: int) -> None:
    np.testing.assert_array_equal(read_image(dicom()[start:]), read_image(dicom()))


@pytest.mark.parametrize(("character_set", "text"), [("ISO_IR 192", "Sch\u00e4del"), ("ISO_IR 100", "Sch\u00e4del")])
def test_words_are_read_in_their_character_set(character_set: str, text: str) -> None:
    film = dicom(SpecificCharacterSet=character_set, SeriesDescription=text)

    found = read_header(io.BytesIO(film), ["SeriesDescription"])

    assert found is not None
    assert found.header.text("SeriesDescription") == text


def test_reading_changes_no_filter_and_takes_no_lock_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object, **__: object) -> None:
        raise AssertionError("something of the whole process was taken")

    for name in ("catch_warnings", "simplefilter", "filterwarnings"):
        monkeypatch.setattr(warnings, name, taken)
    monkeypatch.setattr(threading, "Lock", taken)

    assert read_image(dicom(WindowCenter=1500, WindowWidth=1000)).shape == RAMP.shape


def test_megabytes_of_words_for_the_body_part_are_not_gone_through() -> None:
    meaning = element((0x0008, 0x0104), b"LO", b"chest " * 600)
    items = (struct.pack("<HHI", 0xFFFE, 0xE000, len(meaning)) + meaning) * 5_000
    film = with_elements(element((0x0008, 0x2218), b"SQ", items))
    tracemalloc.start()

    assert read_image(film).shape == RAMP.shape

    assert tracemalloc.get_traced_memory()[1] < 3 * len(items)
    tracemalloc.stop()
