"""A collection on disk: FAISS files and the studies they index, bound together by one manifest.

File names carry their content's SHA-256 and the manifest is renamed into place last, so a reader sees the old
collection or the new one, never a mixture.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index.built.effort import EFFORTS, Effort
from index.built.kinds import KINDS, kinds_for, most_bytes
from index.built.pairs import PairShares
from index.built.regions import RegionMaps
from index.built.vector_index import VectorIndex
from index.errors import ArtefactError, CollectionError, StudiesError
from index.export.reliability import kept_facts
from index.export.shards import FAILED, load_manifest, load_regions, load_shards, sample_layouts
from index.storage.files import (
    MOST_BYTES,
    load_json,
    read_settled,
    require_shape,
    require_unchanged,
    save_json,
    sha256_of,
    written_whole,
)
from index.storage.folder import held_alone, was_changed
from index.storage.manifests import INDEX_SHAPE
from index.storage.origin import is_root_ours, rooted
from index.storage.parquet import read_parquet
from index.storage.places import Place, place
from index.table.studies import require_studies
from index.vectors import Embeddings, Rows

FORMAT = "precedent-index"
VERSION = 1
MANIFEST = "manifest.json"
_SUFFIXES = {
    "exact": ".faiss",
    "approximate": ".faiss",
    "studies": ".parquet",
    "layouts": ".parquet",
    "regions": ".maps",
}
INDEX_FILE = re.compile("|".join(rf"{role}-[0-9a-f]{{16}}\{suffix}" for role, suffix in _SUFFIXES.items()))
_LEFT = re.compile(rf"\.({INDEX_FILE.pattern})\.partial")
KIND_NAMES = ("auto", *KINDS)
ENOUGH_RECALL = 0.99
_HELD_ROWS = 200
_SCANNED_ROWS = 200_000_000
"""Row comparisons that measuring recall may take; a collection of more than a million is measured on fewer rows."""


@dataclass(frozen=True)
class Collection:
    """A loaded collection: row i of `studies` is row i of `vectors`."""

    manifest: dict[str, Any]
    studies: pa.Table
    vectors: VectorIndex
    layouts: pa.Table | None = None
    """Layouts of a sample of its films, by patient; None where the export has none."""
    regions: RegionMaps | None = None
    """Feature maps of its films; None where the export has none."""


def build_collection(
    embeddings: Path, out: Path, *, kind: str = "auto", image_root: str | None = None, device: str = "cpu"
) -> Collection:
    """Index an export and write the collection to the folder `out`, in place of one that is there.

    Args:
        image_root: to be remembered in place of the one that the export remembers.
        device: what makes its lists, of `index.built.gpu.DEVICES`.

    Raises:
        ArtefactError: the export is unfinished or has changed. CollectionError: it is empty or the kind is unknown.
        NoGpu: one is asked for and cannot be had.
    """
    if kind not in KIND_NAMES:
        raise CollectionError(f"expected an index kind of {', '.join(KIND_NAMES)}, got {kind!r}")
    export = load_manifest(embeddings)
    if not export["rows"]:
        raise CollectionError(f"{str(embeddings)!r} holds no embedded study; see its {FAILED}")
    tables: list[pa.Table] = []
    rows = export["rows"]
    index = build_vectors(_blocks(embeddings, tables), kind, rows, device)
    studies = pa.concat_tables(tables, promote_options="default").combine_chunks()
    if pc.count_distinct(studies["study_id"]).as_py() < len(studies):
        raise StudiesError(f"{str(embeddings)!r} holds a study twice; import and export it again")
    facts = {"fingerprint": export["fingerprint"], "image_root": image_root or export.get("image_root")}
    facts |= kept_facts(export)
    if (pairs := PairShares.measured(index, studies)) is not None:
        facts["pairs"] = pairs.fact()
    out.mkdir(parents=True, exist_ok=True)
    if image_root or is_root_ours(embeddings, export):
        facts |= rooted(out, facts)
    with _held_to_write(out) as folder:
        _require_no_changes(out)
        maps = load_regions(embeddings) if export.get("regions") else None
        return save_collection(folder, index, studies, sample_layouts(embeddings), maps, **facts)


def build_vectors(blocks: Iterator[Embeddings], kind: str, rows: int, device: str = "cpu") -> VectorIndex:
    """Return an index over unit vectors, N in sum.

    `auto` is the first kind for this size that finds enough with little effort, or the last.

    Raises:
        NoGpu: one is asked for and cannot be had.
    """
    first, *others = kinds_for(rows) if kind == "auto" else (kind,)
    index = VectorIndex.build(blocks, first, rows, device)
    for other in others:
        if with_enough_effort(index)[0].effort in EFFORTS[:2]:
            break
        index = index.as_kind(other, device)
    return index


@contextmanager
def _held_to_write(out: Path) -> Iterator[Path]:
    """Yield the folder itself, locked; for an address, a temporary folder whose files are uploaded on leaving."""
    if not isinstance(out, Place):
        with held_alone(out):
            yield out
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)
        _put(Path(folder), out)


def _put(folder: Path, out: Place) -> None:
    """Upload an index to an address, its manifest last; then remove the files of the one before it."""
    try:
        before = load_index_manifest(cast(Path, out))["files"]
    except ArtefactError:
        before = {}
    named = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in (*sorted(named), MANIFEST):
        (out / name).upload(folder / name)
    for entry in before.values():
        if INDEX_FILE.fullmatch(name := str(entry["name"])) and name not in named:
            (out / name).unlink(missing_ok=True)


def save_collection(
    out: Path,
    index: VectorIndex,
    studies: pa.Table,
    layouts: pa.Table | None,
    maps: Iterable[npt.NDArray[Any]] | None = None,
    **facts: Any,
) -> Collection:
    """Write a collection to the folder `out`, which the caller holds alone, in place of one that is there.

    Args:
        maps: records of the films' feature maps, in the order of the studies, in blocks (n, 2).
        facts: what else the manifest has to say.
    """
    index, recall = with_enough_effort(index)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "kind": index.kind,
        "precision": index.precision,
        "effort": asdict(index.effort),
        "rows": len(index),
        "embedding_dim": index.embedding_dim,
        **facts,
        "recall_at_10": recall,
    }
    manifest["files"] = _save_files(out, index, studies, layouts, maps)
    save_json(out / MANIFEST, manifest, sealed=True)
    _remove_unnamed(out, manifest)
    return Collection(manifest, studies, index, layouts, _regions_of(out, manifest))


def _regions_of(folder: Path, manifest: dict[str, Any]) -> RegionMaps | None:
    """Return the maps that a manifest names. Raises ArtefactError: they are of another shape than it says."""
    entry = manifest["files"].get("regions")
    return RegionMaps.load(folder / entry["name"], manifest.get("regions", ""), manifest["rows"]) if entry else None


def _require_no_changes(out: Path) -> None:
    """Refuse to replace an index whose changes no export holds."""
    if was_changed(out):
        raise CollectionError(
            f"studies were added to or deleted from {str(out)!r} after it was built, and the export lacks those "
            "changes; give another folder with --out, or remove this one to discard those changes"
        )


def load_collection(folder: str | os.PathLike[str], device: str = "cpu") -> Collection:
    """Return the collection of a folder; every SHA-256 is checked before a file is parsed.

    Args:
        device: what its vectors are searched on, of `index.built.gpu.DEVICES`.

    Raises:
        ArtefactError: no collection there, of a newer version, or a file is missing or has changed.
        NoGpu: one is asked for and cannot be had.
    """
    folder = place(folder)
    return read_settled(folder / MANIFEST, partial(read_collection, folder, device))


def read_collection(folder: Path, device: str) -> Collection:
    """Return the collection as `load_collection` does, but fail where another build replaces it meanwhile."""
    remedy = _remedy(folder)
    manifest = _manifest_of(folder, remedy)
    if manifest["kind"] not in KINDS:
        raise ArtefactError(f"{str(folder)!r} is of the kind {manifest['kind']!r}, unknown to this version; {remedy}")
    paths = {role: folder / require_own_name(entry["name"], remedy) for role, entry in manifest["files"].items()}
    vectors_take, second_way_takes = most_bytes(manifest["kind"], manifest["rows"], manifest["embedding_dim"])
    most = {"exact": vectors_take, "approximate": second_way_takes}
    if "regions" in paths:
        most["regions"] = RegionMaps.bytes_of(manifest.get("regions", ""), manifest["rows"])
    for role, entry in manifest["files"].items():
        require_unchanged(paths[role], entry["sha256"], remedy, most.get(role, MOST_BYTES))
    effort = Effort(**manifest.get("effort", {}))
    vectors = VectorIndex.load(paths["exact"], paths.get("approximate"), manifest["kind"], effort)
    rows = manifest["rows"]
    studies = read_parquet(paths["studies"], paths["studies"].name, remedy, rows=rows).combine_chunks()
    if (len(vectors), vectors.embedding_dim) != (rows, manifest["embedding_dim"]):
        raise ArtefactError(f"{str(folder)!r} holds {len(vectors)} vectors for {rows} studies; {remedy}")
    require_studies(studies, paths["studies"].name)
    layouts = read_parquet(paths["layouts"], paths["layouts"].name, remedy) if "layouts" in paths else None
    return Collection(manifest, studies, vectors.on(device), layouts, _regions_of(folder, manifest))


def require_own_name(name: Any, remedy: str) -> str:
    """Return the name that a manifest gives to a file of an index. Raises ArtefactError: it is no such name."""
    if not isinstance(name, str) or not INDEX_FILE.fullmatch(name):
        raise ArtefactError(f"expected the name of a file of an index, got {str(name)[:80]!r}; {remedy}")
    return name


def load_index_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an index. Raises ArtefactError: none there, or of another version."""
    return _manifest_of(folder, _remedy(folder))


