"""A generation written to its folder as a new index, in place of the one it was built on, with the changes in it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.built.collection import Collection, build_vectors, load_index_manifest, save_collection
from index.built.kinds import kinds_for
from index.built.map import build_map, load_map, plane_of
from index.errors import CollectionError, StaleMap
from index.export.reliability import kept_facts
from index.living.generation import Generation
from index.storage.origin import ORIGIN, is_root_ours, rooted
from index.vectors import Embeddings, Rows

_BLOCK = 1 << 14
"""Vectors read at a time: 32 MB of 512 dimensions."""


def save_generation(folder: Path, generation: Generation) -> None:
    """Write a generation as the index of its folder, which the caller holds alone; its map is left to `mend_map`.

    The manifest's `applied` says up to which change the index holds them all. Nothing is written where nothing changed.

    Raises:
        CollectionError: no study is left.
    """
    built = generation.collection
    if generation.sequence == built.manifest.get("applied", 0):
        return
    if not len(generation):
        raise CollectionError("expected at least one study to keep, got none; remove the folder instead")
    rows = np.flatnonzero(pc.invert(_among(built.studies["study_id"], generation.moved)).to_numpy())
    studies = pa.concat_tables([built.studies.take(pa.array(rows)), generation.added]).combine_chunks()
    count = len(studies)
    index = build_vectors(_blocks(generation, rows), _kind_of(built), count)
    facts = {name: built.manifest.get(name) for name in ("fingerprint", "image_root", ORIGIN)}
    facts |= kept_facts(built.manifest)
    if "pairs" in built.manifest:
        facts["pairs"] = built.manifest["pairs"]
    if is_root_ours(folder, built.manifest):
        facts |= rooted(folder, built.manifest)
    maps = None if built.regions is None else built.regions.blocks(rows, further=len(generation.added))
    save_collection(folder, index, studies, _layouts_of(built, studies), maps, **facts, applied=generation.sequence)


def mend_map(folder: Path) -> None:
    """Rebuild, on the same plane, a map that a killed compaction has left behind for an older state of the index.

    Raises:
        ArtefactError: the map has changed since it was written.
    """
    try:
        load_map(folder)
    except StaleMap:
        build_map(folder, plane_of(folder, load_index_manifest(folder)["fingerprint"]))


def _kind_of(built: Collection) -> str:
    """Return the kind of index to build: the one that was asked for, or auto, which suits the new size."""
    kind: str = built.manifest["kind"]
    return "auto" if kind in kinds_for(len(built.vectors)) else kind


def _blocks(generation: Generation, rows: Rows) -> Iterator[Embeddings]:
    for start in range(0, len(rows), _BLOCK):
        yield generation.collection.vectors.vectors(rows[start : start + _BLOCK])
    if len(generation.added):
        yield generation.added_vectors


def _layouts_of(built: Collection, studies: pa.Table) -> pa.Table | None:
    """Return the sample of layouts without those of patients who are gone; added studies have none in it."""
    if built.layouts is None:
        return None
    return built.layouts.filter(_among(built.layouts["patient_id"], studies["patient_id"].unique().to_pylist()))


def _among(column: pa.ChunkedArray, values: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(list(values), pa.string()))
