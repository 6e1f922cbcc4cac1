"""Checks what can be wrong with a collection on a server: each row, vector, digest and id, and the added films.

Nothing is repaired.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from index.engines.collection import EngineCollection
from index.errors import UntrustedRoot
from index.living.added_films import changed_films, unnamed_films
from index.living.verification import Verdict, refusals
from index.table.studies import SHARD_COLUMNS, as_studies
from index.vectors import as_embeddings

_ROWS_CHECKED_AT_ONCE = 1000


def verify_on_server(
    collection: EngineCollection[Any], image_root: Path | None = None, *, trusted: bool = False
) -> Verdict:
    """Return what is wrong with a collection, after reading all of it.

    Args:
        image_root: of the added films; None takes the one that the collection remembers, where that is there.
        trusted: take that one even where the collection was made elsewhere.

    Raises:
        BackendUnavailable: the server was lost; nothing is known then.
    """
    verdict, seen, films = Verdict(), set(), set()
    rows: list[dict[str, object]] = []
    for row, vector, digest in collection.entities():
        study_id = row["study_id"]
        if (column := collection.fault_of(row)) is not None:
            verdict.faults.append(f"{study_id!r} has something else than its type in column {column!r}")
            continue
        if study_id in seen:
            verdict.faults.append(f"{study_id!r} is there twice; index the export anew, under another name")
        if collection.digest(row, vector) != digest:
            verdict.faults.append(f"{study_id!r} is not what was written; delete it and add it again")
        verdict.faults += [
            f"{study_id!r}: {refusal}" for refusal in refusals(partial(as_embeddings, vector, collection.embedding_dim))
        ]
        seen.add(study_id)
        films.update(collection.own_films(row))
        rows.append(row)
        if len(rows) == _ROWS_CHECKED_AT_ONCE:
            verdict.faults += _of_rows(rows, collection)
            rows = []
    verdict.faults += _of_rows(rows, collection)
    verdict.studies = len(seen)
    if not collection.changed and verdict.studies != collection.manifest["rows"]:
        verdict.faults.append(
            f"expected {collection.manifest['rows']:,} studies, found {verdict.studies:,}; index the export anew"
        )
    _look_at_films(collection, films, image_root, trusted, verdict)
    return verdict


def _of_rows(rows: list[dict[str, object]], collection: EngineCollection[Any]) -> list[str]:
    table = pa.Table.from_pylist(rows, collection.schema)
    apart = [name for name in SHARD_COLUMNS if name in table.column_names]
    return refusals(partial(as_studies, table.drop_columns(apart)))


def _look_at_films(
    collection: EngineCollection[Any], films: set[str], image_root: Path | None, trusted: bool, verdict: Verdict
) -> None:
    try:
        root = image_root or collection.remembered_root(trusted=trusted)
    except UntrustedRoot as refusal:
        verdict.notes.append(f"added films were not checked: {refusal}")
        return
    if root is None or not root.is_dir():
        return
    verdict.faults += [f"{path}: the film is missing or has changed" for path in changed_films(root, films)]
    for path in unnamed_films(root, collection.films, films):
        verdict.notes.append(f"{path.relative_to(root)} belongs to no study; remove it")
