"""A collection in PostgreSQL, filled from an export by COPY, and put in the place of the one before.

What it is made of names its table. A shard is one transaction, the catalogue counts those that are there and takes the
manifest last, so a killed build goes on where it stopped and no search ever sees half of one.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.built.collection import ENOUGH_RECALL
from index.engines.building import Marked, export_to_build, manifest_for, name_of
from index.engines.columns import KEY, PATIENT, VECTOR
from index.errors import ArtefactError, CollectionError
from index.export.shards import load_shards
from index.postgres.address import PostgresAddress
from index.postgres.catalogue import Entry, current_entry, entries_of, entry_of, make_catalogue, save_entry
from index.postgres.client import BUILD_SECONDS, Asking, PostgresServer, Statement, sql
from index.postgres.columns import TableColumns, as_bytes, as_text
from index.postgres.search import BEAM, nearness
from index.search.familiarity import SAMPLE as GATE_SAMPLE
from index.vectors import Embeddings

KINDS = ("flat", "hnsw")
"""Of pgvector's approximate ones the graph alone needs no training and finds new studies as well as old ones."""
_BEAMS = (40, 80, 160, 320, 640, 1000)
_ASKED, _NEAREST = 100, 11
"""Ten, and the study itself."""
_MOST_GRAPH_DIM = 4000
"""Numbers of a vector in half precision that pgvector indexes."""
_MOST_INLINE_DIM = 1900
"""Numbers of a vector that fits into a page beside its row."""
_LEAST_MEMORY, _MOST_MEMORY = 64, 2048
"""MB that a graph may be built in. pgvector is many times slower where it does not fit."""


def build_on_postgres(
    embeddings: Path,
    address: PostgresAddress,
    *,
    kind: str = "auto",
    drop_old: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> dict[str, Any]:
    """Fill a collection from an export, point the address to it and return its manifest.

    Args:
        kind: auto, or of KINDS.
        drop_old: remove what the address meant before, and what it meant before that.
        advance: called with the number of rows that were added, for a progress bar.

    Raises:
        ArtefactError: the export is unfinished or has changed, or pgvector is missing or too old. CollectionError: it
            is empty, the kind is unknown, or the server refuses. BackendUnavailable: the server was lost, or another
            build is writing; the same call goes on. WriteFailed: it is full.
    """
    server = PostgresServer(address)
    try:
        export, kind = export_to_build(embeddings, kind, KINDS, address.engine)
        if kind == "hnsw" and export["embedding_dim"] > _MOST_GRAPH_DIM:
            raise CollectionError(
                f"expected vectors of at most {_MOST_GRAPH_DIM:,} numbers for a graph, got longer ones; use --kind flat"
            )
        make_catalogue(server)
        name = name_of(address, export, kind)
        with server.transaction() as asking:
            entry, meant = entry_of(asking, name), current_entry(asking, address)
        if meant is not None and meant.changed and meant.name != name:
            raise CollectionError(
                f"studies were added to or deleted from {str(address)!r} after it was built, of which an export knows "
                "nothing; give another name, or drop that collection in PostgreSQL to discard those changes"
            )
        if entry is None or entry.manifest is None:
            entry = _fill(server, name, embeddings, export, kind, advance)
        _mean(server, name, drop_old)
        assert entry.manifest is not None
        return entry.manifest
    finally:
        server.close()


def _fill(
    server: PostgresServer,
    name: str,
    embeddings: Path,
    export: dict[str, Any],
    kind: str,
    advance: Callable[[int], object],
) -> Entry:
    """Copy what is not there yet, index it, and write the manifest."""
    marked, columns = Marked(embeddings, export["rows"]), None
    for number, (studies, vectors) in enumerate(load_shards(embeddings)):
        if columns is None:
            columns = TableColumns(studies.schema.remove_metadata())
            _create(server, name, columns, export["embedding_dim"], kind)
        with server.transaction(write=True, build=True) as asking:
            entry = _held(asking, name)
            if entry.shards == number:
                _copy(asking, name, columns, studies, vectors, marked)
                save_entry(asking, name, shards=number + 1, rows=entry.rows + len(studies))
        advance(len(studies))
    assert columns is not None  # an empty export is refused before
    asked = _Asked(embeddings, marked)
    with server.transaction(write=True, build=True) as asking:
        entry = _held(asking, name)
        if entry.manifest is None:
            entry = _finish(asking, entry, columns, embeddings, export, kind, asked, server.address)
    return entry


def _create(server: PostgresServer, name: str, columns: TableColumns, embedding_dim: int, kind: str) -> None:
    """Make the table where it is not there; vectors lie beside their rows where every search reads all of them."""
    inline = kind == "flat" and embedding_dim <= _MOST_INLINE_DIM
    fields = [
        sql.SQL("{} {}{}{}").format(
            sql.Identifier(field),
            sql.SQL(kind),
            sql.SQL(' COLLATE "C"' if kind.startswith("text") else ""),
            sql.SQL(" NOT NULL" if field in (KEY, PATIENT) else ""),
        )
        for field, kind in columns.types.items()
    ]
    vector = sql.SQL("embedding vector({}) STORAGE {} NOT NULL").format(
        sql.Literal(embedding_dim), sql.SQL("PLAIN" if inline else "EXTERNAL")
    )
    text = sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(name), sql.SQL(", ").join([*fields, vector]))
    noted = "INSERT INTO precedent_collections (name, collection) VALUES (%s, %s) ON CONFLICT DO NOTHING"
    with server.transaction(write=True) as asking:
        if asking.do(Statement(noted, (name, server.address.collection))):
            asking.do(Statement(text))


