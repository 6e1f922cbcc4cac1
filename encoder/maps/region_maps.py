"""Feature maps of films, small enough to be kept of every film, so that a part of one can be searched by."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from encoder.embedder import Embedder
from encoder.films.image import Source
from encoder.films.study import Film, StudyFilms

VERSION = 1
"""Raised when the same film begins to give another map."""
DIM = 64
"""Numbers a place. Of simulated films, among the five nearest by region 0.932 had the finding under the box with 32,
0.933 with 64 and 0.937 with 128, each a projection by chance; the 64 first principal components gave 0.937."""
RegionMap = npt.NDArray[np.float16]
"""(h, w, DIM): one film's last feature map, projected."""
Square = tuple[float, float, float, float]
VIEWS = ("frontal", "lateral")


def regions_of(embedder: Embedder) -> str:
    """Return version and shape of the maps, such as 1:5x5x64: maps of another are not to be compared with these.

    Raises:
        EncoderError: the network's features make no map.
    """
    size = embedder.preprocessing.size
    [maps] = region_maps(embedder, [StudyFilms(np.zeros((size, size), np.uint8), None)])
    return f"{VERSION}:{'x'.join(map(str, maps['frontal'].shape))}"


def read_region(embedder: Embedder, source: Source, view: str) -> tuple[Square, RegionMap]:
    """Return where the network's square lies on a film, x0, y0, x1, y1 in shares of it, and the film's map.

    Raises:
        ImageError; EncoderError: the network's features make no map.
    """
    plane = embedder.read_plane(source, name=view if isinstance(source, bytes) else None)
    film = embedder.preprocessing(plane)
    films = StudyFilms(film if view == "frontal" else None, film if view == "lateral" else None)
    [maps] = region_maps(embedder, [films])
    return embedder.preprocessing.square_in(plane.shape), maps[view]


def region_maps(embedder: Embedder, studies: Sequence[StudyFilms]) -> list[dict[str, RegionMap]]:
    """Return the maps of each study's films by view, whatever runs the encoder made by torch.

    Raises:
        EncoderError: the network's features make no map.
    """
    maps: list[dict[str, RegionMap]] = [{} for _ in studies]
    for branch, view in enumerate(VIEWS):
        films = {number: film for number, study in enumerate(studies) if (film := getattr(study, view)) is not None}
        if films:
            for number, film_map in zip(films, _maps(embedder, list(films.values()), branch), strict=True):
                maps[number][view] = film_map
    return maps


@torch.inference_mode()
def _maps(embedder: Embedder, films: Sequence[Film], branch: int) -> npt.NDArray[np.float16]:
    """Return the projected maps (M, h, w, DIM) of films (S, S) by a branch."""
    stack = torch.from_numpy(np.stack([embedder.preprocessing.normalized(film) for film in films]))
    features = embedder.encoder.forward_features(stack.to(embedder.device), branch)
    whole = embedder.encoder.as_map(features, branch).permute(0, 2, 3, 1).float().cpu().numpy()  # (M, h, w, F)
    most = np.finfo(np.float16).max
    return np.clip(whole @ _projection(whole.shape[-1]), -most, most).astype(np.float16)


def _projection(channels: int) -> npt.NDArray[np.float32]:
    """Return a projection (F, DIM) by signs alone, the same on every machine (Achlioptas, JCSS 2003)."""
    if channels <= DIM:
        return np.eye(channels, DIM, dtype=np.float32)
    drawn = hashlib.shake_256(f"precedent regions {VERSION}".encode()).digest(-(-channels * DIM // 8))
    signs = np.unpackbits(np.frombuffer(drawn, np.uint8))[: channels * DIM].reshape(channels, DIM)
    return (2 * signs.astype(np.float32) - 1) / np.float32(DIM**0.5)
