"""One artefact of every kind on disk: how each is made, and what it answers, to be compared."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from export_files import save_export
from training_films import trainer_of

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.study import StudyFilms
from encoder.findings.probe import LinearProbe
from encoder.network.checkpoint import save_encoder
from encoder.runtime.runtimes import _kept, keep_model
from encoder.training.run_folder import RunFolder
from encoder.training.trainer import Trainer
from index.built.collection import build_collection, load_collection
from index.built.map import build_map, load_map
from index.errors import CollectionError
from index.export.shards import load_embeddings
from index.search.retriever import Retriever
from index.table.studies import load_studies, save_studies
from index.vectors import Embeddings
from service.errors import AuditError, TokensError

REFUSALS = (EncoderError, CollectionError, TokensError, AuditError)
"""What the command line tells in one line, and the service in its one body."""


@dataclass(frozen=True)
class World:
    """What artefacts are made of, and where."""

    folder: Path
    studies: pa.Table
    vectors: Embeddings
    embedder: Embedder


def of_index(folder: Path) -> Any:
    """Return what an index answers, and what it says of itself."""
    retriever = Retriever(load_collection(folder))
    ids = retriever._studies["study_id"].to_pylist()
    hits = [retriever.similar(one, 3, exact=exact).hits for one in ids[:5] for exact in (True, False)]
    said = [retriever.manifest.get(name) for name in ("kind", "rows", "fingerprint", "image_root", "recall_at_10")]
    return retriever._studies.to_pylist(), said, hits


def of_map(folder: Path) -> Any:
    """Return the points of a map and its axes."""
    found = load_map(folder)
    return found and (found.points.to_pylist(), found.plane.mean.tolist(), found.plane.axes.tolist(), found.fingerprint)


def of_export(folder: Path) -> Any:
    """Return the studies and vectors of an export."""
    table, vectors = load_embeddings(folder)
    return table.to_pylist(), vectors.tobytes()


def of_probe(folder: Path) -> Any:
    """Return what a probe says of some vectors, and where its thresholds lie."""
    probe = LinearProbe.load(folder)
    return probe.probabilities(np.eye(16, dtype=np.float32)).tobytes(), probe.points, probe.findings, probe.skipped


def films() -> list[StudyFilms]:
    """Return two studies as a network wants them."""
    rng = np.random.default_rng(1)
    return [StudyFilms(film, film[::-1].copy()) for film in rng.integers(0, 256, (2, 64, 64), np.uint8)]


def of_encoder(folder: Path) -> Any:
    """Return the vectors of an encoder and its fingerprint."""
    embedder = Embedder.load(folder / "encoder.safetensors", device="cpu")
    return embedder.fingerprint, embedder.embed(films()).tobytes(), embedder.preprocessing


def of_runtime(folder: Path) -> Any:
    """Return the conversion that was kept. Raises EncoderError where it is to be made anew."""
    kept = _kept(folder / "f-0-fp32.xml", 1 << 20)
    if kept is None:
        raise EncoderError("expected a conversion as it was written, got none; it is made anew")
    return [str(one.partial_shape) for one in kept.inputs + kept.outputs], len(kept.get_ops())


@cache
def _trainer() -> Trainer:
    """Return a trainer that one run after another is put into."""
    return trainer_of([])


def of_run(folder: Path) -> Any:
    """Return where a run goes on from, and the vectors of its best encoder."""
    trainer = _trainer()
    assert RunFolder(folder, trainer.recipe, {"split": "a"}).resume(trainer)
    state = {name: value.numpy().tobytes() for name, value in trainer.network.state_dict().items()}
    return state, trainer.progress, of_encoder(folder)


def of_studies(folder: Path) -> Any:
    """Return the rows of a studies table."""
    return load_studies(folder / "studies.parquet").to_pylist()


def make_export(world: World) -> list[str]:
    save_export(world.folder, world.studies, world.vectors)
    return ["shard-00000.parquet", "_manifest.json"]


def make_index(world: World, kind: str = "ivf") -> list[str]:
    export = world.folder / "export"
    if not export.exists():
        save_export(export, world.studies, world.vectors)
    manifest = build_collection(export, world.folder, kind=kind).manifest
    return [*(entry["name"] for entry in manifest["files"].values()), "manifest.json"]


def make_map(world: World) -> list[str]:
    if not (world.folder / "manifest.json").exists():
        make_index(world, "flat")
    build_map(world.folder)
    return [next(world.folder.glob("map-*.parquet")).name, "map.json"]


def make_probe(world: World) -> list[str]:
    targets = (world.vectors[:, :2] > 0).astype(np.float32)
    folds = np.arange(len(targets)) % 3
    probe = LinearProbe.fit(world.vectors, targets, ["Edema", "Fracture"], folds=folds, fingerprint="f" * 64)
    probe.calibrated(world.vectors, targets).save(world.folder)
    return ["probe.safetensors", "probe.json"]


def make_encoder(world: World) -> list[str]:
    save_encoder(world.folder / "encoder.safetensors", world.embedder.encoder, world.embedder.preprocessing)
    return ["encoder.safetensors"]


def tiny_model() -> Any:
    """Return an OpenVINO model with weights, which takes no conversion."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    films = openvino.opset13.parameter([-1, 64], np.float32)
    weights = openvino.opset13.constant(np.eye(64, dtype=np.float32))
    return openvino.Model([openvino.opset13.matmul(films, weights, False, False)], [films])


def make_runtime(world: World) -> list[str]:
    if not keep_model(tiny_model(), world.folder / "f-0-fp32.xml"):
        raise OSError("the conversion could not be kept")
    return ["f-0-fp32.xml", "f-0-fp32.bin", "f-0-fp32.sha256"]


def make_run(world: World) -> list[str]:
    trainer = trainer_of([])
    trainer.progress.history.append({"epoch": 1, "loss": 0.5})
    RunFolder(world.folder, trainer.recipe, {"split": "a"}).save(trainer, best=True)
    return ["encoder.safetensors", "last.safetensors", "recipe.toml", "inputs.json"]


def make_studies(world: World) -> list[str]:
    save_studies(world.studies, world.folder / "studies.parquet")
    return ["studies.parquet"]


KINDS: dict[str, tuple[Callable[[World], list[str]], Callable[[Path], Any]]] = {
    "studies": (make_studies, of_studies),
    "encoder": (make_encoder, of_encoder),
    "runtime": (make_runtime, of_runtime),
    "export": (make_export, of_export),
    "index": (make_index, of_index),
    "map": (make_map, of_map),
    "probe": (make_probe, of_probe),
    "run": (make_run, of_run),
}