def _held(asking: Asking, name: str) -> Entry:
    """Return what is there, and keep it from other builds. Raises BackendUnavailable: another one keeps it."""
    entry = entry_of(asking, name, held=True)
    if entry is None:
        raise ArtefactError(f"{name!r} was removed while it was filled; run the same command again")
    return entry


def _copy(
    asking: Asking, name: str, columns: TableColumns, studies: pa.Table, vectors: Embeddings, marked: Marked
) -> None:
    fields = sql.SQL(", ").join(map(sql.Identifier, [*columns.types, VECTOR]))
    text = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(name), fields)
    with asking.copying(Statement(text), [*columns.types.values(), "bytea"]) as copying:  # a vector goes as it is
        for row, vector in zip(studies.to_pylist(), vectors, strict=True):
            copying.write([*columns.as_values(row, vector, marked.sample_of(row[KEY])), as_bytes(vector)])


class _Asked:
    """Marked studies, one a patient, and what is nearest to each in the whole export."""

    def __init__(self, embeddings: Path, marked: Marked) -> None:
        firsts: dict[str, tuple[str, npt.NDArray[np.float32]]] = {}
        for studies, vectors in load_shards(embeddings):
            for study, patient, vector in zip(
                studies[KEY].to_pylist(), studies[PATIENT].to_pylist(), vectors, strict=True
            ):
                if study in marked and (patient not in firsts or study < firsts[patient][0]):
                    firsts[patient] = study, vector
        chosen = sorted(firsts.items())[:GATE_SAMPLE]
        self.ids = [study for _, (study, _) in chosen]
        self.vectors = np.stack([vector for _, (_, vector) in chosen]) if chosen else np.empty((0, 0), np.float32)
        self._patients = np.array([patient for patient, _ in chosen], dtype=object)
        self.of_others = np.full(len(chosen), -np.inf, np.float32)
        """The greatest similarity to a study of another patient."""
        self.nearest: list[set[str]] = [set() for _ in chosen[:_ASKED]]
        """Ids of the nearest of the first so many, itself among them."""
        self._look_at(embeddings)

    def _look_at(self, embeddings: Path) -> None:
        best: list[list[tuple[float, str]]] = [[] for _ in self.nearest]
        for studies, vectors in load_shards(embeddings):
            similarities = self.vectors @ vectors.T if len(self.ids) else np.empty((0, len(vectors)), np.float32)
            ids, patients = studies[KEY].to_pylist(), np.array(studies[PATIENT].to_pylist(), dtype=object)
            for row in range(len(best)):
                few = np.argsort(-similarities[row], kind="stable")[:_NEAREST]
                best[row] = sorted([*best[row], *((-float(similarities[row, one]), ids[one]) for one in few)])[
                    :_NEAREST
                ]
            similarities[self._patients[:, None] == patients] = -np.inf
            np.maximum(self.of_others, similarities.max(axis=1, initial=-np.inf), out=self.of_others)
        self.nearest = [{study for _, study in row} for row in best]