def _manifest_of(folder: Path, remedy: str) -> dict[str, Any]:
    manifest = load_json(folder / MANIFEST, "index manifest", remedy)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ArtefactError(f"{str(folder)!r} is no index of version {VERSION}; {remedy}")
    require_shape(manifest, INDEX_SHAPE, f"{str(folder / MANIFEST)!r} is not as the index manifest is written", remedy)
    return manifest


def _remedy(folder: Path) -> str:
    if not isinstance(folder, Place) and was_changed(folder):
        return "restore a snapshot: no export knows what was added to this index and deleted from it"
    return f"run: precedent index EMBEDDINGS --out {folder}"


def _save_files(
    out: Path,
    index: VectorIndex,
    studies: pa.Table,
    layouts: pa.Table | None,
    maps: Iterable[npt.NDArray[Any]] | None,
) -> dict[str, dict[str, str]]:
    fresh = {role: out / f".{role}.new" for role in _SUFFIXES}
    _remove(fresh.values())  # of a build that was killed, and perhaps of another kind
    try:
        index.save(fresh["exact"], fresh["approximate"])
        pq.write_table(studies, fresh["studies"], compression="zstd")
        if layouts is not None:
            pq.write_table(layouts, fresh["layouts"], compression="zstd")
        if maps is not None:
            with fresh["regions"].open("wb") as file:
                file.writelines(block.tobytes() for block in maps)
        return {role: _named(out, role, path) for role, path in fresh.items() if path.exists()}
    finally:
        _remove(fresh.values())


