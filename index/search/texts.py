"""Texts with unit vectors of a model that puts texts and films into one space, by which studies are searched.

They are made where the model is; nothing here turns words into a vector.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from index.errors import ArtefactError, StudiesError, TextNotFound
from index.printable import is_visible
from index.storage.files import SEAL, UNSEALED, read_sealed_parquet, seal_parquet, written_whole
from index.storage.parquet import read_parquet
from index.table.studies import ID_LENGTH
from index.vectors import Embeddings, as_embeddings

UNTESTED = "Text and film are matched by a model that was not tested here."
MOST_TEXTS = 100_000
_FINGERPRINT = b"precedent.texts.fingerprint"
_REMEDY = "run: precedent import texts"


@dataclass(frozen=True)
class Texts:
    """Texts, their vectors (N, D), and the fingerprint of the model that made these."""

    fingerprint: str
    rows: dict[str, int]
    """Of each text its row."""
    vectors: Embeddings

    @classmethod
    def of(cls, fingerprint: str, texts: list[str], vectors: Embeddings) -> Self:
        """Return texts with their vectors. Raises StudiesError: one is there twice, or is none that can be typed."""
        rows = {text: row for row, text in enumerate(texts)}
        wrong = next((text for text in rows if not 0 < len(text) <= ID_LENGTH or not is_visible(text)), None)
        if wrong is not None or len(rows) < len(texts) or len(texts) > MOST_TEXTS:
            raise StudiesError(
                f"expected at most {MOST_TEXTS:,} texts, each once, of 1 to {ID_LENGTH} characters that can be seen, "
                + (f"got {len(texts):,}" if wrong is None else f"got {wrong[:80]!r}")
            )
        return cls(fingerprint, rows, vectors)

    def vector(self, text: str) -> npt.NDArray[np.float32]:
        """Return the vector (D,) of a text. Raises TextNotFound."""
        if text not in self.rows:
            some = ", ".join(repr(known) for known in list(self.rows)[:3])
            raise TextNotFound(f"no text {text[:80]!r} among {len(self.rows):,}, such as {some}")
        return self.vectors[self.rows[text]]

    def save(self, path: Path) -> None:
        """Write them as sealed Parquet, whole or not at all."""
        flat = pa.array(np.ascontiguousarray(self.vectors, np.float32).reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        table = pa.table({"text": pa.array(list(self.rows), pa.string()), "embedding": lists})
        table = table.replace_schema_metadata({_FINGERPRINT: self.fingerprint, SEAL: UNSEALED})
        with written_whole(path) as partial:
            pq.write_table(table, partial)
            seal_parquet(partial)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what `save` wrote. Raises ArtefactError, StudiesError, VectorsError."""
        try:
            table = read_parquet(read_sealed_parquet(path, _REMEDY), path.name, _REMEDY)
        except FileNotFoundError:
            raise ArtefactError(f"expected texts at {str(path)!r}, got none; {_REMEDY}") from None
        fingerprint = (table.schema.metadata or {}).get(_FINGERPRINT, b"").decode(errors="replace")
        kind = table.schema.field("embedding").type if "embedding" in table.column_names else pa.null()
        fits = pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32() and "text" in table.column_names
        if not fits or len(fingerprint) != 64 or table["text"].type != pa.string() or not len(table):
            raise ArtefactError(f"expected texts as import texts writes them in {path.name!r}, got others; {_REMEDY}")
        values = table["embedding"].combine_chunks().flatten()
        if table["text"].null_count or values.null_count or len(values) != len(table) * kind.list_size:
            raise ArtefactError(f"expected a text and a vector in every row of {path.name!r}, got blanks; {_REMEDY}")
        vectors = as_embeddings(values.to_numpy().reshape(-1, kind.list_size))
        return cls.of(fingerprint, table["text"].to_pylist(), vectors)
