"""Films that lie turned or are negatives are told apart from those that are as they should be, and are set right."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encoder.films.image import read_plane
from encoder.films.layout import layout_of
from encoder.films.mend import MENDS, mended, mended_layouts
from encoder.films.preprocess import Preprocessing
from index.search.familiarity import LayoutGate


@pytest.mark.parametrize("mend", MENDS)
def test_a_mend_turns_clockwise_and_changes_black_and_white(mend: str) -> None:
    plane = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turns, inverted = MENDS[mend]
    known = {
        "turn90": [[3, 0], [4, 1], [5, 2]],
        "turn180": [[5, 4, 3], [2, 1, 0]],
        "invert": [[255, 254, 253], [252, 251, 250]],
    }

    assert mended(plane, mend).tolist() == known.get(mend, mended(plane, mend).tolist())
    again = mended(mended(plane, mend), next(name for name, way in MENDS.items() if way == (-turns % 4, inverted)))
    np.testing.assert_array_equal(again, plane)


def drawn(rng: np.random.Generator) -> np.ndarray:
    """Return a film (96, 96) of two lungs, a heart to one side and a belly, a little different each time."""
    y, x = np.mgrid[-1:1:96j, -1:1:96j] + rng.normal(0, 0.03, (2, 1, 1))
    lungs = np.exp(-((np.abs(x) - 0.45) ** 2) / 0.05 - (y + 0.1) ** 2 / 0.3)
    film = 0.75 - 0.6 * lungs + 0.25 * (y > 0.55) + 0.2 * np.exp(-((x - 0.15) ** 2 + (y - 0.3) ** 2) / 0.05)
    return np.rint(255 * np.clip(film + rng.normal(0, 0.02, film.shape), 0, 1)).astype(np.uint8)


def test_of_drawn_films_each_fault_is_known_and_none_is_seen_where_there_is_none(rng: np.random.Generator) -> None:
    layouts = np.stack([layout_of(drawn(rng)) for _ in range(60)]).astype(np.float32)
    scale = 1 / (layouts.std(axis=0) + np.float32(1))
    gate = LayoutGate(
        layouts * scale, scale, np.array([f"p{number}" for number in range(60)]), np.zeros(60, np.float32)
    )

    for film in (drawn(rng) for _ in range(10)):
        assert gate.best_mend(layout_of(film), mended_layouts(film)) is None
        for mend, way in MENDS.items():
            wrong = mended(film, mend)
            back = next(name for name, other in MENDS.items() if other == (-way[0] % 4, way[1]))
            assert gate.best_mend(layout_of(wrong), mended_layouts(wrong)) == back


def films_of(folder: Path, pattern: str, patient: Callable[[Path], str]) -> tuple[list[Path], list[Path]]:
    """Return films of a folder of which the gate is made, and those of a third of the patients, which it is asked about."""
    films = sorted(folder.rglob(pattern))
    patients = sorted({patient(film) for film in films})
    asked = set(random.Random(1).sample(patients, len(patients) // 3))
    return [film for film in films if patient(film) not in asked][:500], [
        film for film in films if patient(film) in asked
    ]


@pytest.mark.long
def test_of_real_films_few_are_called_wrong_that_are_not_and_most_are_that_are(shared_data: Path) -> None:
    square = Preprocessing(size=224)
    for name, folder, pattern, patient in (
        ("NIH", shared_data / "nih", "*.jpg", lambda film: film.name.partition("_")[0]),
        ("COVID-19", shared_data / "covid", "*.jpg", lambda film: film.parts[-3]),
    ):
        known, asked = films_of(folder, pattern, patient)
        layouts = np.stack([layout_of(square(read_plane(film))) for film in known]).astype(np.float32)
        scale = 1 / (layouts.std(axis=0) + np.float32(1))
        gate = LayoutGate(layouts * scale, scale, np.arange(len(known)).astype(str), np.zeros(1, np.float32))
        for view in ("frontal", "lateral"):
            films = [square(read_plane(film)) for film in asked if (view == "lateral") == ("lateral" in film.name)]
            wrongly = sum(gate.best_mend(layout_of(film), mended_layouts(film)) is not None for film in films)
            print(f"{name}: {wrongly} of {len(films)} upright {view} films called wrong")
            for mend in MENDS if films else ():
                told = [
                    gate.best_mend(layout_of(wrong), mended_layouts(wrong))
                    for wrong in (mended(film, mend) for film in films)
                ]
                print(f"  {mend}: {100 * sum(one is not None for one in told) / len(films):.1f} % called wrong")
            assert wrongly <= 0.02 * len(films)
