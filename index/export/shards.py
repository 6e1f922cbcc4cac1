"""Embedding shards: Parquet files of studies with their vectors, written so that a killed export can go on.

A shard holds a fixed run of rows of the studies table and is finished when its file exists; the manifest comes last.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from index.errors import ArtefactError, FingerprintMismatch, StudiesError
from index.export.film_maps import VIEWS, RegionFormat
from index.storage.files import (
    SEAL,
    UNSEALED,
    load_json,
    parse_json,
    read_regular,
    read_sealed_parquet,
    read_unchanged,
    require_shape,
    save_json,
    seal_parquet,
    written_whole,
)
from index.storage.manifests import EXPORT_SHAPE, SHARD_SHAPE
from index.storage.origin import rooted
from index.storage.parquet import opened_parquet, read_parquet
from index.storage.places import place
from index.table.studies import require_studies
from index.vectors import Embeddings, as_embeddings

SCHEMA_VERSION = "1"
MANIFEST = "_manifest.json"
FAILED = "_failed.parquet"
"""A folder, as Spark writes tables, so that a glob `*.parquet` of polars or DuckDB does not take in what is in it."""
_FAILED_LIST = "failed.pq"
_OLD_MANIFEST, _OLD_FAILED = "manifest.json", "failed.parquet"
"""What older versions called them. Every reader of a folder took those for two more shards."""
LAYOUT_SAMPLE = 1000
"""Studies whose films stand for the collection: 0.3 points of standard error at the first percentile, 0.3 MB."""
_FORMAT = "precedent-embeddings"
_SHARD = re.compile(r"shard-[0-9]{5,}\.parquet")
_KEY = b"precedent.shard"
_REMEDY = "remove it and run the export again"


@dataclass(frozen=True)
class Failure:
    """A study that has no embedding, and why."""

    study_id: str
    reason: str


@dataclass(frozen=True)
class ExportPlan:
    """What makes two runs the same export: they may finish each other's shards."""

    fingerprint: str
    embedding_dim: int
    studies_sha256: str
    rows: int
    shard_rows: int
    views: str = "both"
    """Which films were offered to the encoder: both, frontal or lateral."""
    runtime: str = ""
    """What ran the encoder: another's vectors are near, not the same."""
    reading: int = 1
    """Version of how films are read: another's pictures of some DICOM films differ."""

    regions: str = ""
    """Version and shape of the feature maps that are kept, as `index.export.film_maps` has them; "" keeps none."""

    @property
    def shard_count(self) -> int:
        """Number of shards; the last may be shorter."""
        return -(-self.rows // self.shard_rows)

    def slice_of(self, shard: int) -> slice:
        """Return the rows of the studies table that a shard covers."""
        return slice(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))


