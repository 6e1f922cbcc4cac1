"""Damaged films by the thousand, films that claim too much, and what reading one may take in memory."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from command_line import done
from film_files import dicom, picture
from fuzzing import Tally, fuzz, memory_of, processor_seconds
from hostile_files import (
    Grey,
    compressed_frames,
    emptied,
    encapsulated,
    ending_early,
    one_scan_a_component,
    real_films,
    whole_films,
)
from PIL import Image as Pillow

from encoder.errors import ImageError
from encoder.films.image import MAX_PIXELS, read_image
from encoder.films.jpegls import decode_jpegls
from scripts.benches.bombs import BOMBS
from scripts.benches.films import draw

SHORT, LONG, LONG_REAL = 2_000, 100_000, 10_000
MOST_SECONDS = 2.0
MOST_MEMORY = 512 * 10**6
REAL_BYTES = 4_000_000


@pytest.fixture(scope="module")
def grey() -> Grey:
    """Return a simulated film, (240, 200)."""
    return np.asarray(draw((240, 200), 255, np.random.default_rng(1)), dtype=np.uint8)


def checked(tally: Tally, count: int) -> None:
    print(tally.sentence())
    assert tally.faults == {}
    assert tally.outcomes.total() == count
    assert min(tally.outcomes["film"], tally.outcomes["refused"]) > count / 20
    assert tally.memory <= MOST_MEMORY


def test_every_kind_of_film_is_read_before_it_is_damaged(grey: Grey) -> None:
    for kind, film in whole_films(grey).items():
        assert read_image(film).shape == grey.shape, kind


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_stream_that_ends_early_is_refused_and_not_filled_up(share: float, grey: Grey) -> None:
    read = []
    for kind, film in ending_early(grey, share):
        with suppress(ImageError):
            read_image(film)
            read.append(kind)

    assert read == []


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_a_stream_without_its_end_marker_is_refused(missing: int, grey: Grey) -> None:
    for syntax, pixels, frame in compressed_frames(grey):
        with pytest.raises(ImageError, match=r"truncated|damaged|end marker"):
            read_image(encapsulated(pixels, frame[:-missing], syntax))
    with pytest.raises(ImageError, match="truncated"):
        read_image(picture(grey, "JPEG")[:-missing])


@pytest.mark.parametrize("kind", ["progressive", "component after component"])
def test_a_jpeg_without_its_last_scans_is_refused(kind: str, grey: Grey) -> None:
    """It has its end marker, and no decoder warns: it shows a coarser picture, or one without a colour."""
    colour = Pillow.fromarray(grey).convert("RGB")
    film = picture(colour, "JPEG", progressive=True) if kind == "progressive" else one_scan_a_component(grey)
    starts = [place for place in range(len(film)) if film.startswith(b"\xff\xda", place)]

    assert read_image(film).shape == grey.shape
    for start in starts[1:]:
        with pytest.raises(ImageError, match="lacks some; the file is truncated"):
            read_image(film[:start] + b"\xff\xd9")


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_frame_with_a_hole_of_nothing_is_refused(share: float, grey: Grey) -> None:
    """JPEG 2000 is left out: whatever its bytes are, they are a code."""
    read = []
    others = [one for one in compressed_frames(grey) if "2000" not in one[0].name]
    for syntax, pixels, frame in others:
        with suppress(ImageError):
            read_image(encapsulated(pixels, emptied(frame, share), syntax))
            read.append(syntax.name)

    assert read == []


@pytest.mark.slow
def test_damaged_films_are_films_or_are_refused_and_no_process_dies(grey: Grey) -> None:
    checked(fuzz(list(whole_films(grey).values()), range(SHORT)), SHORT)


@pytest.mark.long
def test_a_hundred_thousand_damaged_films_take_two_seconds_of_the_processor_each_at_most(
    grey: Grey, shared_data: Path
) -> None:
    tally = fuzz(list(whole_films(grey).values()), range(SHORT, LONG))
    checked(tally, LONG - SHORT)
    real = fuzz(list(real_films(shared_data, REAL_BYTES).values()), range(LONG, LONG + LONG_REAL))
    checked(real, LONG_REAL)
    assert max(tally.slowest, real.slowest)[0] <= MOST_SECONDS


def dying(film: bytes, **_: object) -> Grey:
    """Read a film, and die of what is no PNG."""
    if film[:1] != b"\x89":
        os.abort()
    return read_image(film)


def test_a_death_of_the_reader_is_noticed_and_the_rest_is_read(grey: Grey) -> None:
    tally = fuzz([picture(grey), bytes(20)], range(6), dying)

    assert tally.faults == {1: "death", 3: "death", 5: "death"}
    assert tally.outcomes.total() == 6


def dawdling(film: bytes, **_: object) -> Grey:
    """Read a film, after waiting for half a second, or where it is no PNG after working for half a second."""
    time.sleep(0.5)
    end = time.process_time() + 0.6
    while film[:1] != b"\x89" and time.process_time() < end:
        pass
    return read_image(film)


@pytest.mark.slow
def test_what_a_film_takes_of_the_processor_counts_and_not_what_it_waits(grey: Grey) -> None:
    waited = fuzz([picture(grey)], range(1, 2), dawdling)
    worked = fuzz([bytes(20)], range(1, 2), dawdling)

    assert waited.slowest[0] < 0.4
    assert worked.slowest[0] >= 0.5


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a process's work is read in /proc")
def test_what_the_decoder_of_jpeg_ls_works_counts_too() -> None:
    film = np.asarray(draw((1_500, 1_500), 255, np.random.default_rng(1)), dtype=np.uint8)
    frame = imagecodecs.jpegls_encode(film)
    decode_jpegls(frame, film.size)
    before, own = processor_seconds(), time.process_time()
    for _ in range(5):
        decode_jpegls(frame, film.size)

    assert processor_seconds() - before > 2 * (time.process_time() - own)


def largest(kind: str) -> bytes:
    """Return a film of the most pixels that are read."""
    rows = np.random.default_rng(0).integers(0, 60_000, (5, 8_000), dtype=np.uint16)
    deep = np.tile(rows, (MAX_PIXELS // rows.size, 1))
    shown = Pillow.fromarray((deep >> 8).astype(np.uint8))
    if kind == "dicom":
        return dicom(deep.view(np.int16), BitsStored=15, HighBit=14)
    if kind == "png 16":
        return picture(deep, compress_level=1)
    if kind == "png alpha":
        shown.putalpha(200)
        return picture(shown.convert("RGBA"), compress_level=1)
    return picture(shown.convert("RGB"), "JPEG", subsampling=0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux")
@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("jpeg rgb", "dicom")),
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("png 16", "png alpha")),
    ],
)
def test_a_film_at_the_limit_of_pixels_is_read_in_half_a_gigabyte(kind: str, tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(largest(kind))

    memory = memory_of(tmp_path / "film")

    print(f"{kind}: {memory / 1e6:.0f} MB")
    assert MAX_PIXELS * 4 <= memory <= MOST_MEMORY


def test_a_large_cr_film_is_read(tmp_path: Path) -> None:
    film = np.tile(np.arange(4_000, dtype=np.uint16), (5_000, 1))

    assert read_image(dicom(film)).shape == (5_000, 4_000)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_from_its_header(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("a decoder was called")

    make, reason = BOMBS[name]
    film = make()
    for decoder in ("PIL.ImageFile.ImageFile.load", "encoder.films.image.decode_jpeg", "encoder.films.dicom._decoded"):
        monkeypatch.setattr(decoder, decoded)

    with pytest.raises(ImageError, match=reason):
        read_image(film)


def test_the_time_of_each_refusal_is_told() -> None:
    told = json.loads(done("bench", "bombs", "--repeat", "1", "--json").stdout)["bombs"]

    assert [one["bomb"] for one in told] == list(BOMBS)
    assert all(BOMBS[one["bomb"]][1] in one["refusal"] and one["ms"] > 0 for one in told)
