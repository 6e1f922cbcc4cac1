"""What answers a request: an index, the embedder of its vectors, the folder of its films.

A request looks it up once and keeps it, so that another may take its place; it knows no other HTTP.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from flask import current_app

from index.retriever import Answer, Retriever
from service.embedder import Embedder
from service.schemas import Search, SearchOptions

EXTENSION = "precedent"


@dataclass(frozen=True)
class Finder:
    """An index and the one encoder whose vectors it holds."""

    retriever: Retriever
    embedder: Embedder
    image_root: Path | None
    reader: Any = None
    """A `service.reader.Reader`, which brings torch with it; None only finds."""

    def embed(self, frontal: bytes | None, lateral: bytes | None) -> npt.NDArray[np.float32]:
        """Return the (D,) unit vector of the given films."""
        return self.embedder.embed_study(frontal, lateral)

    def find(self, search: Search) -> Answer:
        """Return the nearest studies of a stored study, of a vector, or of films."""
        if search.study_id is not None:
            return self.similar(search.study_id, search)
        if search.embedding is not None:
            query = np.asarray(search.embedding, dtype=np.float32)
        else:
            query = self.embed(search.frontal, search.lateral)
        patient = search.patient_id if search.exclude_same_patient else None
        return self.retriever.search(query, exclude_patient=patient, **_shared(search))

    def similar(self, study_id: str, options: SearchOptions) -> Answer:
        """Return the nearest studies of the stored study `study_id`."""
        return self.retriever.similar(study_id, exclude_same_patient=options.exclude_same_patient, **_shared(options))


def _shared(options: SearchOptions) -> dict[str, Any]:
    return {
        "k": options.k,
        "where": options.filter,
        "group_by": options.group_by,
        "min_similarity": options.min_similarity,
        "exact": options.exact,
    }


def current() -> Finder:
    """Return the finder of the running application."""
    return cast(Finder, current_app.extensions[EXTENSION])
