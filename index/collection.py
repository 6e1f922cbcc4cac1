"""A collection on disk: FAISS files and the studies they index, bound together by one manifest.

File names carry their content's SHA-256 and the manifest is renamed into place last, so a reader sees the old
collection or the new one, never a mixture. Knows nothing of how a vector was made.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.errors import ArtefactError, CollectionError, StudiesError
from index.files import load_json, require_unchanged, save_json, sha256_of, written_whole
from index.layouts import sample_layouts
from index.shards import load_embeddings, load_manifest
from index.vector_index import KINDS, VectorIndex, resolve_kind
from index.vectors import Embeddings

FORMAT = "precedent-index"
VERSION = 1
MANIFEST = "manifest.json"
_SUFFIXES = {"exact": ".faiss", "approximate": ".faiss", "studies": ".parquet", "layouts": ".parquet"}
_HELD_ROWS = 200


@dataclass(frozen=True)
class Collection:
    """A loaded collection: row i of `studies` is row i of `vectors`."""

    manifest: dict[str, Any]
    studies: pa.Table
    vectors: VectorIndex
    layouts: pa.Table | None = None
    """Of a sample of its films, by patient; None where it was exported without."""


def build_collection(embeddings: Path, out: Path, *, kind: str = "auto") -> Collection:
    """Index an export and write the collection to the folder `out`, in place of one that is there.

    Raises:
        ArtefactError: the export is unfinished or has changed. CollectionError: it is empty or the kind is unknown.
    """
    if kind not in KINDS:
        raise CollectionError(f"expected an index kind of {', '.join(KINDS)}, got {kind!r}")
    export = load_manifest(embeddings)
    if not export["rows"]:
        raise CollectionError(f"{str(embeddings)!r} holds no embedded study; see its failed.parquet")
    studies, matrix = load_embeddings(embeddings)
    if studies["study_id"].combine_chunks().value_counts().field("counts").to_numpy().max() > 1:
        raise StudiesError(f"{str(embeddings)!r} holds a study twice; import and export it again")
    index = VectorIndex.build(matrix, resolve_kind(kind, len(matrix)))
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "kind": index.kind,
        "rows": len(index),
        "embedding_dim": index.embedding_dim,
        "fingerprint": export["fingerprint"],
        "image_root": export.get("image_root"),
        "recall_at_10": _recall_at_10(index, matrix),
    }
    layouts = sample_layouts(embeddings)
    manifest["files"] = _save_files(out, index, studies, layouts)
    save_json(out / MANIFEST, manifest)
    _remove_unnamed(out, manifest)
    return Collection(manifest, studies, index, layouts)


def load_collection(folder: Path) -> Collection:
    """Return the collection of a folder; every SHA-256 is checked before a file is parsed.

    Raises:
        ArtefactError: no collection there, of a newer version, or a file is missing or has changed.
    """
    remedy = f"run: precedent index EMBEDDINGS --out {folder}"
    manifest = load_json(folder / MANIFEST, "index manifest", remedy)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ArtefactError(f"{str(folder)!r} is no index of version {VERSION}; {remedy}")
    paths: dict[str, Path] = {}
    for role, entry in manifest["files"].items():
        paths[role] = folder / Path(entry["name"]).name
        require_unchanged(paths[role], entry["sha256"], remedy)
    vectors = VectorIndex.load(paths["exact"], paths.get("approximate"), manifest["kind"])
    studies = pq.read_table(paths["studies"]).combine_chunks()
    if not len(vectors) == studies.num_rows == manifest["rows"]:
        raise ArtefactError(f"{str(folder)!r} holds {len(vectors)} vectors for {studies.num_rows} studies; {remedy}")
    layouts = pq.read_table(paths["layouts"]) if "layouts" in paths else None
    return Collection(manifest, studies, vectors, layouts)


def _save_files(
    out: Path, index: VectorIndex, studies: pa.Table, layouts: pa.Table | None
) -> dict[str, dict[str, str]]:
    out.mkdir(parents=True, exist_ok=True)
    fresh = {role: out / f".{role}.new" for role in _SUFFIXES}
    index.save(fresh["exact"], fresh["approximate"])
    pq.write_table(studies, fresh["studies"], compression="zstd")
    if layouts is not None:
        pq.write_table(layouts, fresh["layouts"], compression="zstd")
    files = {}
    for role, path in fresh.items():
        if path.exists():
            sha256 = sha256_of(path)
            name = f"{role}-{sha256[:16]}{_SUFFIXES[role]}"
            with written_whole(out / name) as partial:
                path.replace(partial)
            files[role] = {"name": name, "sha256": sha256}
    return files


def _remove_unnamed(out: Path, manifest: dict[str, Any]) -> None:
    """Remove the files of the collection that this one replaced; a reader that has them open keeps them."""
    named = {entry["name"] for entry in manifest["files"].values()}
    for role, suffix in _SUFFIXES.items():
        for path in out.glob(f"{role}-*{suffix}"):
            if path.name not in named:
                path.unlink()


def _recall_at_10(index: VectorIndex, matrix: Embeddings) -> float:
    """Return the share of the exact ten nearest that a plain search finds, for up to 200 rows of the collection.

    Each row's own hit is left out, since any index finds that one.
    """
    rows = np.random.default_rng(0).choice(len(matrix), min(_HELD_ROWS, len(matrix)), replace=False)
    k = min(11, len(matrix))
    truth = index.search(matrix[rows], k, exact=True)[1]
    found = index.search(matrix[rows], k)[1]
    shares = [
        len(set(expected) & set(got) - {row}) / max(len(set(expected) - {row}), 1)
        for row, expected, got in zip(rows, truth, found, strict=True)
    ]
    return float(np.mean(shares)) if k > 1 else 1.0
