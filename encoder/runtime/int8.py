"""An encoder's backbones in int8, calibrated on films of the collection that they will embed.

nncf is only imported in `encoder.runtime.mixed_precision`, because only making a model needs it.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder.errors import EncoderError
from encoder.films.preprocess import Preprocessing
from encoder.films.study import Normalized, StudyFilms
from encoder.network.model import StudyEncoder
from encoder.runtime.mixed_precision import MixedModel
from encoder.runtime.openvino_branch import CompiledBranch, apart
from encoder.runtime.runtimes import convert, keep_model, path_of

BUDGET = 3e-4
"""Loss of cosine, each layer's alone summed, up to which layers take 8 bits. Together they cost about three times it:
on phantoms a mean cosine of 0.999 and 0.955 of the ten nearest kept, where all layers give 0.982 and 0.836."""
_JUDGED = 48
_CALIBRATED = 300


@dataclass(frozen=True)
class Quantized:
    """The int8 model of one branch: its file, how many of its layers take 8 bits, and the cosine to fp32."""

    path: Path
    layers: int
    of: int
    cosine: float


def quantize(
    encoder: StudyEncoder, studies: Sequence[StudyFilms], *, preprocessing: Preprocessing, fingerprint: str, cache: Path
) -> list[Quantized]:
    """Write the int8 models of a checkpoint into its folder of conversions and return them, one for each branch.

    A layer takes 8 bits where that hardly turns the embeddings; the others run in bf16 where the processor has it. A
    sixth of the films, at most 48, is not calibrated on: on those each layer's loss is measured.

    Args:
        studies: a few hundred of the collection, with the views they have.
        fingerprint: the encoder's, which names the files.
        cache: folder of conversions, `runtime/` beside the checkpoint.

    Raises:
        EncoderError: nncf or OpenVINO is not installed, or a branch would see no film.
    """
    if importlib.util.find_spec("nncf") is None or importlib.util.find_spec("openvino") is None:
        raise EncoderError("expected nncf to make an int8 model; run: pip install 'cxr-precedent[fast]'")
    written = []
    for branch in range(len(encoder.backbones)):
        films = _films_of(studies, branch, preprocessing, both=len(encoder.backbones) == 1)
        judged = films[:: max(6, -(-len(films) // _JUDGED))]
        calibrated = [film for number, film in enumerate(films) if number % max(6, -(-len(films) // _JUDGED))]
        judge = _Judge(encoder, branch, judged)
        model = convert(encoder, branch, preprocessing.size)
        path = path_of(cache, fingerprint, branch, "int8")
        assert path is not None
        written.append(_quantized(model, calibrated[:_CALIBRATED] or films, judge, path))
    return written


def _quantized(model: Any, calibrated: Sequence[Normalized], judge: "_Judge", path: Path) -> Quantized:
    mixed = apart(lambda: MixedModel(model, calibrated))
    layers = mixed.chosen(judge.loss_of, BUDGET)
    chosen = mixed.model(layers)
    if not keep_model(chosen, path):
        raise EncoderError(f"expected to write {str(path)!r}, could not; make the folder writable")
    return Quantized(path, len(layers), len(mixed.layers), 1 - judge.loss_of(chosen))


class _Judge:
    """Measures how far another model of one branch moves the embeddings of films."""

    def __init__(self, encoder: StudyEncoder, branch: int, films: Sequence[Normalized]) -> None:
        self._encoder, self._branch, self._films = encoder, branch, films
        with torch.inference_mode():
            stack = torch.from_numpy(np.stack(films))
            self._pooled = [encoder.pool_films(stack, number) for number in range(len(encoder.backbones))]
        self._expected = self._embeddings(self._pooled[branch])

    def loss_of(self, model: Any) -> float:
        """Return 1 less the mean cosine between the model's embeddings and those of torch; arithmetic is fp32."""
        pooled = CompiledBranch(model, "fp32").start(self._films).result()
        embeddings = self._embeddings(torch.from_numpy(pooled))
        return float(1 - (embeddings * self._expected).sum(dim=1).mean())

    @torch.inference_mode()
    def _embeddings(self, pooled: torch.Tensor) -> torch.Tensor:
        views = [*self._pooled]
        views[self._branch] = pooled
        first, last = (self._encoder.finish_pooled(view, None) for view in (views[0], views[-1]))
        return self._encoder.fuse_pooled(first, last)


def _films_of(
    studies: Sequence[StudyFilms], branch: int, preprocessing: Preprocessing, *, both: bool
) -> list[Normalized]:
    """Return the films that a branch sees, normalised: its view, else the other one, and both where it is shared."""
    views = ("frontal", "lateral") if branch == 0 else ("lateral", "frontal")
    seen = []
    for study in studies:
        films = [film for view in views if (film := getattr(study, view)) is not None]
        seen += films if both else films[:1]
    if not seen:
        raise EncoderError("expected films to calibrate on, got none")
    return [preprocessing.normalized(film) for film in seen]