def _finish(
    asking: Asking,
    entry: Entry,
    columns: TableColumns,
    embeddings: Path,
    export: dict[str, Any],
    kind: str,
    asked: _Asked,
    address: PostgresAddress,
) -> Entry:
    if entry.rows != export["rows"]:
        raise ArtefactError(f"{entry.name!r} holds {entry.rows:,} studies, expected {export['rows']:,}; drop it")
    table, dim = sql.Identifier(entry.name), export["embedding_dim"]
    asking.do(Statement(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (study_id)").format(table)), seconds=BUILD_SECONDS)
    asking.do(Statement(sql.SQL("CREATE INDEX ON {} (patient_id)").format(table)), seconds=BUILD_SECONDS)
    beam, recall = 0, 1.0
    if kind == "hnsw":
        memory = min(max(entry.rows * (2 * dim + 400) >> 20, _LEAST_MEMORY), _MOST_MEMORY)
        asking.do(Statement(_MEMORY, (f"{memory}MB", memory)))
        graph = sql.SQL("CREATE INDEX ON {} USING hnsw ((embedding::halfvec({})) halfvec_ip_ops)")
        asking.do(Statement(graph.format(table, sql.Literal(dim))), seconds=BUILD_SECONDS)
    asking.do(Statement(sql.SQL("ANALYZE {}").format(table)), seconds=BUILD_SECONDS)
    if kind == "hnsw":
        beam, recall = _enough(asking, table, dim, asked)
    facts = {"kind": kind, "beam": beam, "recall_at_10": recall}
    manifest = manifest_for(address, embeddings, export, columns, **facts)
    gate = np.sort(asked.of_others[np.isfinite(asked.of_others)]).astype(float).tolist()
    save_entry(asking, entry.name, manifest=manifest, gate=gate)
    return entry._replace(manifest=manifest, gate=gate)


_MEMORY = (
    "SELECT set_config('maintenance_work_mem', %s, true) FROM pg_settings "
    "WHERE name = 'maintenance_work_mem' AND setting::bigint < %s * 1024::bigint"
)


def _enough(asking: Asking, table: sql.Identifier, dim: int, asked: _Asked) -> tuple[int, float]:
    """Return the least beam that finds 99 % of the ten nearest, or the greatest, and what it finds."""
    text = sql.SQL("SELECT study_id FROM {} {} LIMIT %s").format(table, nearness(dim))
    for beam in _BEAMS:
        asking.do(Statement(BEAM, (str(beam),)))
        shares = []
        for own, vector, true in zip(asked.ids, asked.vectors, asked.nearest, strict=False):
            found = {study for (study,) in asking.rows(Statement(text, (as_text(vector), _NEAREST)), _NEAREST)}
            shares.append(len(found & true - {own}) / max(len(true - {own}), 1))
        recall = float(np.mean(shares)) if shares else 1.0
        if recall >= ENOUGH_RECALL:
            break
    return beam, recall


def _mean(server: PostgresServer, name: str, drop_old: bool) -> None:
    """Let the address mean that table; a search sees the one before or this one. Remove those before where asked to."""
    with server.transaction(write=True) as asking:
        others = [entry for entry in entries_of(asking, server.address) if entry.name != name]
        for entry in others:
            if entry.current:
                save_entry(asking, entry.name, current=False)
        save_entry(asking, name, current=True)
        if drop_old:
            _drop(asking, [entry.name for entry in others if entry.manifest], server.address)


def _drop(asking: Asking, names: Sequence[str], address: PostgresAddress) -> None:
    """Remove tables that a build has named so."""
    ours = re.compile(rf"{address.collection}_[0-9a-f]{{12}}")
    for name in filter(ours.fullmatch, names):
        asking.do(Statement(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name))))
        asking.do(Statement("DELETE FROM precedent_collections WHERE name = %s", (name,)))
