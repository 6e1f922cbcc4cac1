"""The coarse layout of a film: a few untrained numbers, by which pictures of another kind are recognised."""

import cv2
import numpy as np
import numpy.typing as npt

from encoder.films.study import Film, StudyFilms

Layout = npt.NDArray[np.int8]
"""(192,): one film's layout."""

_GRID = 8
_SQUARE = 6  # pixels a side: room for an edge inside a square
_SIDE = _GRID * _SQUARE


def layout_of(film: Film) -> Layout:
    """Return where a film (S, S) is bright and where its edges run, on a grid of 8 x 8 squares.

    The first 64 numbers are the squares' brightness, the others the strength of edges across and along. Each of the
    two parts has a mean of 0 and a length of 127, so that exposure does not count. Coarse spatial layout tells kinds
    of scene apart (Oliva and Torralba, 2001), which an encoder trained to tell findings apart need not do.
    """
    small = np.asarray(cv2.resize(film.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.float32)
    edges = [np.abs(np.diff(small, axis=axis, append=np.take(small, [-1], axis))) for axis in (0, 1)]
    strengths = np.sqrt([_squares(edge) for edge in edges])
    return np.concatenate([_standard(_squares(small)), _standard(strengths)])


def study_layouts(films: StudyFilms) -> list[Layout]:
    """Return the layout of each film of a study, the frontal first."""
    return [layout_of(film) for film in (films.frontal, films.lateral) if film is not None]


def _squares(picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean (8, 8) of each square of a picture (48, 48)."""
    means: npt.NDArray[np.float32] = picture.reshape(_GRID, _SQUARE, _GRID, _SQUARE).mean(axis=(1, 3))
    return means


def _standard(values: npt.NDArray[np.float32]) -> Layout:
    """Return the values with a mean of 0 and a length of 127; all 0 where they are alike."""
    centred = (values - values.mean()).ravel()
    length = np.linalg.norm(centred)
    return np.rint(127 * centred / length if length > 0 else centred).astype(np.int8)
