"""What the service asks of an encoder: three members, so that a fake serves in tests.

How a vector is made is the encoder's. Where there is none, something in its place says so.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.errors import EncoderMissing


class Embedder(Protocol):
    """Turns the films of one study into one vector."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, config and preprocessing."""

    @property
    def embedding_dim(self) -> int:
        """Length D of a vector."""

    def embed_study(
        self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the (D,) unit vector of one study; at least one view is given, the frontal's projection known or not.

        Raises:
            ImageError: a view that is no image, or not usable as a radiograph; the message names the view.
        """


@dataclass(frozen=True)
class NoEmbedder:
    """In the place of an encoder where only its vectors are there: every film is refused."""

    fingerprint: str
    """Of the vectors."""
    embedding_dim: int

    def embed_study(
        self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Raise EncoderMissing."""
        raise EncoderMissing(
            "this service was started without an encoder, so it cannot turn films into vectors; ask about a stored "
            "study or with a vector"
        )
