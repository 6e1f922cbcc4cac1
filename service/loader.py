"""Where an index and an encoder meet, and the only place of the service that reads the environment.

Whatever is wrong with the pair is refused here, before the first request.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flask_openapi3 import OpenAPI

from index.collection import load_collection
from index.projection import load_map
from index.retriever import Retriever
from service import maps
from service.app import create_app
from service.limits import Limits


def load(
    index_dir: Path,
    encoder_path: Path,
    images: Path | None = None,
    limits: Limits | None = None,
    probe_dir: Path | None = None,
    runtime: str = "torch",
) -> OpenAPI:
    """Return the application over an index folder and the encoder that made its vectors.

    Args:
        images: the folder that the studies' paths are relative to; None takes the one named in the index.
        probe_dir: the probe that predictions come from; None leaves them to the neighbours.
        runtime: what runs the encoder, of `encoder.runtime.RUNTIMES`.

    Raises:
        FingerprintMismatch: the index was built with another encoder.
        ArtefactError, CheckpointError: a file that is missing, truncated or changed.
    """
    from encoder.embedder import Embedder  # torch is loaded by those who serve films, not by who imports this
    from encoder.probe import LinearProbe
    from service.reader import Reader

    collection = load_collection(index_dir)
    retriever = Retriever(collection)
    embedder = Embedder.load(encoder_path, runtime=runtime)
    retriever.require_fingerprint(embedder.fingerprint)
    reader = Reader(embedder, collection, LinearProbe.load(probe_dir) if probe_dir else None)
    app = create_app(retriever, embedder, images or _known_root(retriever), limits or Limits(), reader)
    app.extensions[maps.EXTENSION] = {index_dir.name: load_map(index_dir)}
    return app


def from_env(environ: Mapping[str, str] = os.environ) -> OpenAPI:
    """Return the application that PRECEDENT_INDEX, _ENCODER, _IMAGES, _PROBE and _HOSTS (comma-separated) describe.

    For a server that takes a factory, such as `gunicorn 'service.loader:from_env()'`.

    Raises:
        KeyError: PRECEDENT_INDEX or PRECEDENT_ENCODER is not set; and what `load` raises.
    """
    images = environ.get("PRECEDENT_IMAGES")
    limits = Limits()
    if hosts := environ.get("PRECEDENT_HOSTS"):
        limits = replace(limits, hosts=tuple(name.strip() for name in hosts.split(",")))
    return load(
        Path(environ["PRECEDENT_INDEX"]),
        Path(environ["PRECEDENT_ENCODER"]),
        Path(images) if images else None,
        limits,
        Path(environ["PRECEDENT_PROBE"]) if environ.get("PRECEDENT_PROBE") else None,
    )


def _known_root(retriever: Retriever) -> Path | None:
    root = retriever.manifest.get("image_root")
    return Path(root) if root else None
