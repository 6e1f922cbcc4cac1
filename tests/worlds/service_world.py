"""A collection of four studies in the plane, with similarities known by hand, and films that name a vector.

The fake embedder reads a film's mean brightness: black is the x axis, white the y axis.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from flask import Flask
from flask.testing import FlaskClient
from flask_openapi3 import OpenAPI

from encoder.errors import ImageError, NotAnImage
from encoder.films.image import READING
from index.built.collection import Collection, save_collection
from index.built.vector_index import VectorIndex
from index.search.retriever import Retriever
from index.table.studies import FINDINGS, Study, as_studies, studies_schema
from service.app import create_app
from service.audit.log import AuditLog
from service.audit.trail import AuditTrail
from service.guard.access import AccessControl
from service.guard.tokens import TokenFile
from service.limits import DEFAULT_LIMITS, Limits
from service.served.mounted import Mounted, MountedCollection
from service.state import State, state_of

FINGERPRINT = "f" * 64
ANGLES = {
    "patient00001/study1": 0,
    "patient00001/study2": 10,
    "patient00002/study1": 20,
    "patient00003/study1": 90,
}
"""Degrees from the x axis: the cosine of a difference is the similarity."""


class FakeEmbedder:
    """Films to a unit vector of the plane, by the brightness of the first film."""

    fingerprint = FINGERPRINT
    embedding_dim = 2

    def embed_study(
        self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Return (2,) at an angle of 0 (black) to 90 degrees (white)."""
        view, film = ("frontal", frontal) if frontal is not None else ("lateral", lateral)
        picture = cv2.imdecode(np.frombuffer(film or b"\0", np.uint8), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise NotAnImage(f"{view!r}: expected a JPEG, PNG or DICOM file, got {len(film or b'')} bytes")
        if min(picture.shape) < 32:
            raise ImageError(f"{view!r}: expected at least 32 pixels a side, got {picture.shape}")
        angle = math.radians(90 * picture.mean() / 255)
        return np.array([math.cos(angle), math.sin(angle)], dtype=np.float32)


def film(brightness: int, side: int = 64) -> bytes:
    """Return a PNG of one brightness but for one corner, which keeps it from being constant."""
    picture = np.full((side, side), brightness, np.uint8)
    picture[:2, :2] = 255 - brightness
    return cv2.imencode(".png", picture)[1].tobytes()


def study_row(study_id: str, **changes: Any) -> dict[str, Any]:
    """Return one row of the table."""
    patient = study_id.split("/")[0]
    row = vars(Study(study_id, patient, f"{study_id}/view1_frontal.png", sex="Female", age=60.0, projection="PA"))
    row = {name: value for name, value in row.items() if name not in ("findings", "extra")}
    return row | dict.fromkeys(FINDINGS) | {"Pneumonia": 1, "Edema": -1, "Fracture": 0, "Etiology": None} | changes


def build_retriever(ending: str = "") -> Retriever:
    """Return the real retriever over the four studies, each id with the same ending."""
    rows = [study_row(study_id + ending) for study_id in ANGLES]
    rows[2] |= {"lateral_path": f"patient00002/study1{ending}/view2_lateral.png", "sex": "Male", "Etiology": "virus"}
    rows[3] |= {"age": None, "sex": None, "projection": None}
    schema = studies_schema([pa.field("Etiology", pa.string())])
    angles = np.radians(list(ANGLES.values()))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    manifest = {"fingerprint": FINGERPRINT, "kind": "flat", "recall_at_10": 1.0, "image_root": "/srv/secret"}
    studies = as_studies(pa.Table.from_pylist(rows, schema))
    return Retriever(Collection(manifest, studies, VectorIndex.build(vectors, "flat")))


def save_films(root: Path, ending: str = "") -> None:
    """Write the frontal film of each study but the last, whose film is lost."""
    for study_id in list(ANGLES)[:-1]:
        folder = root / (study_id + ending)
        folder.mkdir(parents=True)
        (folder / "view1_frontal.png").write_bytes(film(90))


def build_mounted(name: str = "main", **fields: Any) -> MountedCollection:
    """Return what answers for the four studies, but for the fields given."""
    return MountedCollection(name, **({"retriever": build_retriever(), "embedder": FakeEmbedder()} | fields))


def app_over(*collections: MountedCollection, limits: Limits = DEFAULT_LIMITS, **parts: Any) -> OpenAPI:
    """Return the application over collections, with the parts given."""
    return create_app(State.of(Mounted(collections), limits, **parts))


def build_app(image_root: Path | None = None, **limits: Any) -> OpenAPI:
    """Return the application over the four studies."""
    return app_over(build_mounted(image_root=image_root), limits=Limits(**limits))


def with_tokens(app: Flask, path: Path) -> OpenAPI:
    """Return an application of the same parts that asks for the tokens of a file."""
    state = state_of(app)
    return create_app(replace(state, access=AccessControl.of(state.limits, TokenFile(path))))


def with_log(app: Flask, log: AuditLog) -> OpenAPI:
    """Return an application of the same parts that writes down every call."""
    return create_app(replace(state_of(app), trail=AuditTrail(log)))


def build_client(image_root: Path | None = None, **limits: Any) -> FlaskClient:
    """Return a client of the application over the four studies."""
    return build_app(image_root, **limits).test_client()


def save_index(folder: Path, ending: str = "") -> Path:
    """Write the four studies of `service_world` as an index."""
    whole = build_retriever(ending)
    folder.mkdir()
    vectors = np.stack([whole.embedding(one + ending) for one in ANGLES])
    facts = {"fingerprint": FINGERPRINT, "image_root": None, "reading": READING}
    save_collection(folder, VectorIndex.build(vectors), whole._studies, None, **facts)
    return folder
