"""Where indexes and an encoder meet, and the only place of the service that reads the environment.

Whatever is wrong with them together is refused here, before the first request.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flask_openapi3 import OpenAPI

from index.collection import MANIFEST, load_collection
from index.errors import FingerprintMismatch
from index.familiarity import FamiliarityGate
from index.projection import load_map
from index.retriever import Retriever
from service.app import create_app
from service.batching import BatchingEmbedder
from service.departure import departure
from service.finder import Finder, Mounted
from service.limits import Limits
from service.mounts import Mount, parse_mounts

if TYPE_CHECKING:
    from encoder.embedder import Embedder, StudyFilms
    from encoder.probe import LinearProbe


def load(
    mounts: Sequence[Mount],
    encoder_path: Path,
    limits: Limits | None = None,
    probe_dir: Path | None = None,
    runtime: str = "torch",
) -> OpenAPI:
    """Return the application over index folders and the one encoder that made their vectors.

    Args:
        mounts: at least one; the first is asked where a request names none.
        probe_dir: the probe that predictions come from; None leaves them to the neighbours.
        runtime: what runs the encoder, of `encoder.runtime.RUNTIMES`.

    Raises:
        FingerprintMismatch: an index was built with another encoder.
        ArtefactError, CheckpointError: a file that is missing, truncated or changed.
    """
    limits = limits or Limits()
    with ThreadPoolExecutor(1) as pool:  # indexes are checked while torch is imported and the encoder compiled
        opening = [pool.submit(_open, mount.index_dir) for mount in mounts]
        embedder, probe = _load_encoder(encoder_path, probe_dir, runtime)
        opened = [one.result() for one in opening]
    batches = BatchingEmbedder(embedder, places=limits.studies, departure=departure)
    finders = [_finder(mount, *one, embedder, batches, probe) for mount, one in zip(mounts, opened, strict=True)]
    return create_app(Mounted(tuple(finders)), limits)


def _load_encoder(path: Path, probe_dir: Path | None, runtime: str) -> "tuple[Embedder, LinearProbe | None]":
    from encoder.embedder import Embedder  # torch is loaded by those who serve films, not by who imports this
    from encoder.probe import LinearProbe

    return Embedder.load(path, runtime=runtime), LinearProbe.load(probe_dir) if probe_dir else None


def _open(folder: Path) -> tuple[Retriever, FamiliarityGate]:
    collection = load_collection(folder)
    return Retriever(collection), FamiliarityGate.build(collection)


def _finder(
    mount: Mount,
    retriever: Retriever,
    gate: FamiliarityGate,
    embedder: "Embedder",
    batches: "BatchingEmbedder[StudyFilms]",
    probe: "LinearProbe | None",
) -> Finder:
    """Return what answers for one collection. Raises FingerprintMismatch, ArtefactError, EncoderError."""
    from service.reader import Reader

    try:
        retriever.require_fingerprint(embedder.fingerprint)
    except FingerprintMismatch as error:
        raise FingerprintMismatch(f"collection {mount.name!r}: {error}") from None
    written = datetime.fromtimestamp((mount.index_dir / MANIFEST).stat().st_mtime, UTC)
    return Finder(
        mount.name, retriever, batches, mount.image_root or _known_root(retriever),
        Reader(embedder, batches, retriever, gate, probe), load_map(mount.index_dir),
        written.isoformat(timespec="seconds"),
    )  # fmt: skip


def from_env(environ: Mapping[str, str] = os.environ) -> OpenAPI:
    """Return the application that PRECEDENT_INDEX, _ENCODER, _IMAGES, _PROBE and _HOSTS describe.

    _INDEX (`index/` or `main=index/,nih=nih-index/`), _IMAGES (`films/` or `nih=nih-films/`) and _HOSTS hold as many
    words as are needed, between commas. For a server that takes a factory: `gunicorn 'service.loader:from_env()'`.

    Raises:
        KeyError: PRECEDENT_INDEX or PRECEDENT_ENCODER is not set. MountError; and what `load` raises.
    """
    limits = Limits()
    if hosts := _words(environ.get("PRECEDENT_HOSTS")):
        limits = replace(limits, hosts=tuple(hosts))
    return load(
        parse_mounts(_words(environ["PRECEDENT_INDEX"]), _words(environ.get("PRECEDENT_IMAGES"))),
        Path(environ["PRECEDENT_ENCODER"]),
        limits,
        Path(environ["PRECEDENT_PROBE"]) if environ.get("PRECEDENT_PROBE") else None,
    )


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _known_root(retriever: Retriever) -> Path | None:
    root = retriever.manifest.get("image_root")
    return Path(root) if root else None
