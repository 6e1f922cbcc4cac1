"""The map of a collection: its vectors projected onto the plane in which they differ most, computed once and kept.

A film's own projection (AP, PA) is another thing, and a column of the studies.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from index.built.collection import load_collection, load_index_manifest
from index.built.vector_index import VectorIndex
from index.errors import ArtefactError, StaleMap, VectorsError
from index.storage.files import (
    load_json,
    parse_json,
    read_settled,
    require_shape,
    require_unchanged,
    save_json,
    sha256_of,
    written_whole,
)
from index.storage.manifests import MAP_SHAPE, PLANE_SHAPE
from index.storage.parquet import read_parquet
from index.storage.places import place, require_here
from index.table.labels import label_columns
from index.vectors import Embeddings

FORMAT = "precedent-map"
VERSION = 1
MAP_MANIFEST = "map.json"
MAP_FILE = re.compile(r"map-[0-9a-f]{16}\.parquet")
_PLANE = b"precedent.plane"
_POINT = [pa.string(), pa.float32(), pa.float32()]
_BLOCK = 8192
"""Rows at a time: the sums of a large collection never need a second copy of it."""
_DECIMALS = 6
"""Of a coordinate; the linear algebra of two machines agrees to more than that."""

Coordinates = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Plane:
    """The two directions in which a collection's vectors differ most (principal components)."""

    mean: npt.NDArray[np.float64]
    """(D,), the vectors' mean: the map's origin."""
    axes: npt.NDArray[np.float64]
    """(2, D), orthonormal; each axis' largest entry is positive, so that a map is never mirrored by chance."""
    shares: tuple[float, float]
    """Of the variance that each axis holds, in [0, 1]: what the map shows of how studies differ."""

    @classmethod
    def of(cls, vectors: VectorIndex) -> "Plane":
        """Return the plane of an index. Raises VectorsError where vectors have one dimension only."""
        if vectors.embedding_dim < 2:
            raise VectorsError(f"expected vectors of 2 dimensions or more, got {vectors.embedding_dim}")
        sums, products = np.zeros(vectors.embedding_dim), np.zeros((vectors.embedding_dim,) * 2)
        for block in _blocks(vectors):
            sums += block.sum(axis=0)
            products += block.T @ block
        mean = sums / len(vectors)
        variances, directions = np.linalg.eigh(products / len(vectors) - np.outer(mean, mean))
        axes = directions[:, ::-1].T[:2]
        axes = axes * np.sign(axes[[0, 1], np.abs(axes).argmax(axis=1)])[:, None]
        whole = float(variances.clip(0).sum())
        first, second = (max(float(variance), 0.0) / whole if whole > 0 else 0.0 for variance in variances[::-1][:2])
        return cls(mean, axes, (first, second))

    def project(self, embeddings: Embeddings | npt.NDArray[np.float64]) -> Coordinates:
        """Return where vectors (N, D), of the collection or not, stand on the map, (N, 2)."""
        return np.round((embeddings - self.mean) @ self.axes.T, _DECIMALS).astype(np.float32)


@dataclass(frozen=True)
class CollectionMap:
    """A map as it was kept: `study_id`, `x`, `y` and the label columns, row for row of the collection."""

    points: pa.Table
    plane: Plane
    fingerprint: str

    def __len__(self) -> int:
        return int(self.points.num_rows)

    @property
    def findings(self) -> list[str]:
        """The columns that points can be coloured by: of labels, where any study has one."""
        names = self.points.column_names[3:]
        return [name for name in names if self.points[name].null_count < len(self)]


def build_map(folder: Path, plane: Plane | None = None) -> CollectionMap:
    """Compute the map of the collection in a folder, and save it beside the index.

    Args:
        plane: that of an earlier state, on which studies stay where they were; None takes the collection's own.

    Raises:
        ArtefactError: no collection there. VectorsError: its vectors have one dimension only.
    """
    require_here(folder)
    collection = load_collection(folder)
    plane = plane or Plane.of(collection.vectors)
    positions = np.concatenate([plane.project(block) for block in _blocks(collection.vectors)])
    points = collection.studies.select(["study_id", *label_columns(collection.studies)])
    for position, name in enumerate("xy"):
        points = points.add_column(1 + position, name, pa.array(positions[:, position]))
    collection_map = CollectionMap(points, plane, collection.manifest["fingerprint"])
    _save(folder, collection_map, collection.manifest)
    return collection_map


def load_map(folder: str | os.PathLike[str]) -> CollectionMap | None:
    """Return the map of the collection in a folder; None where `build_map` has not been run.

    Raises:
        ArtefactError: the map has changed since it was written. StaleMap: it is of another state of the index.
    """
    folder = place(folder)
    return read_settled(folder / MAP_MANIFEST, partial(_load, folder))


