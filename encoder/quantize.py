"""An encoder's backbones in int8, calibrated on films of the collection that they will embed.

Knows runtimes and films; nncf is only imported here, because only the making of an int8 model needs it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoder.embedder import Embedder, StudyFilms
from encoder.errors import EncoderError
from encoder.runtime import convert, keep_model, path_of

Films = npt.NDArray[np.float32]


def quantize(embedder: Embedder, studies: Sequence[StudyFilms], cache: Path) -> list[Path]:
    """Write the int8 models of a checkpoint into its folder of conversions and return their files, one a branch.

    Post-training quantisation (nncf): weights and activations take 8 bits, with ranges seen on the films.

    Args:
        studies: a few hundred of the collection, with the views they have.

    Raises:
        EncoderError: nncf or OpenVINO is not installed, or a branch would see no film.
    """
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise EncoderError("expected nncf to make an int8 model; run: pip install 'cxr-precedent[fast]'") from error
    encoder, size = embedder.encoder, embedder.preprocessing.size
    written = []
    for branch in range(len(encoder.backbones)):
        films = _films_of(studies, branch, both=len(encoder.backbones) == 1)
        model = nncf.quantize(
            convert(encoder, branch, size),
            nncf.Dataset([film[None] for film in films]),
            subset_size=len(films),
            preset=nncf.QuantizationPreset.MIXED,  # SiLU's outputs are not symmetric
        )
        path = path_of(cache, embedder.fingerprint, branch, "int8")
        assert path is not None
        if not keep_model(model, path):
            raise EncoderError(f"expected to write {str(path)!r}, could not; make the folder writable")
        written.append(path)
    return written


def _films_of(studies: Sequence[StudyFilms], branch: int, *, both: bool) -> list[Films]:
    """Return the films that a branch sees: its view, the other one where that is missing, and both where shared."""
    views = ("frontal", "lateral") if branch == 0 else ("lateral", "frontal")
    found = []
    for study in studies:
        films = [film for view in views if (film := getattr(study, view)) is not None]
        found += films if both else films[:1]
    if not found:
        raise EncoderError("expected films to calibrate on, got none")
    return found
