"""Preprocessing of version 2 beside that of version 1: the demo's encoder gives the same vectors and the same hits."""

import cv2
import numpy as np
import pytest
import torch
from film_files import mean_over_areas
from folders import ROOT

from encoder.embedder import Embedder
from encoder.films.plane import as_image
from encoder.films.preprocess import Preprocessing
from encoder.films.study import Normalized, StudyFilms
from scripts.chest_phantom.patient import take_patient

ENCODER = ROOT / "scripts" / "demo_encoder.safetensors"


def by_version_1(film: np.ndarray, prepare: Preprocessing) -> Normalized:
    """Return a film (H, W) of 8 bits as version 1 prepared it: means over areas in fractions, on black, normalised."""
    scale = prepare.size / max(film.shape)
    height, width = (int(side * scale + 0.5) for side in film.shape)
    top, left = ((prepare.size - side + 1) // 2 for side in (height, width))
    square = np.zeros((prepare.size, prepare.size))
    whole = mean_over_areas(as_image(film).astype(np.float64), (height, width))
    square[top : top + height, left : left + width] = whole
    mean, std = (np.array(values)[:, None, None] for values in (prepare.mean, prepare.std))
    return np.asarray((square[None] - mean) / std, np.float32)


@pytest.mark.slow  # draws films
def test_the_demos_encoder_gives_the_vectors_and_hits_of_version_1() -> None:
    embedder = Embedder.load(ENCODER, device="cpu")
    assert embedder.preprocessing.fit == "letterbox"
    files = [film for number in range(1, 6) for film in take_patient(7, number).films.values()]
    films = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE) for file in files]

    now = embedder.embed([StudyFilms(embedder.preprocessing(film), None) for film in films])
    before = torch.from_numpy(np.stack([by_version_1(film, embedder.preprocessing) for film in films]))
    rows = torch.arange(len(films))
    with torch.inference_mode():
        then = embedder.encoder.forward_rows(before, rows, rows).numpy()

    assert (now * then).sum(axis=1).min() > 0.999
    hits = [np.argsort(-(vectors @ vectors.T), axis=1)[:, :4] for vectors in (now, then)]
    np.testing.assert_array_equal(*hits)
