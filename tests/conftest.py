"""Fixtures from small to large; every random number comes from `rng`."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import settings
from unit_vectors_world import DIM, retriever_of

from encoder.embedder import Embedder
from encoder.films.preprocess import Preprocessing
from encoder.network.config import EncoderConfig
from encoder.network.model import DualEfficientNetEncoder
from index.search.retriever import Retriever
from index.table.studies import FINDINGS, studies_schema
from index.vectors import Embeddings

if TYPE_CHECKING:
    from page_world import Reader
    from postgres_world import Postgres

    from index.milvus.address import MilvusAddress

settings.register_profile("untimed", deadline=None)  # a busy machine decides no test
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real films, beside the project or at $PRECEDENT_DATA."""
    folder = Path(os.environ.get("PRECEDENT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real films at {folder}; set PRECEDENT_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def shared_weights(shared_data: Path) -> Path:
    """Return the ImageNet weights of tf_efficientnetv2_b0 beside the real films."""
    path = shared_data.parent / "weights" / "tf_efficientnetv2_b0_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"no backbone weights at {path}")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    """Return the test's own source of chance."""
    return np.random.default_rng(20240607)


@pytest.fixture
def unit_vectors(rng: np.random.Generator) -> Embeddings:
    """Return 200 unit vectors of 16 dimensions."""
    values = rng.normal(size=(200, DIM)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def tiny_encoder() -> DualEfficientNetEncoder:
    """Return a dual encoder over timm's smallest EfficientNet, random weights, in evaluation mode."""
    torch.manual_seed(0)
    return DualEfficientNetEncoder(EncoderConfig(backbone="test_efficientnet", embedding_dim=256)).eval()


@pytest.fixture(scope="session")
def tiny_embedder(tiny_encoder: DualEfficientNetEncoder) -> Embedder:
    """Return the NumPy face of `tiny_encoder` at 64 pixels."""
    return Embedder(tiny_encoder, Preprocessing(size=64), device="cpu")


@pytest.fixture
def studies(rng: np.random.Generator) -> pa.Table:
    """Return 200 studies of 80 patients, with labels of every kind and an extra column."""
    patients = rng.integers(80, size=200)
    rows = [
        {
            "study_id": f"patient{patient:05d}/study{number}",
            "patient_id": f"patient{patient:05d}",
            "frontal_path": f"train/{number}.jpg",
            "lateral_path": f"train/{number}l.jpg" if number % 3 else None,
            "other_paths": [],
            "projection": ["AP", "PA", None][number % 3],
            "sex": ["Female", "Male", "Unknown"][int(rng.integers(3))],
            "age": None if number % 10 == 0 else float(rng.integers(1, 90)),
            "split": "train",
            "Etiology": ["virus", "bacteria", None][int(rng.integers(3))],
            **{name: [1, 0, -1, None][int(rng.integers(4))] for name in FINDINGS},
        }
        for number, patient in enumerate(patients)
    ]
    return pa.Table.from_pylist(rows, studies_schema([pa.field("Etiology", pa.string())]))


@pytest.fixture
def retriever(studies: pa.Table, unit_vectors: Embeddings) -> Retriever:
    """Return an exact retriever over `studies` and `unit_vectors`, row for row."""
    return retriever_of(studies, unit_vectors)


@pytest.fixture(scope="session")
def milvus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the Milvus Lite file that tests share, for to open one costs a second."""
    return tmp_path_factory.mktemp("milvus")


@pytest.fixture
def address(milvus_folder: Path, request: pytest.FixtureRequest) -> "MilvusAddress":
    """Return the address of a test's own collection in that file."""
    from milvus_world import address_in

    return address_in(milvus_folder, f"c{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}")


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """Yield the PostgreSQL server that tests share which leave it running."""
    from postgres_world import postgres_server  # skips where there is none

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def further() -> list[str]:
    """Return the collections served beside the page's own, as NAME=INDEX; a module may have some."""
    return []


@pytest.fixture(scope="session")
def usual_visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Reader"]:
    """Yield the reader whom every module shares that has no collections of its own."""
    from page_world import at_the_page  # skips where there is no selenium

    with at_the_page(tmp_path_factory.getbasetemp()) as reader:
        yield reader


@pytest.fixture(scope="module")
def visitor(
    tmp_path_factory: pytest.TempPathFactory, further: list[str], request: pytest.FixtureRequest
) -> Iterator["Reader"]:
    """Yield a reader at a real Chromium who looks at a real server, with what the browser kept forgotten."""
    if not further:
        reader: Reader = request.getfixturevalue("usual_visitor")
        reader.forget()
        yield reader
        return
    from page_world import at_the_page  # skips where there is no selenium

    with at_the_page(tmp_path_factory.getbasetemp(), *further) as reader:
        yield reader


@pytest.fixture
def reader(visitor: "Reader") -> Iterator["Reader"]:
    """Yield the reader, in front of a page whose console must stay silent; what the page before still loads is given up."""
    visitor.chrome.get("about:blank")
    kept = {"origin": visitor.address, "storageTypes": "local_storage"}  # how the reader before liked films to hang
    visitor.chrome.execute_cdp_cmd("Storage.clearDataForOrigin", kept)
    visitor.screen(1280, 800)
    visitor.complaints()
    yield visitor
    assert visitor.complaints() == []