def plane_of(folder: Path, fingerprint: str) -> Plane | None:
    """Return the plane of the map in a folder, even of an earlier index; None unless it is of that encoder."""
    saved = read_settled(folder / MAP_MANIFEST, partial(_load, folder, stale=True))
    return saved.plane if saved is not None and saved.fingerprint == fingerprint else None


def _load(folder: Path, *, stale: bool = False) -> CollectionMap | None:
    if not (folder / MAP_MANIFEST).exists():
        return None
    remedy = f"run: precedent map {folder}"
    manifest = load_json(folder / MAP_MANIFEST, "map manifest", remedy)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ArtefactError(f"expected a map of version {VERSION} in {str(folder)!r}; {remedy}")
    require_shape(manifest, MAP_SHAPE, f"{str(folder / MAP_MANIFEST)!r} is not as a map is written", remedy)
    if not stale and manifest["of"] != _identity(load_index_manifest(folder)):
        raise StaleMap(f"the map in {str(folder)!r} is of another state of the index; {remedy}")
    path = folder / require_map_name(manifest["name"], remedy)
    require_unchanged(path, manifest["sha256"], remedy)
    points = read_parquet(path, path.name, remedy, rows=manifest["rows"])
    return CollectionMap(points, _plane_of(points, path, remedy), manifest["fingerprint"])


def _plane_of(points: pa.Table, path: Path, remedy: str) -> Plane:
    """Return the plane that a map's table holds. Raises ArtefactError: it holds none, or no such points."""
    sentence = f"{str(path)!r} is not as a map is written"
    if points.schema.names[:3] != ["study_id", "x", "y"] or points.schema.types[:3] != _POINT:
        raise ArtefactError(f"{sentence} (expected study_id, x and y, got {points.schema.names[:3]}); {remedy}")
    try:
        plane = parse_json((points.schema.metadata or {}).get(_PLANE, b""))
    except ValueError as error:
        raise ArtefactError(f"{sentence} ({error}); {remedy}") from error
    require_shape(plane, PLANE_SHAPE, sentence, remedy)
    mean, axes = np.array(plane["mean"]), np.array(plane["axes"]) if len(set(map(len, plane["axes"]))) == 1 else None
    if axes is None or axes.shape != (2, len(mean)):
        raise ArtefactError(f"{sentence} (expected two axes of {len(mean)} numbers, got others); {remedy}")
    return Plane(mean, axes, (plane["shares"][0], plane["shares"][1]))


def require_map_name(name: Any, remedy: str) -> str:
    """Return the name that a map's manifest gives to its file. Raises ArtefactError: it is no such name."""
    if not isinstance(name, str) or not MAP_FILE.fullmatch(name):
        raise ArtefactError(f"expected the name of a map's file, got {str(name)[:80]!r}; {remedy}")
    return name


def _save(folder: Path, collection_map: CollectionMap, index_manifest: dict[str, Any]) -> None:
    plane = {
        "mean": collection_map.plane.mean.tolist(),
        "axes": collection_map.plane.axes.tolist(),
        "shares": collection_map.plane.shares,
    }
    table = collection_map.points.replace_schema_metadata({_PLANE: json.dumps(plane)})
    fresh = folder / ".map.new"
    fresh.unlink(missing_ok=True)  # a link there would be written through
    try:
        pq.write_table(table, fresh, compression="zstd")
        sha256 = sha256_of(fresh)
        name = f"map-{sha256[:16]}.parquet"
        with written_whole(folder / name) as partial:
            fresh.replace(partial)
    finally:
        fresh.unlink(missing_ok=True)
    save_json(
        folder / MAP_MANIFEST,
        {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "sha256": sha256,
            "rows": len(collection_map),
            "shares": collection_map.plane.shares,
            "fingerprint": collection_map.fingerprint,
            "of": _identity(index_manifest),
        },
        sealed=True,
    )
    for old in folder.glob("map-*.parquet"):
        if old.name != name and MAP_FILE.fullmatch(old.name):
            old.unlink()


def _identity(manifest: dict[str, Any]) -> dict[str, str]:
    """Return what identifies one state of an index: the SHA-256 of its vectors and of its studies."""
    return {role: manifest["files"][role]["sha256"] for role in ("exact", "studies")}


def _blocks(vectors: VectorIndex) -> Iterator[npt.NDArray[np.float64]]:
    for start in range(0, len(vectors), _BLOCK):
        yield vectors.vectors(np.arange(start, min(start + _BLOCK, len(vectors)))).astype(np.float64)
