"""Films of stored studies, opened to be explained, and their maps written."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from encoder.embedder import Embedder
from encoder.maps.explain import Explanation, OpenStudy
from encoder.maps.overlay import as_png, overlay
from index.errors import ArtefactError
from index.living.additions import Writable
from index.storage.places import below


class Stored:
    """Opens the films of studies that an index holds."""

    def __init__(self, embedder: Embedder, retriever: Writable, images: Path | None, trusted: bool = False) -> None:
        """Take an index of that encoder. Raises FingerprintMismatch."""
        retriever.require_fingerprint(embedder.fingerprint)
        self._embedder, self._retriever, self._images, self._trusted = embedder, retriever, images, trusted

    def open_all(self, wanted: dict[str, str]) -> dict[str, OpenStudy]:
        """Return the studies by the names they are wanted under. Raises as `open` does."""
        return {name: self.open(study_id) for name, study_id in wanted.items()}

    def open(self, study_id: str) -> OpenStudy:
        """Return a study's films.

        Raises:
            StudyNotFound, ImageError. ArtefactError: the index has no image root. UntrustedRoot: it is somebody's else.
            PlaceError: a film lies outside of it.
        """
        study = self._retriever.study(study_id)
        root = self._images or self._retriever.remembered_root(trusted=self._trusted)
        if root is None:
            raise ArtefactError("expected the index to know its image root, got none; name it with --images")
        frontal, lateral = (path and below(root, path) for path in (study.frontal_path, study.lateral_path))
        return OpenStudy.read(self._embedder, frontal, lateral, study.projection)


def save_maps(
    out: Path,
    sides: dict[str, OpenStudy],
    explanations: dict[str, Explanation],
    alpha: float = 0.4,
    colours: str = "inferno",
) -> list[dict[str, object]]:
    """Write each map as a picture over its film and as an array; return what was written, with the trust in it."""
    out.mkdir(parents=True, exist_ok=True)
    facts: list[dict[str, object]] = []
    for side, explanation in explanations.items():
        for view, heat in explanation.maps.items():
            picture = overlay(sides[side].images[view], heat, alpha=alpha, colours=colours)
            file = out / f"{side}_{view}.png"
            file.write_bytes(as_png(picture))
            np.save(file.with_suffix(".npy"), heat)
            height, width = heat.shape
            scores = asdict(explanation.trust[view]) if view in explanation.trust else {}
            facts.append({"side": side, "view": view, "width": width, "height": height, "file": str(file), **scores})
    return facts