def _named(out: Path, role: str, fresh: Path) -> dict[str, str]:
    """Name a file by its SHA-256, and return its entry of the manifest."""
    sha256 = sha256_of(fresh)
    name = f"{role}-{sha256[:16]}{_SUFFIXES[role]}"
    with written_whole(out / name) as partial:
        fresh.replace(partial)
    return {"name": name, "sha256": sha256}


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _remove_unnamed(out: Path, manifest: dict[str, Any]) -> None:
    """Remove files of collections that this one replaced, and of builds that were killed; open files stay readable."""
    named = {entry["name"] for entry in manifest["files"].values()}
    ours = (path for path in out.iterdir() if INDEX_FILE.fullmatch(path.name) or _LEFT.fullmatch(path.name))
    _remove(path for path in ours if path.name not in named)


def _blocks(embeddings: Path, tables: list[pa.Table]) -> Iterator[Embeddings]:
    """Yield the vectors of each shard and put its studies into `tables`, so that no shard is held or read twice."""
    for studies, vectors in load_shards(embeddings):
        tables.append(studies)
        if len(vectors):
            yield vectors


def with_enough_effort(index: VectorIndex) -> tuple[VectorIndex, float]:
    """Return the index with the least effort that finds 99 % of the ten nearest, or the most, and what it finds.

    Measured on up to 200 rows of the collection, against a scan of all its vectors.
    """
    held = min(len(index), _HELD_ROWS, max(_SCANNED_ROWS // len(index), 20))
    rows = np.random.default_rng(0).choice(len(index), held, replace=False)
    queries, k = index.vectors(rows), min(11, len(index))
    truth = index.search(queries, k, exact=True)[1]
    for effort in EFFORTS:
        index = index.with_effort(effort)
        recall = _share_found(rows, truth, index.search(queries, k)[1])
        if recall >= ENOUGH_RECALL:
            break
    return index, recall


def _share_found(rows: Rows, truth: Rows, answered: Rows) -> float:
    """Return the mean share of each query's true neighbours that was found, the row itself left out."""
    shares = [
        len((set(expected) - {row}) & set(got)) / max(len(set(expected) - {row}), 1)
        for row, expected, got in zip(rows, truth, answered, strict=True)
    ]
    return float(np.mean(shares)) if truth.shape[1] > 1 else 1.0
