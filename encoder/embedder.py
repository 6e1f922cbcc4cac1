"""The NumPy face of an encoder: films in, unit vectors out, with batching, devices and the fingerprint."""

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from encoder.errors import EncoderError
from encoder.films.body_part import as_parts
from encoder.films.image import Source, is_unnamed, read_plane
from encoder.films.plane import Plane
from encoder.films.preprocess import Preprocessing
from encoder.films.study import Film, StudyFilms, position_code, stack_films
from encoder.network.builtin import encoder_path
from encoder.network.checkpoint import fingerprint_of, load_encoder
from encoder.network.model import StudyEncoder
from encoder.runtime.fixed_batches import FixedBatchEncoder
from encoder.runtime.normalize import Normalizer
from encoder.runtime.runtimes import OpenVinoEncoder, choose_runtime, with_runtime

_BATCH = 16
_LEAST_SIDE = 3
"""A JPEG is decoded to no less than so many times the side of the network's square. Over 29 films and four trained
encoders the least cosine to the whole film's vector was 0.9968; with 2.5 it was 0.9889."""


class Embedder:
    """Embeds studies with one encoder on one device. Safe under threads: nothing in it changes after construction."""

    def __init__(
        self,
        encoder: StudyEncoder,
        preprocessing: Preprocessing,
        *,
        device: str = "auto",
        runtime: str = "torch",
        cache: Path | None = None,
        ignored_parts: Iterable[str] = (),
    ) -> None:
        """Put an encoder on a device.

        Args:
            device: auto, cpu or cuda. runtime: one of `encoder.runtime.runtimes.RUNTIMES`.
            cache: folder for what a runtime makes of the weights; None makes it anew each time.
            ignored_parts: what a DICOM header may state of the body part as if it stated none.

        Raises:
            EncoderError: a device or a runtime that is not to be had.
        """
        self.preprocessing = preprocessing
        self.ignored_parts = as_parts(ignored_parts)
        self.device = torch.device(available_device(device))
        self.encoder = encoder.eval().to(self.device)
        self.fingerprint = fingerprint_of(encoder, preprocessing)
        self.embedding_dim = encoder.embedding_dim
        self.runtime = choose_runtime(runtime, self.device.type)
        self.runner = with_runtime(self.encoder, self.runtime, preprocessing, cache, self.fingerprint)
        self._normalize = Normalizer(preprocessing, self.device)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        runtime: str = "torch",
        ignored_parts: Iterable[str] = (),
    ) -> Self:
        """Return the embedder of a checkpoint; what the runtime makes of it is kept in `runtime/` beside it.

        Args:
            path: of the file; "builtin" is the encoder that is shipped.
            device, runtime, ignored_parts: as the constructor has them.

        Raises:
            CheckpointError: it is missing or none of ours. EncoderError: a device or a runtime that is not to be had.
        """
        path = encoder_path(path)
        cache = path.resolve().parent / "runtime"
        return cls(*load_encoder(path), device=device, runtime=runtime, cache=cache, ignored_parts=ignored_parts)

    @property
    def batch(self) -> int:
        """Studies a batch that suit the device: on a GPU as many as its memory has room for."""
        return self.runner.most if isinstance(self.runner, FixedBatchEncoder) else _BATCH

    @property
    def trained(self) -> bool | None:
        """Whether the encoder's layers above its backbones have learnt; None where that is not known."""
        return self.encoder.trained

    def with_encoder(self, encoder: StudyEncoder) -> Self:
        """Return an embedder like this one around another encoder, which runs in torch."""
        other = copy.copy(self)
        other.encoder = other.runner = encoder
        return other

    def read_film(self, source: Source, *, name: str | None = None) -> Film:
        """Return one file or upload in the network's square, (S, S) of 8 or 16 bits. Raises ImageError.

        A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, never to less than three times the side of the network's
        square, short side: the embedding stays within a cosine of 0.995 of the whole film's.
        """
        return self.preprocessing(self.read_plane(source, name=name))

    def read_plane(self, source: Source, *, name: str | None = None) -> Plane:
        """Return one file or upload as `read_film` decodes it, (H, W), before it is put in the square."""
        least_side = round(_LEAST_SIDE * (self.preprocessing.size + 2 * self.preprocessing.margin))
        return read_plane(source, name=name, least_side=least_side, ignored_parts=self.ignored_parts)

    def read_films(self, frontal: Source | None, lateral: Source | None, projection: str | None = None) -> StudyFilms:
        """Return the films of one study, the frontal's projection known or not.

        Raises:
            ImageError: a film that cannot be used. EncoderError: both are missing.
        """
        return StudyFilms(
            None if frontal is None else self.read_film(frontal, name=_upload_name(frontal, "frontal")),
            None if lateral is None else self.read_film(lateral, name=_upload_name(lateral, "lateral")),
            projection,
        )

    def embed(self, studies: Sequence[StudyFilms]) -> npt.NDArray[np.float32]:
        """Return the embeddings (B, D), unit norm, of one batch; a missing view is stood in for by the present one."""
        films: list[Film] = []
        positions: list[int] = []
        rows = np.empty((2, len(studies)), dtype=np.int64)
        for number, study in enumerate(studies):
            for view, film in enumerate((study.frontal, study.lateral)):
                if film is not None:
                    rows[view, number] = len(films)
                    films.append(film)
                    positions.append(position_code("lateral" if view else study.projection))
            if study.frontal is None or study.lateral is None:
                rows[:, number] = len(films) - 1
        return self._forward(films, rows, np.array(positions))

    def embed_study(self, frontal: Source | None, lateral: Source | None) -> npt.NDArray[np.float32]:
        """Return the embedding (D,) of the films of one study, given as `read_plane` takes them. Raises ImageError."""
        return self.embed([self.read_films(frontal, lateral)])[0]

    @torch.inference_mode()
    def _forward(
        self, films: Sequence[Film], rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        frontal_rows, lateral_rows = torch.from_numpy(rows)
        codes = torch.from_numpy(positions)
        if isinstance(self.runner, (OpenVinoEncoder, FixedBatchEncoder)):
            pooled = self.runner.pool_films_of(films, frontal_rows, lateral_rows, codes)
            return self.runner.fuse_pooled(*pooled).cpu().numpy()
        frontal_rows, lateral_rows, codes = (rows.to(self.device) for rows in (frontal_rows, lateral_rows, codes))
        stack = self._normalize(torch.from_numpy(stack_films(films)).to(self.device))
        return self.runner.forward_rows(stack, frontal_rows, lateral_rows, codes).cpu().numpy()


def _upload_name(source: Source, view: str) -> str | None:
    return view if is_unnamed(source) else None


def available_device(device: str) -> str:
    """Return the device of a name, for auto cuda where there is one. Raises EncoderError: there is no such device."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EncoderError(f"expected a CUDA device for {device!r}, found none; use --device cpu")
    return device