class ShardFolder:
    """The folder of one export."""

    def __init__(self, folder: Path, plan: ExportPlan, *, looked_over: bool = False) -> None:
        """Take the folder for this plan.

        Args:
            looked_over: whether another process has just opened it, so that its shards need not be read again.

        Raises:
            FingerprintMismatch: it holds shards of another encoder or preprocessing.
            ArtefactError: it holds shards of another studies table or shard size, or one that has changed.
        """
        self.folder = folder
        self.plan = plan
        if looked_over:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("shard-*.parquet")):
            _require_same_plan(path, plan)

    def path_of(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"shard-{shard:05d}.parquet"

    def unfinished(self, *, retry_failed: bool = False) -> list[int]:
        """Return the shards that are still to be written, and those in which a study failed where it is retried."""
        finished = self._finished()
        if retry_failed:
            finished = [shard for shard in finished if not _read_entry(self.path_of(shard))["failures"]]
        return sorted({*range(self.plan.shard_count)} - {*finished})

    def _finished(self) -> list[int]:
        """By one listing: a question a shard would be as many requests to a store."""
        there = {path.name for path in self.folder.glob("shard-*.parquet")}
        return [shard for shard in range(self.plan.shard_count) if self.path_of(shard).name in there]

    def save_shard(
        self,
        shard: int,
        studies: pa.Table,
        views: Sequence[Sequence[str]],
        embeddings: Embeddings,
        failures: Sequence[Failure],
        layouts: Sequence[Sequence[bytes]] | None = None,
        regions: Sequence[Sequence[bytes]] | None = None,
    ) -> None:
        """Write one finished shard: the (n,) embedded studies, the views each had, what else of these, and who failed.

        Args:
            layouts, regions: of each study's films, in the order of its views.
        """
        vectors = as_embeddings(embeddings, self.plan.embedding_dim) if len(studies) else embeddings
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, self.plan.embedding_dim)
        table = studies.append_column("views", pa.array(list(map(list, views)), pa.list_(pa.string())))
        for name, of_films in (("layouts", layouts), ("regions", regions)):
            if of_films is not None:
                table = table.append_column(name, pa.array(list(map(list, of_films)), pa.list_(pa.binary())))
        table = table.append_column("embedding", column).replace_schema_metadata(
            {_KEY: json.dumps(_shard_metadata(self.plan, failures)), SEAL: UNSEALED}
        )
        with written_whole(self.path_of(shard)) as partial:
            pq.write_table(table, partial, compression={"embedding": "none"} | _zstd_but_embedding(table))
            seal_parquet(partial)

    def sample(self, count: int) -> tuple[pa.Table | None, Embeddings]:
        """Return about `count` studies with their layouts, None where there is no shard, and their embeddings (n, D).

        They are spread evenly over the finished shards.
        """
        step = max(self.plan.rows // count, 1)
        tables, vectors = [], [np.empty((0, self.plan.embedding_dim), np.float32)]
        for shard in self._finished():
            table = read_parquet(path := self.path_of(shard), str(path), _REMEDY)
            rows = pa.array(np.arange(0, len(table), step))
            vectors.append(_vectors_of(table.take(rows), self.plan.embedding_dim, path, _REMEDY))
            apart = [name for name in ("embedding", "regions") if name in table.column_names]
            tables.append(table.drop_columns(apart).take(rows))
        return (pa.concat_tables(tables, promote_options="default") if tables else None), np.concatenate(vectors)

    def finish(self, **facts: Any) -> dict[str, Any]:
        """Write the list of failed studies and then the manifest; return the manifest."""
        shards = [_read_entry(self.path_of(shard)) for shard in range(self.plan.shard_count)]
        failures = [Failure(**failure) for shard in shards for failure in shard.pop("failures")]
        (self.folder / FAILED).mkdir(exist_ok=True)
        with written_whole(self.folder / FAILED / _FAILED_LIST) as partial:
            schema = pa.schema({"study_id": pa.string(), "reason": pa.string()})
            pq.write_table(pa.Table.from_pylist([vars(failure) for failure in failures], schema), partial)
        manifest = {
            "format": _FORMAT,
            "schema_version": SCHEMA_VERSION,
            **vars(self.plan),
            "rows": sum(shard["rows"] for shard in shards),
            "failed": len(failures),
            **facts,
            **rooted(self.folder, facts),
            "shards": shards,
        }
        save_json(self.folder / MANIFEST, manifest, sealed=True)
        _remove_old_names(self.folder)
        return manifest


def load_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of a finished export. Raises ArtefactError where there is none."""
    folder = place(folder)
    remedy = "an export writes it last; run precedent export again, it continues where it stopped"
    older = not (folder / MANIFEST).exists() and (folder / _OLD_MANIFEST).exists()
    return load_json(folder / (_OLD_MANIFEST if older else MANIFEST), "export manifest", remedy, EXPORT_SHAPE)


def _remove_old_names(folder: Path) -> None:
    """Remove the side files of an older version, beside whose manifest those of this one have just been written."""
    old = folder / _OLD_MANIFEST
    if old.exists() and load_json(old, "export manifest", "remove it").get("format") == _FORMAT:
        (folder / _OLD_FAILED).unlink(missing_ok=True)
        old.unlink()


def load_shards(folder: str | os.PathLike[str]) -> Iterator[tuple[pa.Table, Embeddings]]:
    """Yield (studies, embeddings (n, D)) of each shard, its SHA-256 checked before it is parsed.

    Raises:
        ArtefactError: a shard is missing or has changed. VectorsError: a vector is not finite or not of unit norm.
        StudiesError: an id is none.
    """
    folder = place(folder)
    manifest = load_manifest(folder)
    remedy = f"remove it and run precedent export again to write it anew into {folder}"
    for shard in manifest["shards"]:
        path = folder / _own_name(shard["file"])
        table = read_parquet(read_unchanged(path, shard["sha256"], remedy), str(path), remedy, rows=shard["rows"])
        apart = [name for name in ("embedding", "layouts", "regions") if name in table.column_names]
        studies = require_studies(table.drop_columns(apart), str(path))
        yield studies, _vectors_of(table, manifest["embedding_dim"], path, remedy)


def load_embeddings(folder: str | os.PathLike[str]) -> tuple[pa.Table, Embeddings]:
    """Return all studies of an export and their embeddings (N, D), row for row.

    Raises:
        StudiesError: it has no shard, for its table had no study; and what `load_shards` raises.
    """
    if not load_manifest(folder)["shards"]:
        raise StudiesError(f"expected embedded studies in {str(folder)!r}, got none; see its {FAILED}")
    tables, vectors = zip(*load_shards(folder), strict=True)
    return pa.concat_tables(tables, promote_options="default").combine_chunks(), np.concatenate(vectors)


def load_layouts(folder: str | os.PathLike[str]) -> pa.Table | None:
    """Return ids, `views` and `layouts` of an export's studies; null, or None in all, where a shard has no layouts."""
    paths = [place(folder) / _own_name(shard["file"]) for shard in load_manifest(folder)["shards"]]
    tables = [_read_columns(path, ["study_id", "patient_id", "views", "layouts"]) for path in paths]
    with_layouts = [table for table in tables if "layouts" in table.column_names]
    return pa.concat_tables(with_layouts) if with_layouts else None


def sample_layouts(embeddings: Path, *, sample: int = LAYOUT_SAMPLE, seed: int = 0) -> pa.Table | None:
    """Return `patient_id`, `view` and `layout` of the films of some studies of an export, drawn with the seed.

    None where the export, an older one, has no layouts.
    """
    table = load_layouts(embeddings)
    rows = np.flatnonzero(table["layouts"].is_valid().to_numpy()) if table is not None else np.empty(0, np.int64)
    if table is None or not len(rows):
        return None
    drawn = np.random.default_rng(seed).choice(rows, min(sample, len(rows)), replace=False)
    studies = table.take(pa.array(np.sort(drawn))).combine_chunks()
    column = studies["layouts"].combine_chunks()
    patients = studies["patient_id"].take(column.value_parent_indices())
    views = [
        view
        for named, films in zip(studies["views"].to_pylist(), column.to_pylist(), strict=True)
        for view in (named if len(named) == len(films) else [None] * len(films))
    ]
    return pa.table({"patient_id": patients, "view": pa.array(views, pa.string()), "layout": column.flatten()})


def load_regions(folder: str | os.PathLike[str]) -> Iterator[npt.NDArray[Any]]:
    """Yield the records (n, 2) of each shard's films, frontal and lateral, as `index.export.film_maps` has them.

    Raises:
        ArtefactError: a shard has none, or of another shape.
    """
    manifest = load_manifest(folder)
    record = RegionFormat(manifest.get("regions", "")).record
    for shard in manifest["shards"]:
        path = place(folder) / _own_name(shard["file"])
        table = _read_columns(path, ["views", "regions"])
        records = np.zeros((len(table), len(VIEWS)), record)
        for row, (views, films) in enumerate(
            zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
        ):
            for view, film in zip(views, films or (), strict=True):
                if view not in VIEWS or len(film) != record.itemsize:
                    raise ArtefactError(
                        f"expected feature maps of {record.itemsize:,} bytes in {str(path)!r}; {_REMEDY}"
                    )
                records[row, VIEWS.index(view)] = np.frombuffer(film, record)[0]
        yield records


def _own_name(name: Any) -> str:
    if not isinstance(name, str) or not _SHARD.fullmatch(name):
        raise ArtefactError(f"expected the name of a shard, got {str(name)[:80]!r}; run precedent export again")
    return name


def _read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Return those columns of a shard, of which an older one may lack some."""
    return read_parquet(path, str(path), _REMEDY, columns=names)


def _read_entry(path: Path) -> dict[str, Any]:
    """Return what the manifest says of a shard, and its failures."""
    content = read_regular(path)
    metadata, rows = _metadata_of(path, content)
    sha256 = hashlib.sha256(content).hexdigest()
    return {"file": path.name, "rows": rows, "sha256": sha256, "failures": metadata["failures"]}


def _vectors_of(table: pa.Table, embedding_dim: int, path: Path, remedy: str) -> Embeddings:
    wanted = pa.list_(pa.float32(), embedding_dim)
    if "embedding" not in table.column_names or table["embedding"].type != wanted or table["embedding"].null_count:
        raise ArtefactError(f"expected {embedding_dim} numbers in single precision a study in {str(path)!r}; {remedy}")
    column = table["embedding"].combine_chunks()
    if column.flatten().null_count:
        raise ArtefactError(f"expected {embedding_dim} numbers a study in {str(path)!r}, got blanks; {remedy}")
    values = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, embedding_dim)
    return as_embeddings(values, embedding_dim) if len(values) else values


def _zstd_but_embedding(table: pa.Table) -> dict[str, str]:
    return {name: "zstd" for name in table.column_names if name != "embedding"}


def _shard_metadata(plan: ExportPlan, failures: Sequence[Failure]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        **vars(plan),
        "failures": [vars(failure) for failure in failures],
    }


def _metadata_of(path: Path, content: bytes) -> tuple[dict[str, Any], int]:
    """Return what a shard says of itself, and its rows."""
    try:
        with opened_parquet(content, str(path), _REMEDY) as table:
            metadata = parse_json((table.schema.metadata or {}).get(_KEY, b""))
            rows = table.metadata.num_rows
    except ValueError as error:
        if isinstance(error, ArtefactError):
            raise
        raise ArtefactError(f"{str(path)!r} is not a readable shard ({error}); {_REMEDY}") from error
    require_shape(metadata, SHARD_SHAPE, f"{str(path)!r} is not a readable shard", _REMEDY)
    return metadata, rows


def _require_same_plan(path: Path, plan: ExportPlan) -> None:
    facts, _ = _metadata_of(path, read_sealed_parquet(path, _REMEDY))
    if facts["fingerprint"] != plan.fingerprint:
        raise FingerprintMismatch(
            f"{str(path.parent)!r} holds embeddings of encoder {facts['fingerprint'][:12]}, this one is "
            f"{plan.fingerprint[:12]}; export to another folder or remove that one"
        )
    facts = {"reading": 1, "regions": ""} | facts  # shards from before there was another
    other = [f"{name} ({str(facts[name])[:16]})" for name, ours in vars(plan).items() if facts.get(name, ours) != ours]
    if other:
        raise ArtefactError(
            f"{str(path.parent)!r} was begun with another {' and '.join(other)}; "
            "export to another folder or remove that one"
        )
