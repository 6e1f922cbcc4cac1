"""Films of a training run: read once, in memory or in one file that all processes map."""

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from training_films import save_films, trainer_of

from encoder.errors import EncoderError, ImageError
from encoder.films.preprocess import Preprocessing
from encoder.training.film_store import FilmStore

CPU = torch.device("cpu")
SMALL = Preprocessing(size=32)
CHEXPERT_FILMS = 223_414


def store_in(folder: Path, films: list[Path], size: int = 32) -> FilmStore:
    return FilmStore(films, Preprocessing(size=size), cache_gb=0, folder=folder, threads=2)


def test_a_file_of_films_is_made_once_and_holds_what_memory_would(tmp_path: Path) -> None:
    films = save_films(tmp_path)
    first, again = store_in(tmp_path / "store", films), store_in(tmp_path / "store", films)
    read: list[int] = []

    first.fill(read.append)
    again.fill(read.append)

    assert len(read) == len(films)
    assert np.array_equal(again.planes, FilmStore(films, SMALL).planes)
    assert [path.name for path in (tmp_path / "store").iterdir()] == [first.file and first.file.name]


@pytest.mark.parametrize("change", ["a film", "the size", "a part that is ignored"])
def test_what_is_read_otherwise_gets_a_file_of_its_own(tmp_path: Path, change: str) -> None:
    films = save_films(tmp_path)
    before = store_in(tmp_path, films).file
    if change == "a film":
        shutil.copy(films[2], films[1])
    parts = ("HAND",) if change == "a part that is ignored" else ()
    size = 48 if change == "the size" else 32

    after = FilmStore(films, Preprocessing(size=size), cache_gb=0, folder=tmp_path, ignored_parts=parts).file

    assert None not in (before, after)
    assert before != after


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"cut short"])
def test_a_file_that_is_none_of_ours_or_cut_short_is_made_anew(tmp_path: Path, content: bytes) -> None:
    films = save_films(tmp_path)
    store_in(tmp_path, films).fill()
    file = store_in(tmp_path, films).file
    assert file is not None
    file.write_bytes(file.read_bytes()[:-1] if content == b"cut short" else content)

    assert np.array_equal(store_in(tmp_path, films).planes, FilmStore(films, SMALL).planes)


def test_a_bad_film_leaves_no_file_and_is_named(tmp_path: Path) -> None:
    films = save_films(tmp_path)
    films[5].write_bytes(b"nothing")

    with pytest.raises(ImageError, match=r"5\.png"):
        store_in(tmp_path / "store", films).fill()

    assert list((tmp_path / "store").iterdir()) == []


def test_a_disk_without_room_is_told_before_a_film_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 1000))
    with pytest.raises(EncoderError, match=r"give --store on another disk, or a larger --cache-gb"):
        store_in(tmp_path, save_films(tmp_path)).fill()


def test_chexpert_fits_a_file_of_which_only_what_is_looked_at_is_read(tmp_path: Path) -> None:
    store = store_in(tmp_path, [tmp_path / "none.png"] * CHEXPERT_FILMS, size=320)
    assert store.file is not None
    assert store.nbytes == pytest.approx(22.9e9, rel=0.01)
    sparse = np.lib.format.open_memmap(store.file, "w+", np.uint8, (CHEXPERT_FILMS, 320, 320))
    sparse[-1, 7, 7] = 200
    del sparse

    [films] = store.batches([np.array([0, CHEXPERT_FILMS - 1])], CPU)

    assert films.shape == (2, 1, 320, 320)
    assert (int(films[1, 0, 7, 7]), int(films.sum())) == (200, 200)


@pytest.mark.slow
def test_processes_that_read_ahead_change_no_loss(tmp_path: Path) -> None:
    films = save_films(tmp_path)
    plain, ahead = trainer_of(films), trainer_of(films, workers=2, folder=tmp_path / "store")
    for _ in range(2):
        plain.epoch()
        ahead.epoch()

    assert ahead.films.file is not None
    assert [row["loss"] for row in ahead.progress.history] == [row["loss"] for row in plain.progress.history]
    assert [row["valid_loss"] for row in ahead.progress.history] == [
        row["valid_loss"] for row in plain.progress.history
    ]
